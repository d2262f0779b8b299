//! Drawing a schedule. Order matters: a draw added in the middle gives every seed another schedule.

use rand::Rng as _;
use rand::SeedableRng as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand_chacha::ChaCha8Rng;

use super::{Burst, Disturbance, Fault, HOSTS, How, Schedule, Server, Sizes, Step, What};
use crate::work::{Deadline, Parcel, Task, Then, Way};

/// Parcels of a burst, at least and at most.
const BURST_PARCELS: std::ops::RangeInclusive<usize> = 10..=400;
/// How much later than the first one a duplicate is sent, in submissions.
const DUPLICATE_DISTANCE_MAX: usize = 300;
/// Where in the run the faults lie, as parts of all ends: there are tasks under way before and after each.
const FAULTS_BETWEEN: std::ops::Range<f64> = 0.02..0.92;

pub(super) fn schedule(seed: u64, sizes: Sizes) -> Schedule {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let parcels = parcels(&mut random, sizes.tasks);
    let bursts = bursts(&mut random, &parcels, sizes.duplicates);
    let mut schedule = Schedule { seed, sizes, parcels, bursts, faults: Vec::new() };
    schedule.faults = faults(&mut random, sizes, schedule.ends());
    schedule
}

fn parcels(random: &mut ChaCha8Rng, tasks: u64) -> Vec<Parcel> {
    let mut parcels = Vec::new();
    let mut number = 0;
    while number < tasks {
        let way = way(random);
        let delayed = !matches!(way, Way::Amqp) && random.random_bool(0.1);
        let delay_ms = if delayed { random.random_range(1..=1_500) } else { 0 };
        let count = if matches!(way, Way::Batch { .. }) { random.random_range(2..=40) } else { 1 };
        let tasks: Vec<Task> = (number..tasks.min(number + count)).map(|number| task(random, number, way)).collect();
        number += count;
        parcels.push(Parcel { way, delay_ms, tasks });
    }
    parcels
}

fn way(random: &mut ChaCha8Rng) -> Way {
    let host = random.random_range(0..HOSTS);
    match random.random_range(0..100) {
        0..3 => Way::Batch { host },
        3..40 => Way::Http { host, keyed: random.random_bool(0.5) },
        _ => Way::Amqp,
    }
}

fn task(random: &mut ChaCha8Rng, number: u64, way: Way) -> Task {
    let in_a_batch = matches!(way, Way::Batch { .. });
    let then = match random.random_range(0..100) {
        0..56 => Then::Succeed,
        56..71 => Then::SleepMs(random.random_range(1..=60)),
        71..82 => Then::RetryUntil(random.random_range(2..=3)),
        82..89 => Then::Reject,
        89..93 => Then::Trap,
        // A batch has one limit for all.
        93..96 if in_a_batch => Then::Reject,
        93..96 => Then::WearOut(random.random_range(1..=3)),
        _ => Then::AwaitMending,
    };
    let (follow_up, cache) = (random.random_bool(0.2), random.random_bool(0.2));
    let is_amqp = way == Way::Amqp;
    let deadline = match random.random_range(0..100) {
        0..4 if is_amqp && then != Then::AwaitMending => Deadline::Passed,
        4..8 if is_amqp => Deadline::Far,
        8..12 if is_amqp && matches!(then, Then::Succeed | Then::SleepMs(_)) => {
            Deadline::Near(random.random_range(1..=2_000))
        }
        _ => Deadline::None,
    };
    let may_be_cancelled = !in_a_batch && then != Then::AwaitMending && deadline == Deadline::None;
    let cancel_after_ms = (random.random_bool(0.06) && may_be_cancelled).then(|| random.random_range(0..=400));
    let reply = is_amqp && random.random_bool(0.4);
    Task { number, then, follow_up, cache, deadline, reply, cancel_after_ms }
}

/// Cuts the parcels, in order, into bursts. Some of those that can be are sent once more, soon after or much later.
fn bursts(random: &mut ChaCha8Rng, parcels: &[Parcel], duplicates: u64) -> Vec<Burst> {
    let first = |parcel| (parcel, Step { parcel, how: How::First });
    let mut steps: Vec<(usize, Step)> = (0..parcels.len()).map(first).collect();
    let repeatable = parcels.iter().enumerate().filter(|(_, parcel)| parcel.way.is_repeatable());
    let repeatable: Vec<usize> = repeatable.map(|(parcel, _)| parcel).collect();
    let amount = usize::try_from(duplicates).unwrap_or(usize::MAX);
    for &index in repeatable.choose_multiple(random, amount) {
        let place = index + random.random_range(0..=DUPLICATE_DISTANCE_MAX);
        let has_a_key = parcels.get(index).is_some_and(|parcel| parcel.way.has_a_key());
        let how = if has_a_key && random.random_bool(0.3) { How::Altered } else { How::Again };
        steps.push((place, Step { parcel: index, how }));
    }
    // A duplicate goes behind the parcel whose place it drew.
    steps.sort_by_key(|(place, step)| (*place, step.how));
    let mut bursts = Vec::new();
    let mut rest = steps.as_slice();
    while !rest.is_empty() {
        let (burst, after) = rest.split_at(rest.len().min(random.random_range(BURST_PARCELS)));
        rest = after;
        bursts.push(Burst {
            backlog_max: random.random_range(0..=600),
            pause_ms: random.random_range(0..=200),
            senders: random.random_range(4..=48),
            steps: burst.iter().map(|(_, step)| *step).collect(),
        });
    }
    bursts
}

