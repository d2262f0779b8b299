// D, cache: reads through a cache at a growing rate, four of five of keys that are warm.
//
// Reads come in batches of 20 lines, so that the rate is the host's to reach and not k6's: of each batch the first warm and
// the first cold read are followed; that the others ended too, the host's own count shows.

import { Trend } from 'k6/metrics';
import exec from 'k6/execution';

import { reference } from './lib/baseline.js';
import { follow, followAll, submitBatch } from './lib/client.js';
import { measure } from './lib/metrics.js';
import { begin, end, warmed } from './lib/monitor.js';
import { plan, summary } from './lib/plan.js';
import { arrivals, count, seconds } from './lib/profile.js';
import { CACHE_READER, expectValue } from './lib/work.js';

export { monitor } from './lib/monitor.js';

const { mix_percent: mix, operations_per_s: rate } = reference('d-cache').profile;
// The reference does not say how long it took from few reads to many, nor how long it stayed there.
const RAMP_S = seconds(180);
const HOLD_S = seconds(60);
const BATCH = 20;
const WARM_OF_BATCH = Math.round((BATCH * mix.warm_hits) / 100);
// Of ten cold reads one is of a key that the same user has read before, as it happens in a real cache.
const COLD_AGAIN_EVERY = 10;
const WARM_KEYS = count(1000);
// Longer than the longest run.
const TTL_MS = 3_600_000;

const hitRun = new Trend('cache_hit_run', true);
const missRun = new Trend('cache_miss_run', true);

const measures = {
  cache_hit_percent: measure('cache_hit_percent', 'value'),
  // What a miss costs more than a hit: the medians of the runs that were followed.
  miss_penalty_ms: ({ cache_miss_run: miss, cache_hit_run: hit }) =>
    miss && hit ? miss.values['p(50)'] - hit.values['p(50)'] : undefined,
  operations_per_s: measure('tasks_accepted', 'rate'),
  end_to_end_p95_ms: measure('end_to_end_latency', 'p(95)'),
  errors_percent: measure('errors', 'rate', 100),
  queue_depth_max: measure('queue_depth_seen', 'max'),
  iterations_dropped: measure('dropped_iterations', 'count'),
};

const batches = (operations) => Math.max(1, Math.round(count(operations) / BATCH));

export const options = plan('d-cache', measures, RAMP_S + HOLD_S, {
  reads: {
    ...arrivals([batches(rate.to)]),
    startRate: batches(rate.from),
    stages: [
      { duration: `${RAMP_S}s`, target: batches(rate.to) },
      { duration: `${HOLD_S}s`, target: batches(rate.to) },
    ],
  },
});
export const handleSummary = summary('d-cache', measures);
export const teardown = end;

const warmKey = (run, at) => `warm:${run}:${at % WARM_KEYS}`;

export function setup() {
  const data = begin([CACHE_READER]);
  const keys = Array.from({ length: WARM_KEYS }, (_, at) => warmKey(data.run, at));
  const tasks = followAll(submitBatch(CACHE_READER, keys.map((key) => ({ key, ttl_ms: TTL_MS }))));
  tasks.forEach((task, index) => expectValue(task, keys[index]));
  return warmed(data);
}

let cold = 0;

function coldKey(run) {
  cold += 1;
  const number = cold % COLD_AGAIN_EVERY === 0 ? cold - COLD_AGAIN_EVERY + 1 : cold;
  return `cold:${run}:${exec.vu.idInTest}:${number}`;
}

export default function read(data) {
  const at = exec.scenario.iterationInTest * BATCH;
  const keys = Array.from({ length: BATCH }, (_, line) =>
    line < WARM_OF_BATCH ? warmKey(data.run, at + line) : coldKey(data.run),
  );
  const batch = submitBatch(CACHE_READER, keys.map((key) => ({ key, ttl_ms: TTL_MS })));
  if (batch.length === 0) {
    return;
  }
  for (const line of [0, WARM_OF_BATCH]) {
    const task = follow(batch[line]);
    if (expectValue(task, keys[line])) {
      (task.output.hit ? hitRun : missRun).add(task.usage.wall_us / 1000);
    }
  }
}
