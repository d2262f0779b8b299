//! What ran: collected per agent, printed as a table.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ui;

/// How many problems are shown in full.
const PROBLEMS_SHOWN_MAX: usize = 10;

/// One task that ended.
pub(super) struct Ended {
    /// Its agent.
    pub(super) agent: &'static str,
    /// Why it did not end as planned, if so.
    pub(super) problem: Option<String>,
    /// From handing in to result, as the caller saw it.
    pub(super) answered_after: Duration,
    /// The most linear memory that its instance had, in bytes, by the host's own measure.
    pub(super) memory_bytes_peak: Option<u64>,
}

#[derive(Default)]
struct Row {
    failed: usize,
    answered_after: Vec<Duration>,
    memory_bytes_peak: Option<u64>,
}

/// Everything that ended so far.
#[derive(Default)]
pub(super) struct Report {
    rows: BTreeMap<&'static str, Row>,
    problems: Vec<String>,
    running_for: Duration,
}

impl Report {
    /// Takes in a task.
    pub(super) fn add(&mut self, ended: Ended) {
        let row = self.rows.entry(ended.agent).or_default();
        row.answered_after.push(ended.answered_after);
        row.memory_bytes_peak = row.memory_bytes_peak.max(ended.memory_bytes_peak);
        if let Some(problem) = ended.problem {
            row.failed += 1;
            self.problems.push(format!("{}: {problem}", ended.agent));
        }
    }

    /// Takes in how long a stage took.
    pub(super) fn add_time(&mut self, time: Duration) {
        self.running_for += time;
    }

    /// Whether every task ended as planned.
    pub(super) fn all_as_planned(&self) -> bool {
        self.problems.is_empty()
    }

    /// One line over everything.
    pub(super) fn headline(&self) -> String {
        let tasks: usize = self.rows.values().map(|row| row.answered_after.len()).sum();
        let seconds = self.running_for.as_secs_f64();
        format!("{tasks} tasks in {seconds:.1} s, each in a fresh instance; {} not as planned", self.problems.len())
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let head = ["agent", "tasks", "ok", "failed", "p50 ms", "p95 ms", "peak memory"];
        let rows: Vec<Vec<String>> = self.rows.iter().map(|(agent, row)| row.cells(agent)).collect();
        ui::table(&head, &rows)
    }

    /// What did not end as planned.
    pub(super) fn print_problems(&self) {
        for problem in self.problems.iter().take(PROBLEMS_SHOWN_MAX) {
            ui::warn(problem);
        }
        if self.problems.len() > PROBLEMS_SHOWN_MAX {
            ui::warn(&format!("and {} more", self.problems.len() - PROBLEMS_SHOWN_MAX));
        }
    }
}

impl Row {
    fn cells(&self, agent: &str) -> Vec<String> {
        let mut times = self.answered_after.clone();
        times.sort();
        let quantile = |per_cent| quantile(&times, per_cent).map_or_else(String::new, milliseconds);
        vec![
            agent.to_owned(),
            times.len().to_string(),
            (times.len() - self.failed).to_string(),
            self.failed.to_string(),
            quantile(50),
            quantile(95),
            self.memory_bytes_peak.map_or_else(String::new, mebibytes),
        ]
    }
}

/// The smallest value that `per_cent` of the sorted values do not exceed.
fn quantile(sorted: &[Duration], per_cent: usize) -> Option<Duration> {
    let rank = (sorted.len() * per_cent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

fn mebibytes(bytes: u64) -> String {
    // Exact enough for a table; below 2^53 the conversion loses nothing.
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let times: Vec<_> = (1..=20).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 50), Some(Duration::from_millis(10)));
        assert_eq!(quantile(&times, 95), Some(Duration::from_millis(19)));
        assert_eq!(quantile(&times[..1], 95), Some(Duration::from_millis(1)));
        assert_eq!(quantile(&[], 95), None);
    }
}
