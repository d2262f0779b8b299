//! Turns at the processor: guests that compute on hold up neither those that have just come or been woken, nor the timers.
//!
//! A guest begins on one of the runtime's threads, and goes on there after each wait. One that still computes when an epoch
//! ends leaves them: it stands in line for one of as many places as there are threads, computes there for an epoch, and
//! goes to the end of the line. Meanwhile another thread does the runtime's work (tokio's `block_in_place`), and the
//! system shares the cores between the two. So no guest keeps a thread of the runtime for longer than an epoch; what comes
//! or wakes finds only guests before it that have had less.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use wasmtime::UpdateDeadline;

use super::limits::{Clock, MeasuredBy};

/// How many epochs have begun. wasmtime does not show its own count.
#[derive(Clone, Debug, Default)]
pub(super) struct Epochs(Arc<AtomicU64>);

impl Epochs {
    /// One more begins. To be told before the engine is: a guest that it interrupts must find it counted.
    pub(super) fn begin(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// One run's turn. Written and read by the thread that polls.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// The epoch in which the current turn began.
    began_in: AtomicU64,
    /// Whether the guest was interrupted while it computed.
    is_over: AtomicBool,
}

/// What the guests of one runtime share.
#[derive(Debug)]
pub(super) struct Turns {
    places: Semaphore,
    epochs: Epochs,
    /// Whether the runtime has threads to replace one with.
    has_threads: bool,
}

impl Turns {
    pub(super) fn new(threads: &Handle, epochs: Epochs) -> Self {
        let has_threads = threads.runtime_flavor() == RuntimeFlavor::MultiThread;
        Self { places: Semaphore::new(threads.metrics().num_workers()), epochs, has_threads }
    }

    /// Runs a guest, in turns. By reference: this future would hold it twice, and it is large.
    ///
    /// Between two turns it gives way to whoever polls it, who may drop it; a place comes free with that.
    pub(super) async fn run<F: Future>(&self, clock: &Clock, mut guest: Pin<&mut F>) -> F::Output {
        let mut computes_on = false;
        loop {
            // The places are never closed.
            let place = if computes_on { self.places.acquire().await.ok() } else { None };
            let polled =
                std::future::poll_fn(|context| Poll::Ready(self.turn(clock, guest.as_mut(), context, place.is_some())));
            if let Poll::Ready(output) = polled.await {
                return output;
            }
            drop(place);
            computes_on = clock.turn.is_over.load(Ordering::Relaxed);
            // Whoever woke the guest wakes this, and the end of its turn did so at once.
            Pause::default().await;
        }
    }

    fn turn<F: Future>(
        &self,
        clock: &Clock,
        guest: Pin<&mut F>,
        context: &mut Context<'_>,
        aside: bool,
    ) -> Poll<F::Output> {
        clock.turn.is_over.store(false, Ordering::Relaxed);
        clock.turn.began_in.store(self.epochs.now(), Ordering::Relaxed);
        if aside && self.has_threads {
            // It shares its core with the runtime's threads: only the system knows how much of the time it had.
            tokio::task::block_in_place(|| clock.count(MeasuredBy::Thread, || guest.poll(context)))
        } else {
            clock.count(MeasuredBy::Wall, || guest.poll(context))
        }
    }

    /// For a guest that has come to the end of an epoch.
    pub(super) fn at_deadline(&self, turn: &Turn) -> UpdateDeadline {
        // The epoch ended while it waited: its turn has just begun.
        if turn.began_in.load(Ordering::Relaxed) == self.epochs.now() {
            return UpdateDeadline::Continue(1);
        }
        turn.is_over.store(true, Ordering::Relaxed);
        UpdateDeadline::YieldCustom(1, Box::pin(Pause { wakes: true, ..Pause::default() }))
    }
}

/// Is pending once. tokio's own yield would let whatever there is go before, without end.
#[derive(Default)]
struct Pause {
    is_over: bool,
    wakes: bool,
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.is_over {
            return Poll::Ready(());
        }
        self.is_over = true;
        if self.wakes {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
