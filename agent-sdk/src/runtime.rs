//! What the expansion of `#[agent]` calls.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::bindings::agent::runtime::types as raw;
use crate::{Failure, IntoOutcome, Output, Task};

/// The task as the SDK presents it.
pub fn task(task: raw::Task) -> Task {
    task.into()
}

/// The outcome in the form that crosses the component's boundary.
pub fn lower(outcome: impl IntoOutcome) -> Result<Option<raw::Output>, raw::Failure> {
    outcome.into_outcome().map(|output| output.map(Output::lower)).map_err(Failure::lower)
}

/// Remembers whether anything asked for another poll.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a handler's future to its end. Host calls return when they are done, so there is nothing to wait for but what
/// the future itself wakes; one that waits for anything else can never end, and is rejected instead of spinning.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Ok(value);
        }
        if !woken.0.swap(false, Ordering::Relaxed) {
            return Err(Failure::reject("the handler awaits something that nothing in this instance can finish"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_that_wakes_itself_is_polled_again() {
        let mut polls = 0;
        let value = block_on(std::future::poll_fn(|context| {
            polls += 1;
            if polls < 3 {
                context.waker().wake_by_ref();
                Poll::Pending
            } else {
                Poll::Ready(polls)
            }
        }));
        assert_eq!(value, Ok(3));
    }

    #[test]
    fn a_future_that_nobody_wakes_is_rejected() {
        assert!(matches!(block_on(std::future::pending::<()>()), Err(Failure::Reject { .. })));
    }
}
