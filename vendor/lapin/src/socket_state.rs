use crate::Result;
use atomic_waker::AtomicWaker;
use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Poll, Wake, Waker},
};
use tracing::trace;

pub(crate) struct SocketState {
    readable: bool,
    writable: bool,
    handle: SocketStateHandle,
}

impl Default for SocketState {
    fn default() -> Self {
        Self {
            readable: true,
            writable: true,
            handle: SocketStateHandle {
                events: Arc::default(),
            },
        }
    }
}

#[derive(Clone)]
pub(crate) struct SocketStateHandle {
    events: Arc<Events>,
}

/// What happened since it was last looked at, a bit for each [`SocketEvent`], and who waits for it.
#[derive(Default)]
struct Events {
    bits: AtomicU8,
    waker: AtomicWaker,
}

impl Events {
    fn take(&self) -> u8 {
        self.bits.swap(0, Ordering::AcqRel)
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum SocketEvent {
    Readable = 1,
    Writable = 2,
    Wake = 4,
}

pub(crate) struct SocketStateWaker {
    handle: SocketStateHandle,
    event: SocketEvent,
}

impl SocketState {
    pub(crate) fn readable(&mut self) -> bool {
        self.readable
    }

    pub(crate) fn writable(&mut self) -> bool {
        self.writable
    }

    pub(crate) async fn wait(&mut self) {
        let events = &self.handle.events;
        let happened = future::poll_fn(|cx| {
            // Before the look: what happens after it finds this waker.
            events.waker.register(cx.waker());
            match events.take() {
                0 => Poll::Pending,
                happened => Poll::Ready(happened),
            }
        })
        .await;
        self.handle_events(happened);
    }

    pub(crate) fn reset(&mut self) {
        self.readable = true;
        self.writable = true;
    }

    pub(crate) fn handle(&self) -> SocketStateHandle {
        self.handle.clone()
    }

    pub(crate) fn handle_read_poll(&mut self, poll: Poll<usize>) -> Option<usize> {
        match poll {
            Poll::Ready(sz) => Some(sz),
            Poll::Pending => {
                self.readable = false;
                None
            }
        }
    }

    pub(crate) fn handle_write_poll<T>(&mut self, poll: Poll<T>) -> Option<T> {
        match poll {
            Poll::Ready(sz) => Some(sz),
            Poll::Pending => {
                self.writable = false;
                None
            }
        }
    }

    pub(crate) fn handle_io_result(&mut self, result: Result<()>) -> Result<()> {
        if let Err(err) = result {
            if err.interrupted() {
                self.handle.wake();
            } else if err.wouldblock() {
                // ignore, let the reactor handle that
            } else {
                if err.is_io_error() {
                    self.readable = false;
                    self.writable = false;
                }
                return Err(err);
            }
        }
        Ok(())
    }

    pub(crate) fn poll_events(&mut self) {
        let happened = self.handle.events.take();
        self.handle_events(happened);
    }

    fn handle_events(&mut self, happened: u8) {
        trace!(happened, "Got events for socket");
        self.readable |= happened & SocketEvent::Readable as u8 != 0;
        self.writable |= happened & SocketEvent::Writable as u8 != 0;
    }

    pub(crate) fn readable_waker(&self) -> Waker {
        self.waker(SocketEvent::Readable)
    }

    pub(crate) fn writable_waker(&self) -> Waker {
        self.waker(SocketEvent::Writable)
    }

    fn waker(&self, event: SocketEvent) -> Waker {
        let handle = self.handle();
        let waker = SocketStateWaker { handle, event };
        Waker::from(Arc::new(waker))
    }
}

impl SocketStateHandle {
    pub(crate) fn send(&self, event: SocketEvent) {
        // Whoever set the first bit wakes; it is looked at as one.
        if self.events.bits.fetch_or(event as u8, Ordering::AcqRel) == 0 {
            self.events.waker.wake();
        }
    }

    pub(crate) fn wake(&self) {
        self.send(SocketEvent::Wake);
    }
}

impl Wake for SocketStateWaker {
    fn wake(self: Arc<Self>) {
        self.handle.send(self.event)
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.handle.send(self.event)
    }
}
