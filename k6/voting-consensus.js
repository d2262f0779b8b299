// B, voting consensus: every voter votes on every proposal, all at the same time, some of them twice. Counts must be exact.

import { Rate, Trend } from 'k6/metrics';
import exec from 'k6/execution';

import { reference } from './lib/baseline.js';
import { expectAnswer, expectOutput, follow, submit } from './lib/client.js';
import { measure } from './lib/metrics.js';
import { begin, end } from './lib/monitor.js';
import { plan, summary } from './lib/plan.js';
import { count, seconds } from './lib/profile.js';
import { VOTER, answerOf } from './lib/work.js';

export { monitor } from './lib/monitor.js';

const { agents, proposals } = reference('b-voting-consensus').profile;
const VOTERS = count(agents);
const PROPOSALS = count(proposals);
// Percent of the voters that must agree.
const QUORUM = 60;
// Every so many votes, one is sent a second time, and must not count again.
const TWICE_EVERY = 10;
const VOTES_MAX_S = 300;
// How long the host is looked at meanwhile.
const WATCH_S = Math.max(10, seconds(30));

const counting = new Trend('counting_latency', true);
const consensus = new Trend('consensus_latency', true);
const accuracy = new Rate('accuracy');

const measures = {
  submit_p95_ms: measure('enqueue_latency', 'p(95)'),
  counting_ms: measure('counting_latency', 'p(95)'),
  consensus_ms: measure('consensus_latency', 'max'),
  accuracy_percent: measure('accuracy', 'rate', 100),
  errors_percent: measure('errors', 'rate', 100),
  tasks_per_s: measure('tasks_finished', 'rate'),
  end_to_end_p95_ms: measure('end_to_end_latency', 'p(95)'),
};

export const options = plan('b-voting-consensus', measures, WATCH_S, {
  votes: { executor: 'per-vu-iterations', vus: VOTERS, iterations: 1, maxDuration: `${VOTES_MAX_S}s` },
});
export const handleSummary = summary('b-voting-consensus', measures);

const nameOf = (run, proposal) => `proposal ${proposal} of ${run}`;
// Most proposals get seven yes of ten and are accepted; every fourth gets three, and is rejected.
const isPopular = (proposal) => proposal % 4 !== 3;
const saysYes = (voter, proposal) => (voter + proposal) % 10 < (isPopular(proposal) ? 7 : 3);
const yesOf = (proposal) => Array.from({ length: VOTERS }, (_, voter) => saysYes(voter, proposal)).filter((yes) => yes).length;

export function setup() {
  const data = begin([VOTER]);
  for (let proposal = 0; proposal < PROPOSALS; proposal += 1) {
    const request = { op: 'create-proposal', proposal: nameOf(data.run, proposal), voters: VOTERS, quorum: QUORUM };
    const { output } = answerOf(VOTER, request);
    expectAnswer(output, { 'a proposal is created': ({ result }) => result === 'created' });
  }
  return data;
}

export default function vote(data) {
  // Each user votes once. Its number in the whole test would not do: the one who watches has one too.
  const voter = exec.scenario.iterationInTest;
  const sent = [];
  for (let step = 0; step < PROPOSALS; step += 1) {
    // Not all voters in the same order, so that all proposals are voted on at the same time.
    const proposal = (step + voter) % PROPOSALS;
    const choice = saysYes(voter, proposal) ? 'yes' : 'no';
    const body = { op: 'vote', proposal: nameOf(data.run, proposal), agent: `voter ${voter}`, choice };
    sent.push(submit(VOTER, body));
    if ((voter + proposal) % TWICE_EVERY === 0) {
      sent.push(submit(VOTER, body));
    }
  }
  for (const accepted of sent.filter((one) => one)) {
    const task = follow(accepted);
    expectOutput(task, { 'a vote counts, or was there': ({ result }) => result === 'counted' || result === 'duplicate' });
    if (task && task.output && task.output.decides) {
      consensus.add(task.finished_at - exec.scenario.startTime);
    }
  }
}

// Every vote has been followed to its end by now.
export function teardown(data) {
  for (let proposal = 0; proposal < PROPOSALS; proposal += 1) {
    const name = nameOf(data.run, proposal);
    const yes = yesOf(proposal);
    const needed = Math.ceil((VOTERS * QUORUM) / 100);
    const counted = answerOf(VOTER, { op: 'count', proposal: name });
    counting.add(counted.tookMs);
    const decided = answerOf(VOTER, { op: 'consensus', proposal: name }).output;
    const exact = expectAnswer(counted.output, {
      'every vote counts once': (output) => output.yes === yes && output.no === VOTERS - yes && output.total === VOTERS,
    });
    const agreed = expectAnswer(decided, {
      'consensus is what the votes say': ({ status }) => status === (yes >= needed ? 'accepted' : 'rejected'),
    });
    accuracy.add(exact && agreed);
  }
  end(data);
}
