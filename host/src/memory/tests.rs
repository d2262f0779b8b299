//! The accountant as a whole: nothing is given twice, all comes back, and whoever waits gets on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use proptest::prelude::*;

use super::*;

/// Leaves a round number behind the headroom.
fn ledger(pages: u64) -> MemoryLedger {
    let budget_bytes = (pages * PAGE_BYTES).div_ceil(100 - HEADROOM_PERCENT) * 100;
    MemoryLedger::new(budget_bytes, 1_000)
}

fn grows_by(pages: u64) -> Need {
    Need { initial_bytes: 0, growth_bytes: pages * PAGE_BYTES }
}

async fn until_waiting(ledger: &MemoryLedger, count: u64) {
    while ledger.accounts().waiting != count {
        tokio::task::yield_now().await;
    }
}

/// Looks of the measurer over so many milliseconds, at a process of the size that was accounted.
fn pass(ledger: &MemoryLedger, start: Instant, from_ms: u64, to_ms: u64) {
    for ms in (from_ms..to_ms).step_by(20) {
        let known = ledger.inner.charged() + ledger.inner.grown_bytes.load(Ordering::Relaxed);
        ledger.measured(known, start + Duration::from_millis(ms));
    }
}

#[tokio::test]
async fn one_agents_share_leaves_room_for_others() {
    let ledger = ledger(100);
    let (greedy, other) = (Arc::new(ledger.share()), ledger.share());
    let mut taken: Vec<_> = std::iter::from_fn(|| ledger.try_admit(&greedy, grows_by(10))).collect();
    assert_eq!(taken.len(), 7);
    let others = (ledger.try_admit(&other, grows_by(10)), ledger.try_admit(&other, grows_by(10)));
    assert!(others.0.is_some() && others.1.is_some());
    let waiting = tokio::spawn({
        let (ledger, greedy) = (ledger.clone(), Arc::clone(&greedy));
        async move { ledger.admit(&greedy, grows_by(10)).await.is_some() }
    });
    until_waiting(&ledger, 1).await;
    // It waits for its own share, and so holds nobody else up.
    assert!(ledger.admit(&other, grows_by(1)).now_or_never().flatten().is_some());
    taken.pop();
    assert!(waiting.await.unwrap());
    drop((taken, others));
    assert_eq!(ledger.accounts(), Accounts::default());
    assert!(ledger.try_admit(&greedy, grows_by(1_000)).is_some(), "an agent larger than everything runs alone");
}

#[tokio::test]
async fn the_oldest_grows_first_and_nobody_new_comes_before() {
    let ledger = ledger(100);
    let share = ledger.share();
    let (old, young) =
        (ledger.try_admit(&share, grows_by(30)).unwrap(), ledger.try_admit(&share, grows_by(30)).unwrap());
    let third = ledger.try_admit(&share, grows_by(10)).unwrap();
    let (mut old_growth, mut young_growth) = (old.growth(), young.growth());
    let mut young_waits = Box::pin(young_growth.grow_to(70 * PAGE_BYTES));
    assert!(futures::poll!(young_waits.as_mut()).is_pending(), "30 are free, 40 are asked for");
    let mut new_waits = Box::pin(ledger.admit(&share, grows_by(1)));
    assert!(futures::poll!(new_waits.as_mut()).is_pending(), "30 are free, and somebody grows");
    assert!(old_growth.grow_to(50 * PAGE_BYTES).await, "the older one is first");
    drop(third);
    assert!(futures::poll!(young_waits.as_mut()).is_pending());
    drop((old_growth, old));
    assert!(young_waits.await);
    assert!(new_waits.await.is_some());
    drop((young_growth, young));
    assert_eq!(ledger.accounts(), Accounts::default());
}

#[tokio::test]
async fn where_all_wait_for_each_other_the_youngest_leaves() {
    let (ledger, start) = (ledger(100), Instant::now());
    let share = ledger.share();
    let tasks: Vec<_> = (0..4).map(|_| ledger.try_admit(&share, Need::default()).unwrap()).collect();
    let mut growths: Vec<_> = tasks.iter().map(Admitted::growth).collect();
    for growth in &mut growths {
        assert!(growth.grow_to(25 * PAGE_BYTES).await);
    }
    let mut waits: Vec<_> = growths.iter_mut().map(|growth| Box::pin(growth.grow_to(26 * PAGE_BYTES))).collect();
    for wait in &mut waits[..3] {
        assert!(futures::poll!(wait.as_mut()).is_pending());
    }
    pass(&ledger, start, 0, 1_000);
    assert!(tasks.iter().all(|task| task.leave().asked().now_or_never().is_none()), "one goes on, and may end");
    assert!(futures::poll!(waits[3].as_mut()).is_pending());
    pass(&ledger, start, 1_000, 2_000);
    let asked: Vec<_> = tasks.iter().map(|task| task.leave().asked().now_or_never().is_some()).collect();
    assert_eq!(asked, [false, false, false, true], "the youngest, and only it until it has left");
    let mut waits = waits.into_iter();
    let firsts: Vec<_> = waits.by_ref().take(3).collect();
    drop(waits);
    let mut tasks = tasks;
    drop(tasks.pop());
    for wait in firsts {
        assert!(wait.await);
    }
}

