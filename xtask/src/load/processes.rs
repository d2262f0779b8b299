//! Processor time and resident memory of processes with all their descendants, from `/proc`.

use std::collections::BTreeMap;

/// The unit of the times in `/proc/*/stat`, in ticks per second: the same on every Linux that Rust runs on.
const TICKS_PER_S: f64 = 100.0;

/// One process.
struct Entry {
    parent: u32,
    cpu_ticks: u64,
    memory_pages: u64,
}

/// All processes at one moment.
pub(super) struct Processes {
    entries: BTreeMap<u32, Entry>,
}

impl Processes {
    /// Looks; finds none where there is no `/proc`.
    pub(super) fn look() -> Self {
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let entry = |pid| Some((pid, parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?));
        Self { entries: pids.filter_map(entry).collect() }
    }

    /// Processor time that a process and its descendants have used so far, in seconds. One that has ended is with its
    /// parent's no longer: take differences as at least 0.
    pub(super) fn cpu_s(&self, root: u32) -> f64 {
        self.sum(root, |entry| entry.cpu_ticks) / TICKS_PER_S
    }

    /// What a process and its descendants keep resident, in bytes. Pages that they share count for each.
    pub(super) fn memory_bytes(&self, root: u32) -> f64 {
        self.sum(root, |entry| entry.memory_pages) * page_bytes()
    }

    /// What a process itself keeps resident, in bytes.
    pub(super) fn own_memory_bytes(&self, pid: u32) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "no machine has 2^53 pages")]
        let pages = self.entries.get(&pid).map_or(0.0, |entry| entry.memory_pages as f64);
        pages * page_bytes()
    }

    #[expect(clippy::cast_precision_loss, reason = "no machine has 2^53 ticks or pages")]
    fn sum(&self, root: u32, of: impl Fn(&Entry) -> u64) -> f64 {
        let ours = self.entries.iter().filter(|(pid, _)| self.is_below(**pid, root));
        ours.map(|(_, entry)| of(entry)).sum::<u64>() as f64
    }

    fn is_below(&self, pid: u32, root: u32) -> bool {
        let mut at = pid;
        // A parent's id may be taken by a later process: a ring must not hold us.
        for _ in 0..self.entries.len() {
            match self.entries.get(&at) {
                _ if at == root => return true,
                Some(entry) => at = entry.parent,
                None => return false,
            }
        }
        false
    }
}

#[expect(clippy::cast_precision_loss, reason = "a page is no 2^53 bytes")]
fn page_bytes() -> f64 {
    rustix::param::page_size() as f64
}

/// Reads a line of `/proc/*/stat`. The name in it may hold anything, brackets included.
fn parse(stat: &str) -> Option<Entry> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Entry {
        parent: u32::try_from(number(1)?).ok()?,
        cpu_ticks: number(11)? + number(12)?,
        memory_pages: number(21)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (odd) name) S 7 42 42 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 100 1000000 256 184467 1 1 0";

    #[test]
    fn a_line_is_read_after_the_last_bracket() {
        let entry = parse(STAT).unwrap();
        assert_eq!((entry.parent, entry.cpu_ticks, entry.memory_pages), (7, 200, 256));
        assert!(parse("42 (cut off) S 7").is_none());
    }

    #[test]
    fn descendants_count_and_others_do_not() {
        let entry = |parent, cpu_ticks| Entry { parent, cpu_ticks, memory_pages: 1 };
        let entries = [(1, entry(0, 0)), (7, entry(1, 100)), (8, entry(7, 50)), (9, entry(8, 25)), (10, entry(1, 999))];
        let processes = Processes { entries: entries.into() };
        assert_eq!(processes.cpu_s(7), 1.75);
        assert_eq!(processes.memory_bytes(8), 2.0 * page_bytes());
        assert_eq!(processes.own_memory_bytes(8), page_bytes());
        // Processes that are each other's parents, as a look in the middle of changes may show them.
        let ring = Processes { entries: [(2, entry(3, 1)), (3, entry(2, 1))].into() };
        assert_eq!(ring.cpu_s(7), 0.0);
    }
}
