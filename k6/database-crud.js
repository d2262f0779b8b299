// C, CRUD: operations on rows at a growing rate, in the reference's mix; then many inserts at once.

import { Trend } from 'k6/metrics';
import exec from 'k6/execution';

import { reference } from './lib/baseline.js';
import { burst, expectOutput, run } from './lib/client.js';
import { measure } from './lib/metrics.js';
import { begin, end } from './lib/monitor.js';
import { plan, summary } from './lib/plan.js';
import { arrivals, count, seconds } from './lib/profile.js';
import { CRUD, answerOf, askForRows, crudRequest, expectRows } from './lib/work.js';

export { monitor } from './lib/monitor.js';

const { mix_percent: mix, operations_per_s: rate, inserts } = reference('c-crud').profile;
// The reference does not say how long it took from few operations to many, nor how long it stayed there.
const RAMP_S = seconds(180);
const HOLD_S = seconds(60);
const PAUSE_S = 5;
const INSERTS_MAX_S = 120;
// Whoever works on rows waits for the answer (`Prefer: wait`), which is one request. Every tenth operation is handed in and looked at
// instead, since only a task's record says how long it ran.
const FOLLOWED_EVERY = 10;
// Rows that are there before the load begins, to be read and written.
const ROWS = 200;

// The run of an operation inside its sandbox: instantiation, its statement, the answer. By the host's clock.
const operations = Object.fromEntries(Object.keys(mix).map((op) => [op, new Trend(`${op}_run`, true)]));

const measures = {
  insert_p95_ms: measure('insert_run', 'p(95)'),
  select_p95_ms: measure('select_run', 'p(95)'),
  update_p95_ms: measure('update_run', 'p(95)'),
  delete_p95_ms: measure('delete_run', 'p(95)'),
  // Each task is one transaction.
  operations_per_s: measure('messages_per_s', 'p(50)'),
  transactions_per_s: measure('messages_per_s', 'p(50)'),
  end_to_end_p95_ms: measure('end_to_end_latency', 'p(95)'),
  errors_percent: measure('errors', 'rate', 100),
  iterations_dropped: measure('dropped_iterations', 'count'),
};

export const options = plan('c-crud', measures, RAMP_S + HOLD_S + PAUSE_S, {
  mix: {
    ...arrivals([count(rate.to)]),
    startRate: count(rate.from),
    stages: [
      { duration: `${RAMP_S}s`, target: count(rate.to) },
      { duration: `${HOLD_S}s`, target: count(rate.to) },
    ],
  },
  inserts: {
    executor: 'per-vu-iterations',
    exec: 'insertMany',
    vus: 1,
    iterations: 1,
    startTime: `${RAMP_S + HOLD_S + PAUSE_S}s`,
    maxDuration: `${INSERTS_MAX_S}s`,
    gracefulStop: `${INSERTS_MAX_S}s`,
  },
});
export const handleSummary = summary('c-crud', measures);

export function setup() {
  const data = begin([CRUD]);
  const ids = Array.from({ length: Math.min(ROWS, count(ROWS) + 10) }, (_, at) => {
    const { output } = answerOf(CRUD, { op: 'insert', name: 'there before', value: at });
    return output.item.id;
  });
  return { ...data, ids };
}

export const teardown = end;

export default function operate(data) {
  // 37 has no factor in common with 100: every hundred operations have the mix, and no operation comes in a row.
  const at = exec.scenario.iterationInTest;
  const request = crudRequest(mix, at * 37, data.ids);
  // Of each ten another one, so that every kind of operation is followed.
  if ((at + Math.floor(at / FOLLOWED_EVERY)) % FOLLOWED_EVERY !== 0) {
    askForRows(request);
    return;
  }
  const task = run(CRUD, request);
  if (expectRows(task, request)) {
    operations[request.op].add(task.usage.wall_us / 1000);
  }
}

export function insertMany(data) {
  const bodies = Array.from({ length: count(inserts) }, (_, value) => ({ op: 'insert', name: `bulk ${data.run}`, value }));
  const ids = new Set();
  burst(CRUD, bodies).forEach((task, value) => {
    const right = expectOutput(task, {
      'each of many inserts makes its own row': ({ rows, item }) => rows === 1 && item.value === value && !ids.has(item.id),
    });
    if (right) {
      ids.add(task.output.item.id);
    }
  });
}
