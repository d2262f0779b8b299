// What the scripts measure beside k6's own metrics. Names and meanings: k6/README.md.

import { Counter, Gauge, Rate, Trend } from 'k6/metrics';

// From the start of a submission to its 202, which follows the broker's confirm.
export const enqueueLatency = new Trend('enqueue_latency', true);
// From the confirm to the task's end, by the task's own timestamps.
export const processingLatency = new Trend('processing_latency', true);
// From the host's taking the task in to its end, by the task's own timestamps.
export const endToEndLatency = new Trend('end_to_end_latency', true);

export const tasksAccepted = new Counter('tasks_accepted');
export const tasksFinished = new Counter('tasks_finished');
// Accepted, and not ended when it was given up on: must never happen.
export const tasksLost = new Counter('tasks_lost');
// Deliveries that the host acknowledged or dead-lettered since the run's start, by its own count: as many as were accepted.
export const tasksSettled = new Counter('tasks_settled');
// Answers that came, and say something else than they must: must never happen.
export const wrongAnswers = new Counter('wrong_answers');
// Of the tasks handed in: refused, lost, failed or wrongly answered.
export const errors = new Rate('errors');

// Ready messages in the queues of the agents under test.
export const queueDepth = new Gauge('queue_depth');
export const queueDepthSeen = new Trend('queue_depth_seen');
// Looks at the host that found every agent consumed.
export const availability = new Rate('agent_availability');

// Tasks per second of a burst: from the first one's acceptance to the last one's end.
export const messagesPerS = new Trend('messages_per_s');
// Of an agent's look-ups in the cache, those that found something, counted by the host.
export const cacheHitPercent = new Gauge('cache_hit_percent');

export const measure = (metric, stat, factor = 1) => ({ metric, stat, factor });
