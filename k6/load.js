// Load: ever more users, each handing in a task, thinking, and looking whether it has ended; or, with RATE, as many tasks a
// second as that, whatever the host answers. How to run it: k6/README.md.

import { reference } from './lib/baseline.js';
import { measure } from './lib/metrics.js';
import { end } from './lib/monitor.js';
import { plan, summary } from './lib/plan.js';
import { arrivals, seconds, stages, total } from './lib/profile.js';
import { TASK_WORKER, beginAnswered, handIn, work } from './lib/work.js';

export { monitor } from './lib/monitor.js';

const { stages: profile } = reference('load').profile;

// How long a user waits between handing in and looking: with it 1,000 users make up to 5,000 requests a second, and the
// whole profile's mean is that of the reference.
const THINK_S = Number(__ENV.THINK_S || 0.4);

// Tasks a second, in the place of users: what latency is at a rate only an open model tells.
const RATE = Number(__ENV.RATE || 0);
const RATE_S = seconds(300);

// Of them every tenth is followed to its end: k6 takes longer over a look than the host over a task, and on the same machine
// that would be most of what is measured. Of the others the host's own count tells that they ended.
const FOLLOWED_EVERY = 10;

const steady = {
  ...arrivals([RATE]),
  startRate: RATE,
  stages: [{ duration: `${RATE_S}s`, target: RATE }],
};
const users = { executor: 'ramping-vus', startVUs: 1, stages: stages(profile, 'vus') };

const measures = {
  duration_p50_ms: measure('enqueue_latency', 'p(50)'),
  duration_p95_ms: measure('enqueue_latency', 'p(95)'),
  duration_p99_ms: measure('enqueue_latency', 'p(99)'),
  duration_max_ms: measure('enqueue_latency', 'max'),
  requests_per_s: measure('http_reqs', 'rate'),
  tasks_per_s: measure(RATE ? 'tasks_settled' : 'tasks_finished', 'rate'),
  errors_percent: measure('errors', 'rate', 100),
  processing_p95_ms: measure('processing_latency', 'p(95)'),
  end_to_end_p95_ms: measure('end_to_end_latency', 'p(95)'),
  queue_depth_max: measure('queue_depth_seen', 'max'),
  iterations_dropped: measure('dropped_iterations', 'count'),
};

export const options = plan('load', measures, RATE ? RATE_S : total(profile), { load: RATE ? steady : users });
export const handleSummary = summary('load', measures);
export const setup = () => beginAnswered([TASK_WORKER]);
export const teardown = end;

export default function load(data) {
  // Not `exec.vu` and `exec.scenario`: k6 makes each of them anew whenever it is looked at.
  const name = `load:${data.run}:${__VU}:${__ITER}`;
  if (RATE && (__VU + __ITER) % FOLLOWED_EVERY !== 0) {
    handIn(name);
  } else {
    work(name, { pauseS: THINK_S });
  }
}
