//! Streams over files: writes that are counted, and places that bound how many streams there are.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::p2::{DynInputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::Writable;
use super::limits::WRITE_BYTES_MAX;
use super::task::StreamPlace;
use super::usage::Place;

/// wasmtime-wasi's stream, with its place.
pub(super) struct Reading {
    pub(super) inner: DynInputStream,
    pub(super) _place: StreamPlace,
}

#[async_trait::async_trait]
impl Pollable for Reading {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait::async_trait]
impl InputStream for Reading {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.blocking_read(size).await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

/// A stream into a file, at most one write ahead of the disk.
pub(super) struct Writing {
    file: Arc<File>,
    folder: Writable,
    place: Place,
    state: State,
    _place: StreamPlace,
}

enum State {
    Ready,
    Busy(AbortOnDropJoinHandle<io::Result<u64>>),
    Failed(io::Error),
    Closed,
}

impl Writing {
    pub(super) fn new(file: Arc<File>, folder: Writable, place: Place, stream: StreamPlace) -> Self {
        Self { file, folder, place, state: State::Ready, _place: stream }
    }

    /// Answers with what went wrong, once.
    fn check(&mut self) -> StreamResult<()> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
            State::Closed => Err(StreamError::Closed),
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    async fn settle(&mut self) {
        if let State::Busy(write) = &mut self.state {
            self.state = match write.await {
                Ok(written) => {
                    if let Place::At(at) = &mut self.place {
                        *at = at.saturating_add(written);
                    }
                    State::Ready
                }
                Err(error) => State::Failed(error),
            };
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Writing {
    async fn ready(&mut self) {
        self.settle().await;
    }
}

#[async_trait::async_trait]
impl OutputStream for Writing {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.check()?;
        if matches!(self.state, State::Busy(_)) || bytes.len() > WRITE_BYTES_MAX {
            return Err(StreamError::trap("more was written than check-write allowed"));
        }
        let (file, folder, place) = (Arc::clone(&self.file), self.folder.clone(), self.place);
        self.state = State::Busy(spawn(async move { folder.write(file, bytes, place).await }));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        // Writes go straight to the file; whether the last one succeeded is told by the next check.
        self.check()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.check()?;
        Ok(if matches!(self.state, State::Busy(_)) { 0 } else { WRITE_BYTES_MAX })
    }

    /// What was written before the stream is dropped is written.
    async fn cancel(&mut self) {
        self.settle().await;
    }
}
