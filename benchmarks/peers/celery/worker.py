"""What a Python team would write: Celery, with results sent back and each task acknowledged after its work.

    AMQP_URL=amqp://… celery --app worker worker --queues QUEUE …

The settings are those that Celery's own guide gives for tasks that must not be lost, on a quorum queue.
"""

import os

from celery import Celery
from kombu import Queue

app = Celery("peer", broker=os.environ["AMQP_URL"], backend="rpc://")
app.conf.update(
    task_queues=[Queue(os.environ["PEER_QUEUE"], durable=True, queue_arguments={"x-queue-type": "quorum"})],
    task_acks_late=True,
    worker_prefetch_multiplier=128,
    # Results as durable as the others': they would be lost with the broker otherwise.
    result_persistent=True,
    broker_transport_options={"confirm_publish": True},
    # A quorum queue has no prefetch of a whole channel.
    worker_detect_quorum_queues=True,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
)


@app.task(name="peer.echo")
def echo(body):
    return body
