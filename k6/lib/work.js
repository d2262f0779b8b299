// The requests that the sample agents are sent, and what they must answer.

import { ask, expectAnswer, expectOutput, run, submitOnly } from './client.js';
import { errors } from './metrics.js';
import { begin } from './monitor.js';

export const TASK_WORKER = 'task-worker';
export const CACHE_READER = 'cache-reader';
export const CRUD = 'crud';
export const VOTER = 'voter';

// A unit of work that no other request of this run has: the answer must be that it was done, not that it was there.
export const workOf = (name) => ({ task_id: name, kind: 'email', payload: { to: `${name}@example.com`, items: [1, 2] } });

export const expectProcessed = (task, name) =>
  expectOutput(task, {
    'work is done once, and is the work that was sent': (output) =>
      output.task_id === name && output.status === 'processed' && output.units === 3 && output.cost === 6,
  });

export const work = (name, options) => expectProcessed(run(TASK_WORKER, workOf(name), options), name);

// Hands work in and leaves it: that it ends shows in what the host counts.
export function handIn(name) {
  if (submitOnly(TASK_WORKER, workOf(name))) {
    errors.add(false);
  }
}

export const expectValue = (task, key) =>
  expectOutput(task, {
    'a read gives the value of its key': (output) => output.key === key && output.value === `the value of ${key}`,
  });

// Operations on rows, drawn as `mix` says, in percent. Each with a row that it may meet or not.
export function crudRequest(mix, at, ids) {
  let drawn = at % 100;
  for (const [op, percent] of Object.entries(mix)) {
    drawn -= percent;
    if (drawn < 0) {
      return op === 'insert' ? { op, name: `row ${at}`, value: at } : { op, id: ids[at % ids.length] };
    }
  }
  return { op: 'select' };
}

export const expectRows = (task, request) =>
  expectOutput(task, {
    'the operation is the one that was sent': (output) => output.op === request.op,
    'an insert meets its row, others at most one': (output) =>
      request.op === 'insert' ? output.rows === 1 && output.item.value === request.value : output.rows <= 1,
  });

// The same over one request.
export function askForRows(request) {
  const { output, answer } = ask(CRUD, request);
  const status = answer.status === 200 ? 'succeeded' : `answered ${answer.status}`;
  expectRows({ id: 'asked for', agent: CRUD, status, output, failure: answer.body || answer.error }, request);
}

// Asks an agent before or after the load, over one request.
export function answerOf(agent, body) {
  const { output, tookMs, answer } = ask(agent, body);
  expectAnswer(answer.status, { 'a question before or after the load is answered': (status) => status === 200 });
  return { output: output || {}, tookMs };
}

const firstOf = {
  [TASK_WORKER]: (run) => workOf(`first:${run}`),
  [CACHE_READER]: (run) => ({ key: `first:${run}` }),
  [CRUD]: () => ({ op: 'select' }),
};

// The start of a run, once each agent has answered: a queue that has just been made takes no task for 1.5 s, and a load that
// begins with it would measure that.
export function beginAnswered(agents) {
  const data = begin(agents);
  agents.forEach((agent) => answerOf(agent, firstOf[agent](data.run)));
  return data;
}