#[tokio::test]
async fn one_that_is_alone_and_has_not_enough_is_refused() {
    let (ledger, start) = (ledger(10), Instant::now());
    let share = ledger.share();
    // It may have asked for more than there is: it gets what there is.
    let task = ledger.try_admit(&share, grows_by(50)).unwrap();
    let mut growth = task.growth();
    assert!(growth.grow_to(10 * PAGE_BYTES).await);
    let mut more = Box::pin(growth.grow_to(11 * PAGE_BYTES));
    assert!(futures::poll!(more.as_mut()).is_pending());
    let mut next = Box::pin(ledger.admit(&share, grows_by(1)));
    assert!(futures::poll!(next.as_mut()).is_pending());
    pass(&ledger, start, 0, 2_900);
    assert!(futures::poll!(more.as_mut()).is_pending(), "memory may come back to the system yet");
    pass(&ledger, start, 2_900, 3_200);
    assert!(!more.await);
    drop((growth, task));
    assert!(next.await.is_some());
}

#[tokio::test]
async fn what_waits_and_is_dropped_is_forgotten() {
    let ledger = ledger(10);
    let share = ledger.share();
    let task = ledger.try_admit(&share, grows_by(10)).unwrap();
    let mut growth = task.growth();
    {
        let mut grows = Box::pin(growth.grow_to(11 * PAGE_BYTES));
        let mut starts = Box::pin(ledger.admit(&share, grows_by(1)));
        assert!(futures::poll!(grows.as_mut()).is_pending() && futures::poll!(starts.as_mut()).is_pending());
        assert_eq!(ledger.accounts().waiting, 2);
    }
    drop((growth, task));
    assert_eq!(ledger.accounts(), Accounts::default());
}

#[tokio::test]
async fn first_memories_count_as_what_of_them_is_resident_once_that_shows() {
    // 256 MiB for tasks; each starts with 1 MiB and touches an eighth of it.
    let (ledger, start) = (ledger(4_096), Instant::now());
    let share = ledger.share();
    let need = Need { initial_bytes: 1 << 20, growth_bytes: 0 };
    ledger.measured(0, start);
    let mut tasks = Vec::new();
    for ms in (0..20_000).step_by(20) {
        while let Some(task) = ledger.try_admit(&share, need) {
            tasks.push(task);
            if tasks.len() == 1_000 {
                return;
            }
        }
        ledger.measured(tasks.len() as u64 * (128 << 10), start + Duration::from_millis(ms));
        tokio::task::yield_now().await;
        // Their age is taken from the machine's clock, which the test does not wait for.
        ledger.inner.state().tick(0, start + Duration::from_secs(60));
    }
    panic!("{} tasks of 1,000 after 20 s", tasks.len());
}

#[tokio::test]
async fn charges_count_until_they_are_dropped() {
    let ledger = ledger(100);
    let share = ledger.share();
    let first = ledger.try_admit(&share, grows_by(1)).unwrap();
    let body = ledger.charge_body(80 * PAGE_BYTES);
    let room = ledger.room_for_bodies();
    assert!(room < 0, "{room}");
    assert!(ledger.try_admit(&share, grows_by(40)).is_none());
    let waiting = ledger.admit(&share, grows_by(40));
    let mut waiting = Box::pin(waiting);
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    drop(body);
    assert!(waiting.await.is_some());
    assert_eq!(ledger.room_for_bodies(), i64::try_from(ledger.bodies_bytes_max()).unwrap());
    drop(first);
}

