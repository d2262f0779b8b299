//! Guests of which each poll is told what to do, and threads that are held until somebody else has run.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::mpsc;
use std::task::Waker;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// One thread's guests; what they share does not move them aside.
fn turns(places: usize) -> Turns {
    Turns { places: Semaphore::new(places), epochs: Epochs::default(), has_threads: false }
}

/// Computes for so many turns, and notes each.
async fn computes(turns: &Turns, name: &'static str, count: usize, noted: &std::cell::RefCell<Vec<&'static str>>) {
    let clock = Clock::new();
    let mut left = count;
    let guest = pin!(poll_fn(|context| {
        noted.borrow_mut().push(name);
        left -= 1;
        turns.epochs.begin();
        let UpdateDeadline::YieldCustom(1, mut pause) = turns.at_deadline(&clock.turn) else {
            panic!("an epoch has ended in its turn");
        };
        if left == 0 { Poll::Ready(()) } else { pause.as_mut().poll(context) }
    }));
    turns.run(&clock, guest).await;
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_guest_that_computes_on_goes_to_the_end_of_the_line() {
    let (turns, noted) = (turns(1), std::cell::RefCell::default());
    let taken = turns.places.try_acquire().unwrap();
    let (mut one, mut two) = (pin!(computes(&turns, "one", 3, &noted)), pin!(computes(&turns, "two", 2, &noted)));
    let _ = (poll(one.as_mut()), poll(two.as_mut()));
    assert_eq!(noted.take(), ["one", "two"], "the first turn needs no place");
    let _ = (poll(one.as_mut()), poll(two.as_mut()), poll(one.as_mut()));
    assert!(noted.take().is_empty(), "both stand in line");
    drop(taken);
    let _ = (poll(two.as_mut()), poll(two.as_mut()));
    assert!(noted.take().is_empty(), "the place is that of the first in line");
    let _ = (poll(one.as_mut()), poll(one.as_mut()), poll(one.as_mut()));
    assert_eq!(noted.take(), ["one"], "after its turn it stands behind the other");
    assert_eq!(poll(two.as_mut()), Poll::Ready(()));
    assert_eq!(poll(one.as_mut()), Poll::Ready(()));
    assert_eq!(noted.take(), ["two", "one"]);
    assert_eq!(turns.places.available_permits(), 1);
}

#[test]
fn a_guest_that_is_dropped_leaves_its_place_to_the_next() {
    let (turns, noted) = (turns(1), std::cell::RefCell::default());
    let taken = turns.places.try_acquire().unwrap();
    let guest = |name| Box::pin(computes(&turns, name, 2, &noted));
    let (mut in_line, mut called, mut last) = (guest("in line"), guest("called"), guest("last"));
    for _ in 0..2 {
        for guest in [&mut in_line, &mut called, &mut last] {
            assert!(poll(guest.as_mut()).is_pending());
        }
    }
    noted.take();
    drop(in_line);
    drop(taken);
    // The place is its own by now, and it was not polled since.
    drop(called);
    assert_eq!(poll(last.as_mut()), Poll::Ready(()));
    assert_eq!(noted.take(), ["last"]);
    assert_eq!(turns.places.available_permits(), 1);
}

#[test]
fn a_guest_that_has_waited_does_not_stand_in_line() {
    let turns = turns(1);
    let clock = Clock::new();
    let mut polls = 0;
    let guest = pin!(poll_fn(|_| {
        polls += 1;
        // It waits where the others are interrupted; epochs end meanwhile.
        if polls == 2 {
            assert!(matches!(turns.at_deadline(&clock.turn), UpdateDeadline::Continue(1)), "its turn has just begun");
            return Poll::Ready(());
        }
        Poll::Pending
    }));
    let mut run = pin!(turns.run(&clock, guest));
    let _taken = turns.places.try_acquire().unwrap();
    assert!(poll(run.as_mut()).is_pending());
    turns.epochs.begin();
    assert_eq!(poll(run.as_mut()), Poll::Ready(()));
}

/// A guest holds its thread until a task that comes, and is woken, has come to its end beside it.
#[test]
fn no_guest_keeps_a_thread_of_the_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let turns = Arc::new(Turns::new(runtime.handle(), Epochs::default()));
    let (began, begun) = mpsc::channel();
    let (let_go, held) = mpsc::channel::<()>();
    let computing = runtime.spawn({
        let turns = Arc::clone(&turns);
        async move {
            let clock = Clock::new();
            let mut is_first = true;
            let (sharing, its_clock) = (Arc::clone(&turns), Arc::clone(&clock));
            let guest = pin!(poll_fn(move |context| {
                if std::mem::take(&mut is_first) {
                    sharing.epochs.begin();
                    let UpdateDeadline::YieldCustom(1, mut pause) = sharing.at_deadline(&its_clock.turn) else {
                        panic!("an epoch has ended in its turn");
                    };
                    return pause.as_mut().poll(context);
                }
                began.send(()).unwrap();
                held.recv().unwrap();
                Poll::Ready(())
            }));
            turns.run(&clock, guest).await;
        }
    });
    begun.recv().unwrap();
    assert_eq!(turns.places.available_permits(), 0);
    // It comes, waits for a timer, and is woken.
    runtime.block_on(runtime.spawn(async { tokio::time::sleep(Duration::from_millis(1)).await })).unwrap();
    let_go.send(()).unwrap();
    runtime.block_on(computing).unwrap();
    assert_eq!(turns.places.available_permits(), 1);
}

/// What happens to one of several guests.
#[derive(Clone, Debug)]
enum Step {
    Poll(usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![8 => (0..6_usize).prop_map(Step::Poll), 1 => (0..6_usize).prop_map(Step::Drop)]
}

fn poll_at<F: Future>(guests: &mut [Option<Pin<Box<F>>>], at: usize) {
    if guests[at].as_mut().is_some_and(|guest| poll(guest.as_mut()).is_ready()) {
        guests[at] = None;
    }
}

proptest! {
    /// In whatever order guests are polled and dropped, those that are left end, and all places are free then.
    #[test]
    fn no_order_loses_a_place(places in 1..3_usize, steps in prop::collection::vec(step(), 0..60)) {
        let (turns, noted) = (turns(places), std::cell::RefCell::default());
        let mut guests: Vec<_> = (0..6).map(|_| Some(Box::pin(computes(&turns, "it", 4, &noted)))).collect();
        for step in steps {
            match step {
                Step::Poll(at) => poll_at(&mut guests, at),
                Step::Drop(at) => guests[at] = None,
            }
        }
        // A round of polls brings the first in line a turn further.
        for _ in 0..100 {
            (0..guests.len()).for_each(|at| poll_at(&mut guests, at));
        }
        prop_assert!(guests.iter().all(Option::is_none));
        prop_assert_eq!(turns.places.available_permits(), places);
    }
}
