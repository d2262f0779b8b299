//! The recording of a run, as it is kept with its task's dead letter.

use bytes::Bytes;

use crate::memory::Charge;

/// A file that a run can be replayed from. Whoever makes it takes the secrets out.
#[derive(Debug)]
pub struct RunRecording {
    file: Bytes,
    /// What it takes of the host's memory, for as long as it is held.
    _charge: Charge,
}

impl RunRecording {
    /// This file, which takes that much memory.
    #[must_use]
    pub fn new(file: Bytes, charge: Charge) -> Self {
        Self { file, _charge: charge }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Bytes {
        &self.file
    }
}
