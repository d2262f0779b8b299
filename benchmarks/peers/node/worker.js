// What a Node.js team would write: consume, work in process, publish the result, wait for its confirm, acknowledge.
//
//     AMQP_URL=amqp://… node worker.js QUEUE
'use strict';

const amqp = require('amqplib');

// As the other workers': the prefetch that RabbitMQ's guide calls the sweet spot.
const PREFETCH = 256;

async function main(queue) {
  const publishing = await amqp.connect(process.env.AMQP_URL);
  const consuming = await amqp.connect(process.env.AMQP_URL);
  const results = await publishing.createConfirmChannel();
  const tasks = await consuming.createChannel();
  await tasks.prefetch(PREFETCH);
  await tasks.consume(queue, (task) => {
    if (task === null) return;
    const { replyTo, correlationId } = task.properties;
    const options = { persistent: true, mandatory: true, contentType: 'application/octet-stream', correlationId };
    results.sendToQueue(replyTo, task.content, options, (error) => {
      // A task whose result was not taken stays with the broker.
      if (!error) tasks.ack(task);
    });
  });
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
