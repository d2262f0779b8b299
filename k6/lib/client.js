// The host's HTTP API: handing tasks in, following them to their end, and judging what they answer.

import { check, fail, sleep } from 'k6';
import http from 'k6/http';

import {
  endToEndLatency,
  enqueueLatency,
  errors,
  messagesPerS,
  processingLatency,
  tasksAccepted,
  tasksFinished,
  tasksLost,
  wrongAnswers,
} from './metrics.js';

export const url = (__ENV.AGENT_HOST_URL || 'http://127.0.0.1:8080').replace(/\/+$/, '');
const token = __ENV.AGENT_HOST_SUBMIT_TOKEN;

// A task of the sample agents takes milliseconds, and a queue of thousands some seconds; one that takes this long is lost.
const END_MAX_MS = 120_000;
// The pause before a task is looked at again grows from the first to the second, so that a long queue is not asked to death.
const LOOK_FIRST_S = 0.02;
const LOOK_LAST_S = 1;
// Looks at tasks of a batch that are under way together.
const LOOKS_TOGETHER = 100;
// Refusals that each user tells of: some are enough to know why, thousands would hide it.
const ERRORS_SHOWN_MAX = 3;
const TERMINAL = ['succeeded', 'failed', 'cancelled'];

export const JSON_TYPE = 'application/json';

// Every request is named by its route: by its URL, each task would be a series of its own.
function named(route, contentType, more = {}) {
  const headers = { 'Content-Type': contentType, ...more };
  if (token) {
    headers.Authorization = `Bearer ${token}`;
  }
  return { headers, tags: { name: route }, timeout: '60s' };
}

export function requireReady() {
  const ready = http.get(`${url}/readyz`, { tags: { name: 'GET /readyz' } });
  if (ready.status !== 200) {
    fail(`no host is ready at ${url} (${ready.status || ready.error}); start one, or set AGENT_HOST_URL`);
  }
}

function refused(route, answer) {
  errors.add(true);
  if (typeof __ITER === 'undefined' || __ITER < ERRORS_SHOWN_MAX) {
    console.error(`${route}: ${answer.status} ${answer.body || answer.error}`);
  }
}

// A submission and its answer; undefined where it was not accepted, which counts as an error.
function post(agent, body, contentType, more) {
  const route = `POST /v1/agents/${agent}/tasks`;
  const text = contentType === JSON_TYPE ? JSON.stringify(body) : body;
  const answer = http.post(`${url}/v1/agents/${agent}/tasks`, text, { ...named(route, contentType), ...more });
  if (answer.status !== 202) {
    refused(route, answer);
    return undefined;
  }
  enqueueLatency.add(answer.timings.duration);
  tasksAccepted.add(1);
  return answer;
}

// Hands a task in; undefined where it was not accepted, which counts as an error.
export function submit(agent, body, contentType = JSON_TYPE) {
  const answer = post(agent, body, contentType, {});
  if (!answer) {
    return undefined;
  }
  const { id } = answer.json();
  expectAnswer({ Location: answer.headers.Location, id }, {
    'Location names the task': (seen) => seen.Location === `/v1/tasks/${seen.id}`,
  });
  return { id, agent, confirmedAfterMs: answer.timings.waiting };
}

// Hands a task in that nobody will ask after; whether it was accepted.
export const submitOnly = (agent, body) => post(agent, body, JSON_TYPE, { responseType: 'none' }) !== undefined;

function ended(accepted, task) {
  tasksFinished.add(1);
  const endToEndMs = task.finished_at - task.enqueued_at;
  endToEndLatency.add(endToEndMs, { agent: accepted.agent });
  if (accepted.confirmedAfterMs !== undefined) {
    processingLatency.add(Math.max(0, endToEndMs - accepted.confirmedAfterMs), { agent: accepted.agent });
  }
  return task;
}

function lost(accepted, why) {
  tasksLost.add(1);
  errors.add(true);
  console.error(`task ${accepted.id} of ${accepted.agent}: ${why}`);
}

