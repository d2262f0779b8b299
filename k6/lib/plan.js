// A script's options, and what it says at its end: the figures under the names of benchmarks/baseline.json.

import { bounds, isJudged, reference, thresholds } from './baseline.js';
import { monitoring } from './monitor.js';

// What no profile allows, however small: an accepted task without an end, and an answer that says the wrong thing.
const ALWAYS = { tasks_lost: ['count==0'], wrong_answers: ['count==0'] };

// Tags that something here looks at. By default k6 puts a dozen on each of the dozen measurements of each request.
const TAGS = ['check', 'error_code', 'expected_response', 'method', 'name', 'scenario', 'status'];

const TREND_STATS = ['min', 'avg', 'p(50)', 'p(90)', 'p(95)', 'p(99)', 'max'];

// k6's options: the scenarios, the monitor beside them, and the limits of the test.
export const plan = (id, measures, durationS, scenarios) => ({
  scenarios: { ...scenarios, monitor: monitoring(durationS) },
  thresholds: { ...ALWAYS, ...thresholds(reference(id).sla, measures) },
  summaryTrendStats: TREND_STATS,
  systemTags: TAGS,
  setupTimeout: '300s',
  teardownTimeout: '600s',
});

const stat = (metrics, { metric, stat, factor }) => {
  const found = metrics[metric];
  return found && Number.isFinite(found.values[stat]) ? found.values[stat] * factor : undefined;
};

const value = (metrics, measure) => (typeof measure === 'function' ? measure(metrics) : stat(metrics, measure));

const rounded = (number) => (number === undefined ? '' : Number(number.toPrecision(4)).toString());

const bound = (limits) => bounds(limits).map(({ sign, bound }) => `${sign} ${bound}`).join(' ');

function judgement(name, limits, found) {
  if (!limits) {
    return '';
  }
  if (!isJudged(name)) {
    return 'not judged: the load is a part of the reference';
  }
  return bounds(limits).every(({ keptBy }) => keptBy(found)) ? 'met' : 'BROKEN';
}

function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column])).join('  ').trimEnd()).join('\n');
}

const checksOf = (group) => [...group.checks, ...group.groups.flatMap(checksOf)];

// What k6 calls at the end. With RESULTS_FILE in the environment it leaves everything there, as JSON.
export const summary = (id, measures) => (data) => {
  const test = reference(id);
  const results = {};
  for (const [name, measure] of Object.entries(measures)) {
    const found = value(data.metrics, measure);
    if (found !== undefined) {
      results[name] = found;
    }
  }
  const checks = checksOf(data.root_group).map(({ name, passes, fails }) => ({ name, passes, fails }));
  const broken = [];
  for (const [metric, { thresholds: held }] of Object.entries(data.metrics)) {
    for (const [line, { ok }] of Object.entries(held || {})) {
      if (!ok) {
        broken.push(`${metric} ${line}`);
      }
    }
  }
  const rows = Object.entries(results).map(([name, found]) => {
    const limits = test.sla[name];
    return [name, rounded(found), rounded(test.result[name]), limits ? bound(limits) : '', judgement(name, limits, found)];
  });
  const lines = [
    `\n${test.title}\n`,
    table([['figure', 'here', 'reference', 'SLA', ''], ...rows]),
    '',
    ...checks.map(({ name, passes, fails }) => `${fails ? '✗' : '✓'} ${name}: ${passes} right, ${fails} wrong`),
    ...broken.map((line) => `✗ threshold broken: ${line}`),
    '',
  ];
  const outputs = { stdout: `${lines.join('\n')}\n` };
  if (__ENV.RESULTS_FILE) {
    const all = { id, results, checks, broken, duration_s: data.state.testRunDurationMs / 1000, metrics: data.metrics };
    outputs[__ENV.RESULTS_FILE] = JSON.stringify(all, null, 1);
  }
  return outputs;
};
