// How large a run is. The reference profile is what `benchmarks/baseline.json` says; both factors keep its shape.

// Stages shorter than this would start no virtual user, and end before a task does.
const STAGE_MIN_S = 1;

const factor = (name) => {
  const value = Number(__ENV[name] || 1);
  if (!(value > 0)) {
    throw new Error(`${name} must be a number above 0, not ${__ENV[name]}`);
  }
  return value;
};

const timeScale = factor('TIME_SCALE');
const loadScale = factor('LOAD_SCALE');

// A rate that the reference reached with its load cannot be asked of a part of it.
export const ratesAreJudged = loadScale >= 1;

// A duration of the reference profile, in seconds of this run.
export const seconds = (reference) => Math.max(STAGE_MIN_S, Math.round(reference * timeScale));

// Virtual users, requests per second, or things, of the reference profile, in this run.
export const count = (reference) => (reference === 0 ? 0 : Math.max(1, Math.round(reference * loadScale)));

// The same stages in k6's words; `of` names what a stage aims at.
export const stages = (reference, of) =>
  reference.map((stage) => ({ duration: `${seconds(stage.duration_s)}s`, target: count(stage[of]) }));

// How long stages take together, in seconds of this run.
export const total = (reference) => reference.reduce((sum, stage) => sum + seconds(stage.duration_s), 0);

// Open model: new iterations begin at a rate, however long the ones before take. Users that wait for an end are many
// where the rate is high; k6 makes more as they are needed, and counts what it could not begin as `dropped_iterations`.
export const arrivals = (rates) => ({
  executor: 'ramping-arrival-rate',
  timeUnit: '1s',
  preAllocatedVUs: Math.max(10, Math.ceil(Math.max(...rates) * 0.3)),
  maxVUs: Math.max(50, Math.ceil(Math.max(...rates) * 3)),
});
