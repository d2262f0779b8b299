//! What a run prints at its end.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Verdict, Violation};

/// How many of each violation are named.
const NAMED_MAX: usize = 20;

/// What the run did, apart from what came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) kills: u64,
    pub(crate) restarts: u64,
    pub(crate) cuts: u64,
    pub(crate) time: Duration,
}

impl Verdict {
    /// Whether everything promised was kept.
    pub(crate) fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }

    fn count(&self, violation: Violation) -> u64 {
        self.violations.get(&violation).map_or(0, |found| found.len() as u64)
    }

    /// The table, and the first of each violation.
    pub(crate) fn report(&self, facts: &Facts) -> String {
        let lines = [
            ("submitted", self.submitted, "tasks, lost tries under labels of their own included"),
            ("accepted", self.accepted, "by a 202 or a confirm"),
            ("unconfirmed", self.submitted - self.accepted, "may have run, once at most"),
            ("  of which ran", self.unconfirmed_ran, ""),
            ("duplicates sent", self.sends - self.submitted, "the same id and body again, meant or by a retry"),
            ("succeeded", self.succeeded, "of the accepted"),
            ("  of which redriven", self.redriven, "after they had failed"),
            ("dead-lettered", self.dead_lettered, "of the accepted, as planned"),
            ("  of which expired", self.expired, "their deadline passed, and they did not run"),
            ("cancelled", self.cancelled, "of the accepted, as promised"),
            ("results", self.answered, "of those whose senders asked for one"),
            ("follow-ups", self.follow_ups, ""),
            ("letters twice", self.letters_repeated, "dead letters are delivered at least once"),
            ("letters left", self.letters_left_behind, "of tasks that were redriven, sent again after a crash"),
            ("LOST", self.count(Violation::Lost), "accepted, and without an end, an effect or a dead letter"),
            ("DOUBLE EFFECTS", self.count(Violation::Double), ""),
            ("EXTRA EFFECTS", self.count(Violation::Extra), "of tasks that failed, or of none"),
            ("WRONG ENDS", self.count(Violation::WrongEnd), "other than planned"),
            ("TWO ENDS", self.count(Violation::TwoEnds), "success and dead letter, or two ids"),
            (
                "WRONG ATTEMPTS",
                self.count(Violation::WrongAttempts),
                "used up by something else than the task's failures",
            ),
            ("WRONG LISTS", self.count(Violation::WrongList), "of dead letters, against queue and records"),
            ("WRONG RESULTS", self.count(Violation::WrongAnswer), "none, or that of another end"),
            ("OTHER", self.count(Violation::Other), "see below"),
            ("host kills", facts.kills, ""),
            ("server restarts", facts.restarts, ""),
            ("disturbances", facts.cuts, "of connections"),
        ];
        let mut text = String::new();
        for (name, count, remark) in lines {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<18} {count:>9}   {remark}");
        }
        let _ = writeln!(text, "{:<18} {:>9.1}   s", "wall time", facts.time.as_secs_f64());
        for (violation, found) in &self.violations {
            let _ = writeln!(text, "\n{violation:?}:");
            for what in found.iter().take(NAMED_MAX) {
                let _ = writeln!(text, "  {what}");
            }
            if found.len() > NAMED_MAX {
                let _ = writeln!(text, "  and {} more", found.len() - NAMED_MAX);
            }
        }
        text
    }
}
