//! `[record]`: which runs are recorded.

use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// `[record]`: what is kept so that a run can be replayed elsewhere, call by call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which runs are recorded; those that fail, where there is such a table.
    #[serde(default = "RecordOn::failure")]
    pub on: RecordOn,
    /// Bytes of one recording, the task's body included; the rest of a run that passes it is left out, and said to be.
    #[serde(default = "size_default")]
    pub size: ByteSize,
}

/// Smallest `record.size`: a task without a body and the manifest have room.
pub(super) const RECORDING_BYTES_MIN: ByteSize = ByteSize(16 << 10);
/// Largest `record.size`: the largest body of a task and as much again. A recording is in the host's memory while its task
/// runs, and in the database beside its dead letter.
pub const RECORDING_BYTES_MAX: ByteSize = ByteSize(16 << 20);

impl Default for Record {
    /// Nothing: a recording holds what the agent was given, such as rows, and so needs somebody's word.
    fn default() -> Self {
        Self { on: RecordOn::Never, size: size_default() }
    }
}

/// Some thousands of calls.
const fn size_default() -> ByteSize {
    ByteSize(1 << 20)
}

impl Record {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Which of an agent's runs are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordOn {
    /// None.
    #[default]
    Never,
    /// Those that fail: the last one is kept with the dead letter.
    Failure,
}

impl RecordOn {
    const fn failure() -> Self {
        Self::Failure
    }
}
