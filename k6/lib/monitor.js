// Looks at the host while a script runs, and holds its own counts against ours at the end.

import { sleep } from 'k6';
import http from 'k6/http';

import { requireReady, url } from './client.js';
import { availability, cacheHitPercent, queueDepth, queueDepthSeen, tasksSettled } from './metrics.js';

// The host counts its queues every 5 s.
const QUEUE_LOOK_S = 1;
// How long queues may take to run empty after the last submission.
const DRAIN_MAX_S = 300;

// The sum of a metric's samples whose labels contain all of `labels`.
export function total(text, name, ...labels) {
  let sum = 0;
  for (const line of text.split('\n')) {
    const after = line.charAt(name.length);
    if (line.startsWith(name) && (after === '{' || after === ' ') && labels.every((label) => line.includes(label))) {
      sum += Number(line.slice(line.lastIndexOf(' ') + 1));
    }
  }
  return sum;
}

const metrics = () => http.get(`${url}/metrics`, { tags: { name: 'GET /metrics' } }).body || '';

const ofAgents = (text, agents, name, ...labels) =>
  agents.reduce((sum, agent) => sum + total(text, name, `agent="${agent}"`, ...labels), 0);

const counts = (agents) => {
  const text = metrics();
  return {
    settled:
      ofAgents(text, agents, 'agent_settlements', 'settlement="acknowledge"') +
      ofAgents(text, agents, 'agent_settlements', 'settlement="dead-letter"'),
    hits: ofAgents(text, ['cache-reader'], 'cache_hits'),
    misses: ofAgents(text, ['cache-reader'], 'cache_misses'),
    depth: ofAgents(text, agents, 'agent_queue_depth'),
  };
};

// The start of a run: its own name, so that other runs' keys are not ours, and what the host had counted by then.
export function begin(agents) {
  requireReady();
  return { run: `${Date.now()}`, agents, before: counts(agents) };
}

// The look-ups that filled the cache do not count as hits or misses.
export const warmed = (data) => ({ ...data, before: { ...counts(data.agents), settled: data.before.settled } });

// The end of a run: once the queues are empty, what the host counted meanwhile.
export function end(data) {
  let now = counts(data.agents);
  for (let waited = 0; now.depth > 0 && waited < DRAIN_MAX_S; waited += QUEUE_LOOK_S) {
    sleep(QUEUE_LOOK_S);
    now = counts(data.agents);
  }
  queueDepth.add(now.depth);
  tasksSettled.add(now.settled - data.before.settled);
  const hits = now.hits - data.before.hits;
  const looked = hits + now.misses - data.before.misses;
  if (looked > 0) {
    cacheHitPercent.add((hits * 100) / looked);
  }
}

// The scenario that looks at the host once a second.
export const monitoring = (durationS) => ({
  executor: 'constant-arrival-rate',
  exec: 'monitor',
  rate: 1,
  timeUnit: '1s',
  duration: `${durationS}s`,
  preAllocatedVUs: 2,
  maxVUs: 5,
});

export function monitor(data) {
  const ready = http.get(`${url}/readyz`, { tags: { name: 'GET /readyz' }, timeout: '5s' });
  availability.add(ready.status === 200);
  const depth = ofAgents(metrics(), data.agents, 'agent_queue_depth');
  queueDepth.add(depth);
  queueDepthSeen.add(depth);
}
