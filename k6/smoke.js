// Submits tasks to `echo` and `cache-reader` over HTTP, follows each to its end, and checks what the answers mean.
// Fails (exit status 99) where a single answer is missing or wrong. How to run it: k6/README.md.

import exec from 'k6/execution';

import { expectOutput, requireReady, run } from './lib/client.js';
import { CACHE_READER, expectValue } from './lib/work.js';

export const options = {
  vus: Number(__ENV.VUS || 5),
  duration: __ENV.DURATION || '10s',
  thresholds: {
    errors: ['rate==0'],
    tasks_lost: ['count==0'],
    wrong_answers: ['count==0'],
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
  },
};

export function setup() {
  requireReady();
  // Other runs have warmed their own keys.
  return { run: `${Date.now()}` };
}

export default function smoke(data) {
  const text = `hello from ${exec.vu.idInTest}, time ${exec.vu.iterationInScenario}`;
  const echo = run('echo', text, { contentType: 'text/plain' });
  expectOutput(echo, {
    'echo answered what it was sent': (output) => output === text,
    'echo succeeded at once': () => echo.attempt === 1,
  });

  const key = `smoke:${data.run}:${exec.vu.idInTest}:${exec.vu.iterationInScenario}`;
  const first = run(CACHE_READER, { key });
  expectValue(first, key);
  expectOutput(first, { 'a first read misses the cache': (output) => output.hit === false });
  const second = run(CACHE_READER, { key });
  expectValue(second, key);
  expectOutput(second, { 'a second read hits the cache': (output) => output.hit === true });
}
