// Soak: the same users for a long time, with every kind of work, to see what grows. How to run it: k6/README.md.

import { reference } from './lib/baseline.js';
import { run } from './lib/client.js';
import { measure } from './lib/metrics.js';
import { end } from './lib/monitor.js';
import { plan, summary } from './lib/plan.js';
import { count, seconds } from './lib/profile.js';
import { CACHE_READER, CRUD, TASK_WORKER, beginAnswered, crudRequest, expectRows, expectValue, work } from './lib/work.js';

export { monitor } from './lib/monitor.js';

const [{ duration_s: duration, vus }] = reference('soak').profile.stages;
const { insert, select, update, delete: remove } = reference('c-crud').profile.mix_percent;

const THINK_S = Number(__ENV.THINK_S || 0.1);
// Keys that are read again and again.
const WARM_KEYS = 50;
// Of ten reads, how many are of such a key.
const WARM_OF_TEN = 9;

const measures = {
  duration_p50_ms: measure('enqueue_latency', 'p(50)'),
  duration_p95_ms: measure('enqueue_latency', 'p(95)'),
  duration_p99_ms: measure('enqueue_latency', 'p(99)'),
  errors_percent: measure('errors', 'rate', 100),
  tasks_per_s: measure('tasks_finished', 'rate'),
  end_to_end_p95_ms: measure('end_to_end_latency', 'p(95)'),
  cache_hit_percent: measure('cache_hit_percent', 'value'),
};

export const options = plan('soak', measures, seconds(duration), {
  soak: { executor: 'constant-vus', vus: count(vus), duration: `${seconds(duration)}s` },
});
export const handleSummary = summary('soak', measures);
export const setup = () => beginAnswered([TASK_WORKER, CACHE_READER, CRUD]);
export const teardown = end;

// Rows that inserts of this user made: others may have been deleted by now, which is no failure.
const ids = [1];

export default function soak(data) {
  const at = __ITER;
  const name = `soak:${data.run}:${__VU}:${at}`;
  if (at % 4 < 2) {
    return work(name, { pauseS: THINK_S });
  }
  const turn = Math.floor(at / 4);
  if (at % 4 === 2) {
    const key = turn % 10 < WARM_OF_TEN ? `soak:${data.run}:warm:${turn % WARM_KEYS}` : name;
    return expectValue(run(CACHE_READER, { key }, { pauseS: THINK_S }), key);
  }
  const request = crudRequest({ insert, select, update, delete: remove }, turn * 7, ids);
  const task = run(CRUD, request, { pauseS: THINK_S });
  if (expectRows(task, request) && request.op === 'insert') {
    ids[turn % WARM_KEYS] = task.output.item.id;
  }
  return undefined;
}
