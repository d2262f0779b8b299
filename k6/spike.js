// Spike: requests come at a rate, then at five times that rate, then as before. How to run it: k6/README.md.

import exec from 'k6/execution';

import { reference } from './lib/baseline.js';
import { measure } from './lib/metrics.js';
import { end } from './lib/monitor.js';
import { plan, summary } from './lib/plan.js';
import { arrivals, count, seconds, total } from './lib/profile.js';
import { TASK_WORKER, beginAnswered, work } from './lib/work.js';

export { monitor } from './lib/monitor.js';

const { stages: profile } = reference('spike').profile;
const calm = profile[0].requests_per_s;
// In its recovery the load is what it was before the spike.
const rates = profile.map((stage) => count(stage.requests_per_s || calm));

const measures = {
  duration_p50_ms: measure('enqueue_latency', 'p(50)'),
  duration_p95_ms: measure('enqueue_latency', 'p(95)'),
  duration_p99_ms: measure('enqueue_latency', 'p(99)'),
  errors_percent: measure('errors', 'rate', 100),
  tasks_per_s: measure('tasks_finished', 'rate'),
  end_to_end_p95_ms: measure('end_to_end_latency', 'p(95)'),
  queue_depth_max: measure('queue_depth_seen', 'max'),
  iterations_dropped: measure('dropped_iterations', 'count'),
};

export const options = plan('spike', measures, total(profile), {
  spike: {
    ...arrivals(rates),
    startRate: rates[0],
    // Each rate at once, and held: a spike has no slope.
    stages: profile.flatMap((stage, at) => [
      { duration: '0s', target: rates[at] },
      { duration: `${seconds(stage.duration_s)}s`, target: rates[at] },
    ]),
  },
});
export const handleSummary = summary('spike', measures);
export const setup = () => beginAnswered([TASK_WORKER]);
export const teardown = end;

export default function spike(data) {
  work(`spike:${data.run}:${exec.scenario.iterationInTest}`);
}
