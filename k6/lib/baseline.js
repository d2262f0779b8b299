// The reference figures and the limits that they are held to: read from the file, repeated nowhere.

import { ratesAreJudged } from './profile.js';

const baseline = JSON.parse(open(import.meta.resolve('../../benchmarks/baseline.json')));

// A test of the reference load, by its id.
export function reference(id) {
  const test = baseline.tests.find((test) => test.id === id);
  if (!test) {
    throw new Error(`benchmarks/baseline.json has no test ${id}`);
  }
  return test;
}

// How a bound of the file is written in a k6 threshold, and whether a value keeps it.
const BOUNDS = {
  below: ['<', (value, bound) => value < bound],
  above: ['>', (value, bound) => value > bound],
  at_least: ['>=', (value, bound) => value >= bound],
  at_most: ['<=', (value, bound) => value <= bound],
  equals: ['==', (value, bound) => value === bound],
};

export const bounds = (limits) =>
  Object.entries(limits).map(([kind, bound]) => {
    const [sign, keeps] = BOUNDS[kind];
    return { sign, bound, keptBy: (value) => keeps(value, bound) };
  });

// Whether a figure is held to its limits in a run of this size.
export const isJudged = (name) => ratesAreJudged || !name.endsWith('_per_s');

// k6 thresholds for the limits of a test that k6 can see: `measures` says which metric each figure is.
export function thresholds(sla, measures) {
  const found = {};
  for (const [name, limits] of Object.entries(sla)) {
    const measure = measures[name];
    if (!measure || !measure.metric || !isJudged(name)) {
      continue;
    }
    for (const { sign, bound } of bounds(limits)) {
      const line = `${measure.stat}${sign}${bound / (measure.factor || 1)}`;
      found[measure.metric] = [...(found[measure.metric] || []), line];
    }
  }
  return found;
}