// Waits for an accepted task's end and returns its record; undefined where it is lost, which counts as an error.
export function follow(accepted) {
  const begun = Date.now();
  const route = 'GET /v1/tasks/{id}';
  let pause = LOOK_FIRST_S;
  let last = '';
  while (Date.now() - begun < END_MAX_MS) {
    const answer = http.get(`${url}/v1/tasks/${accepted.id}`, named(route, JSON_TYPE));
    if (answer.status === 200) {
      const task = answer.json();
      if (TERMINAL.includes(task.status)) {
        return ended(accepted, task);
      }
      last = task.status;
    } else {
      last = `${answer.status} ${answer.body || answer.error}`;
    }
    sleep(pause);
    pause = Math.min(LOOK_LAST_S, pause * 1.5);
  }
  return lost(accepted, `no end within ${END_MAX_MS} ms; last seen: ${last}`);
}

// Hands a task in and follows it, after a pause in which a quick one ends.
export function run(agent, body, { contentType = JSON_TYPE, pauseS = LOOK_FIRST_S } = {}) {
  const accepted = submit(agent, body, contentType);
  if (!accepted) {
    return undefined;
  }
  sleep(pauseS);
  return follow(accepted);
}

// Hands in one body a line; gives the ids in the same order.
export function submitBatch(agent, bodies) {
  const route = `POST /v1/agents/${agent}/tasks:batch`;
  const text = bodies.map((body) => JSON.stringify(body)).join('\n');
  const answer = http.post(`${url}/v1/agents/${agent}/tasks:batch`, text, named(route, 'application/x-ndjson'));
  if (answer.status !== 202) {
    refused(route, answer);
    return [];
  }
  const { ids } = answer.json();
  expectAnswer(ids, { 'a batch has an id for each line': (ids) => ids.length === bodies.length });
  tasksAccepted.add(ids.length);
  return ids.map((id) => ({ id, agent }));
}

// Follows the tasks of a batch to their ends, many looks at once; in the same order.
export function followAll(batch) {
  const tasks = [];
  for (let at = 0; at < batch.length; at += LOOKS_TOGETHER) {
    const part = batch.slice(at, at + LOOKS_TOGETHER);
    const looks = part.map(({ id }) => ['GET', `${url}/v1/tasks/${id}`, null, named('GET /v1/tasks/{id}', JSON_TYPE)]);
    http.batch(looks).forEach((answer, index) => {
      const task = answer.status === 200 ? answer.json() : {};
      tasks.push(TERMINAL.includes(task.status) ? ended(part[index], task) : follow(part[index]));
    });
  }
  return tasks;
}

// Hands in many tasks at once and follows them all; notes how many ended a second.
export function burst(agent, bodies) {
  const tasks = followAll(submitBatch(agent, bodies));
  const found = tasks.filter((task) => task);
  const first = found.reduce((least, task) => Math.min(least, task.enqueued_at), Infinity);
  const last = found.reduce((most, task) => Math.max(most, task.finished_at), 0);
  if (found.length > 0) {
    messagesPerS.add((found.length * 1000) / Math.max(1, last - first));
  }
  return tasks;
}

// A task that is to be answered at once, over one request: `Prefer: wait`.
export function ask(agent, body) {
  const route = `POST /v1/agents/${agent}/tasks (wait)`;
  const waiting = named(route, JSON_TYPE, { Prefer: 'wait=60' });
  const answer = http.post(`${url}/v1/agents/${agent}/tasks`, JSON.stringify(body), waiting);
  if (answer.status === 200) {
    tasksAccepted.add(1);
    tasksFinished.add(1);
  }
  return { output: answer.status === 200 ? answer.json() : undefined, tookMs: answer.timings.duration, answer };
}

// Judges an answer that came. What is wrong counts, and fails the run.
export function expectAnswer(answer, checks) {
  const right = check(answer, checks);
  if (!right) {
    wrongAnswers.add(1);
    console.error(`unexpected: ${JSON.stringify(answer)}`);
  }
  return right;
}

// Judges a task's end: one that was not refused, nor lost, must say what it should. A failed task has an error, which a
// profile may allow in small numbers; a wrong output none may.
export function expectOutput(task, checks) {
  if (!task) {
    return false;
  }
  if (task.status !== 'succeeded') {
    errors.add(true);
    console.error(`task ${task.id} of ${task.agent}: ${task.status} ${JSON.stringify(task.failure)}`);
    return false;
  }
  const right = expectAnswer(task.output, checks);
  errors.add(!right);
  return right;
}
