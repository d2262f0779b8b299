// A, task distribution: ever more users hand tasks in; then a thousand tasks come at once, several times.

import exec from 'k6/execution';

import { reference } from './lib/baseline.js';
import { burst } from './lib/client.js';
import { measure } from './lib/metrics.js';
import { end } from './lib/monitor.js';
import { plan, summary } from './lib/plan.js';
import { count, seconds } from './lib/profile.js';
import { TASK_WORKER, beginAnswered, expectProcessed, work, workOf } from './lib/work.js';

export { monitor } from './lib/monitor.js';

const { vus, tasks_at_once: atOnce } = reference('a-task-distribution').profile;
// The reference does not say how long it took from few users to many.
const RAMP_S = seconds(180);
const BURSTS = 5;
// What is still under way when the users stop has ended by then.
const PAUSE_S = 5;
const BURSTS_MAX_S = 60;
// The reference does not say it either; a second is what k6's own examples have.
const THINK_S = Number(__ENV.THINK_S || 1);

const measures = {
  enqueue_p95_ms: measure('enqueue_latency', 'p(95)'),
  processing_p95_ms: measure('processing_latency', 'p(95)'),
  messages_per_s: measure('messages_per_s', 'p(50)'),
  availability_percent: measure('agent_availability', 'rate', 100),
  errors_percent: measure('errors', 'rate', 100),
  tasks_per_s: measure('tasks_finished', 'rate'),
  end_to_end_p95_ms: measure('end_to_end_latency', 'p(95)'),
  queue_depth_max: measure('queue_depth_seen', 'max'),
};

export const options = plan('a-task-distribution', measures, RAMP_S + PAUSE_S, {
  ramp: {
    executor: 'ramping-vus',
    startVUs: count(vus.from),
    stages: [{ duration: `${RAMP_S}s`, target: count(vus.to) }],
  },
  bursts: {
    executor: 'per-vu-iterations',
    exec: 'bursts',
    vus: 1,
    iterations: BURSTS,
    startTime: `${RAMP_S + PAUSE_S}s`,
    maxDuration: `${BURSTS_MAX_S}s`,
    gracefulStop: `${BURSTS_MAX_S}s`,
  },
});
export const handleSummary = summary('a-task-distribution', measures);
export const setup = () => beginAnswered([TASK_WORKER]);
export const teardown = end;

export default function distribute(data) {
  work(`a:${data.run}:${__VU}:${__ITER}`, { pauseS: THINK_S });
}

export function bursts(data) {
  const at = exec.vu.iterationInScenario;
  const names = Array.from({ length: count(atOnce) }, (_, task) => `a:${data.run}:burst ${at}:${task}`);
  burst(TASK_WORKER, names.map(workOf)).forEach((task, index) => expectProcessed(task, names[index]));
}