fn faults(random: &mut ChaCha8Rng, sizes: Sizes, ends: u64) -> Vec<Fault> {
    let mut whats: Vec<What> = Vec::new();
    for _ in 0..sizes.kills {
        whats.push(What::KillHost { host: random.random_range(0..HOSTS), down_ms: random.random_range(0..=1_500) });
    }
    // Each server in its turn, so that three restarts are one of each.
    for (_, server) in (0..sizes.restarts).zip(Server::ALL.into_iter().cycle()) {
        whats.push(What::Restart { server, kill: random.random_bool(0.6) });
    }
    for _ in 0..sizes.cuts {
        let server = *Server::ALL.choose(random).unwrap_or(&Server::RabbitMq);
        let how = match random.random_range(0..10) {
            0..3 => Disturbance::Cut,
            3..5 => Disturbance::Refuse,
            5..6 => Disturbance::Stall,
            6..9 => Disturbance::Deafen,
            _ => Disturbance::Slow,
        };
        whats.push(What::Disturb { server, how, for_ms: random.random_range(20..=1_500) });
    }
    whats.shuffle(random);
    let mut faults: Vec<Fault> = whats
        .into_iter()
        .map(|what| {
            let after_ended = at(ends, random.random_range(FAULTS_BETWEEN));
            Fault { after_ended, pause_ms: random.random_range(0..=300), what }
        })
        .collect();
    faults.sort_by_key(|fault| fault.after_ended);
    faults
}

/// That part of a count.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place in the run, of a count far below 2^52"
)]
fn at(ends: u64, part: f64) -> u64 {
    (ends as f64 * part) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { tasks: 3_000, kills: 20, restarts: 7, cuts: 12, duplicates: 100 };

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        assert_eq!(schedule(7, SIZES), schedule(7, SIZES));
        assert_ne!(schedule(7, SIZES).parcels, schedule(8, SIZES).parcels);
    }

    #[test]
    fn everything_that_was_asked_for_is_in_it_once() {
        let schedule = schedule(1, SIZES);
        let numbers = schedule.parcels.iter().flat_map(|parcel| &parcel.tasks).map(|task| task.number);
        assert!(numbers.eq(0..SIZES.tasks));
        let firsts = schedule.bursts.iter().flat_map(|burst| &burst.steps).filter(|step| step.how == How::First);
        assert!(firsts.map(|step| step.parcel).eq(0..schedule.parcels.len()));
        assert_eq!(schedule.faults.len() as u64, SIZES.kills + SIZES.restarts + SIZES.cuts);
    }

    #[test]
    fn a_duplicate_comes_after_the_first_and_only_where_that_is_safe() {
        let schedule = schedule(2, SIZES);
        let mut sent = std::collections::HashSet::new();
        let mut duplicates = 0;
        for step in schedule.bursts.iter().flat_map(|burst| &burst.steps) {
            let way = schedule.parcels[step.parcel].way;
            if step.how != How::First {
                duplicates += 1;
                assert!(sent.contains(&step.parcel));
                assert!(way.is_repeatable());
            }
            assert!(step.how != How::Altered || way.has_a_key());
            sent.insert(step.parcel);
        }
        assert_eq!(duplicates, SIZES.duplicates);
    }

    #[test]
    fn every_way_to_end_is_drawn_and_only_where_the_sender_can_ask_for_it() {
        let schedule = schedule(3, SIZES);
        let all: Vec<(Way, &Task)> =
            schedule.parcels.iter().flat_map(|parcel| parcel.tasks.iter().map(|task| (parcel.way, task))).collect();
        let has = |is: &dyn Fn(&Task) -> bool| all.iter().any(|(_, task)| is(task));
        for end in ["succeeded", "rejected", "trapped", "retry", "expired", "cancelled"] {
            assert!(has(&|task| task.ends().iter().any(|possible| possible.name() == end)), "{end}");
        }
        assert!(has(&|task| task.redrives() > 0));
        assert!(has(&|task| matches!(task.deadline, Deadline::Near(_))));
        for (way, task) in all {
            assert!(way == Way::Amqp || (!task.reply && task.deadline == Deadline::None));
            assert!(!matches!(way, Way::Batch { .. }) || task.attempts_max().is_none());
            // Whether it is redriven is not left to chance.
            assert!(task.redrives() == 0 || task.surely_succeeds());
        }
    }
}
