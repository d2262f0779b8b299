//! What a run said, as it is kept with its task.

use crate::memory::Charge;

/// The log lines of one run, one JSON document a line. Made by whoever runs tasks, from text that may be shown.
#[derive(Debug)]
pub struct RunLog {
    lines: String,
    is_cut: bool,
    /// What it takes of the host's memory, for as long as it is held.
    _charges: Vec<Charge>,
}

impl RunLog {
    /// A log of these lines, which take that much memory.
    #[must_use]
    pub fn new(lines: String, is_cut: bool, charges: Vec<Charge>) -> Self {
        Self { lines, is_cut, _charges: charges }
    }

    /// The lines: `{"at": …, "level": …, "context": …, "message": …}` each.
    #[must_use]
    pub fn lines(&self) -> &str {
        &self.lines
    }

    /// Whether the run said more.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }
}

impl PartialEq for RunLog {
    fn eq(&self, other: &Self) -> bool {
        (&self.lines, self.is_cut) == (&other.lines, other.is_cut)
    }
}