#[tokio::test]
async fn what_the_host_holds_counts_with_the_instance_and_leaves_where_there_is_no_room() {
    let ledger = ledger(100);
    let share = ledger.share();
    let (task, other) =
        (ledger.try_admit(&share, grows_by(10)).unwrap(), ledger.try_admit(&share, grows_by(10)).unwrap());
    let mut growth = task.growth();
    let holder = growth.holder();
    let page = usize::try_from(PAGE_BYTES).unwrap();
    assert!(growth.try_grow_to(4 * PAGE_BYTES));
    let held = holder.hold(6 * page).unwrap();
    assert_eq!(ledger.accounts().reserved_bytes, 20 * PAGE_BYTES, "what is reserved is free to take");
    assert!(growth.try_grow_to(5 * PAGE_BYTES));
    assert_eq!(ledger.accounts().reserved_bytes, 21 * PAGE_BYTES);
    assert!(holder.hold(90 * page).is_err(), "79 are free, and somebody else runs");
    assert!(holder.hold(page - 1).is_ok(), "nobody counts crumbs");
    drop(held);
    assert!(holder.hold(5 * page).is_ok());
    assert_eq!(ledger.accounts().reserved_bytes, 21 * PAGE_BYTES, "what was needed once is kept for the task");
    drop(other);
    assert!(!growth.was_refused_alone());
    // Of 108 pages 8 are headroom, and 3 of those are never given.
    assert!(holder.hold(99 * page).is_ok(), "one that is alone has the headroom too");
    assert!(!growth.was_refused_alone());
    assert!(holder.hold(150 * page).is_err() && growth.was_refused_alone());
    drop((growth, holder, task));
    assert_eq!(ledger.accounts(), Accounts::default());
    assert_eq!(ledger.inner.grown_bytes.load(Ordering::Relaxed), 0);
}

/// What happens to the accounts.
#[derive(Clone, Debug)]
enum Event {
    Start { share: usize, initial: u64, growth: u64 },
    Grow { task: usize, pages: u64 },
    End { task: usize },
    Charge { pages: u64 },
    Uncharge,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0..3_usize, 0..20_u64, 0..60_u64).prop_map(|(share, initial, growth)| Event::Start { share, initial, growth }),
        (0..50_usize, 1..60_u64).prop_map(|(task, pages)| Event::Grow { task, pages }),
        (0..50_usize).prop_map(|task| Event::End { task }),
        (1..30_u64).prop_map(|pages| Event::Charge { pages }),
        Just(Event::Uncharge),
    ];
    proptest::collection::vec(event, 1..120)
}

/// A task: admitted or not, growing or not, until it ends or is asked to leave.
async fn task(
    ledger: MemoryLedger,
    share: Arc<MemoryShare>,
    need: Need,
    mut grow: tokio::sync::mpsc::UnboundedReceiver<u64>,
) {
    let Some(admitted) = ledger.admit(&share, need).await else { return };
    let mut growth = admitted.growth();
    let run = async {
        let mut bytes = 0;
        while let Some(pages) = grow.recv().await {
            bytes += pages * PAGE_BYTES;
            if !growth.grow_to(bytes).await {
                return;
            }
        }
    };
    tokio::select! {
        () = run => {}
        () = admitted.leave().asked() => {}
    }
}

proptest! {
    #[test]
    fn nothing_is_given_twice_all_comes_back_and_all_get_on(events in events()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let ledger = ledger(100);
            let shares: Vec<_> = (0..3).map(|_| Arc::new(ledger.share())).collect();
            let (mut running, mut charges) = (Vec::new(), Vec::new());
            for event in events {
                let charged = ledger.inner.charged();
                match event {
                    Event::Start { share, initial, growth } => {
                        let need = Need { initial_bytes: initial * PAGE_BYTES, growth_bytes: growth * PAGE_BYTES };
                        let (sender, grow) = tokio::sync::mpsc::unbounded_channel();
                        running.push((sender, tokio::spawn(task(ledger.clone(), Arc::clone(&shares[share]), need, grow))));
                    }
                    Event::Grow { task, pages } => {
                        // Nobody reads it where the task has left.
                        if let Some((sender, _)) = running.get(task) {
                            sender.send(pages).ok();
                        }
                    }
                    Event::End { task } if task < running.len() => drop(running.remove(task)),
                    Event::End { .. } => {}
                    Event::Charge { pages } => charges.push(ledger.charge(pages * PAGE_BYTES)),
                    Event::Uncharge => drop(charges.pop()),
                }
                let reserved = ledger.inner.state().reserved_bytes();
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                let (state, now) = (ledger.inner.state(), ledger.inner.charged());
                // Only charges come unasked, and only one that is alone starts without room.
                let fits = state.reserved_bytes() + now <= 100 * PAGE_BYTES || state.reserved_bytes() <= reserved;
                prop_assert!(fits || now > charged || state.running_count() == 1, "{state:?}");
            }
            // All are told to end; whoever waits is waited for.
            charges.clear();
            let tasks: Vec<_> = running.into_iter().map(|(_, task)| task).collect();
            let mut at = Instant::now();
            while tasks.iter().any(|task| !task.is_finished()) {
                at += Duration::from_millis(50);
                ledger.measured(0, at);
                tokio::task::yield_now().await;
            }
            prop_assert_eq!(Accounts { baseline_bytes: 0, ..ledger.accounts() }, Accounts::default());
            Ok(())
        })?;
    }
}
