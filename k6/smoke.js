// Submits tasks to `echo` and `cache-reader` over HTTP, follows each to its end, and checks what the answers mean.
// Fails (exit status 99) where a single answer is missing or wrong. How to run it: k6/README.md.

import { check, fail, sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter, Trend } from 'k6/metrics';

const url = (__ENV.AGENT_HOST_URL || 'http://127.0.0.1:8080').replace(/\/+$/, '');
const token = __ENV.AGENT_HOST_SUBMIT_TOKEN;

// A task of these agents takes milliseconds; one that takes this long is lost.
const END_MAX_MS = 30_000;
// Between two looks at a task.
const LOOK_EVERY_S = 0.02;

const errors = new Counter('errors');
const taskDuration = new Trend('task_duration', true);

export const options = {
  vus: Number(__ENV.VUS || 5),
  duration: __ENV.DURATION || '10s',
  thresholds: {
    errors: ['count==0'],
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
  },
};

function headers(contentType) {
  const headers = { 'Content-Type': contentType };
  if (token) {
    headers.Authorization = `Bearer ${token}`;
  }
  return headers;
}

// Every request is named by its route: by its URL, each task would be a series of its own.
function named(route, contentType) {
  return { headers: headers(contentType), tags: { name: route } };
}

export function setup() {
  const ready = http.get(`${url}/readyz`);
  if (ready.status !== 200) {
    fail(`no host is ready at ${url} (${ready.status || ready.error}); start one, or set AGENT_HOST_URL`);
  }
  // Other runs have warmed their own keys.
  return { run: `${Date.now()}` };
}

// Hands a task in, waits for its end, and returns its record; undefined where there is none.
function run(agent, contentType, body) {
  const begun = Date.now();
  const route = `POST /v1/agents/${agent}/tasks`;
  const accepted = http.post(`${url}/v1/agents/${agent}/tasks`, body, named(route, contentType));
  if (!check(accepted, { 'accepted with 202': (answer) => answer.status === 202 })) {
    console.error(`${route}: ${accepted.status} ${accepted.body || accepted.error}`);
    return undefined;
  }
  const { id } = accepted.json();
  check(accepted, {
    'Location names the task': (answer) => answer.headers.Location === `/v1/tasks/${id}`,
  });
  while (Date.now() - begun < END_MAX_MS) {
    const answer = http.get(`${url}/v1/tasks/${id}`, named('GET /v1/tasks/{id}', 'application/json'));
    if (answer.status !== 200) {
      console.error(`task ${id}: ${answer.status} ${answer.body || answer.error}`);
      return undefined;
    }
    const task = answer.json();
    if (['succeeded', 'failed', 'cancelled'].includes(task.status)) {
      // By the host's clock: ours looks only now and then.
      taskDuration.add(task.finished_at - task.enqueued_at, { agent });
      return task;
    }
    sleep(LOOK_EVERY_S);
  }
  console.error(`task ${id} did not end within ${END_MAX_MS} ms`);
  return undefined;
}

// Checks a task's record. What is wrong, or missing, counts as an error.
function expect(task, checks) {
  if (!check(task, checks)) {
    errors.add(1);
    if (task) {
      console.error(`unexpected: ${JSON.stringify(task)}`);
    }
  }
}

const succeeded = (task) => task !== undefined && task.status === 'succeeded';
const output = (task) => (succeeded(task) ? task.output : {});

export default function smoke(data) {
  const text = `hello from ${exec.vu.idInTest}, time ${exec.vu.iterationInScenario}`;
  expect(run('echo', 'text/plain', text), {
    'echo succeeded at once': (task) => succeeded(task) && task.attempt === 1,
    'echo answered what it was sent': (task) => succeeded(task) && task.output === text,
  });

  const key = `smoke:${data.run}:${exec.vu.idInTest}:${exec.vu.iterationInScenario}`;
  const request = JSON.stringify({ key });
  const isValue = (task) => output(task).key === key && output(task).value === `the value of ${key}`;
  expect(run('cache-reader', 'application/json', request), {
    'a first read gives the value': isValue,
    'a first read misses the cache': (task) => output(task).hit === false,
  });
  expect(run('cache-reader', 'application/json', request), {
    'a second read gives the value': isValue,
    'a second read hits the cache': (task) => output(task).hit === true,
  });
}
