//! Processor time of the processes that share the work, read from `/proc`: unlike a rate it says little of what else the
//! machine does meanwhile.

use std::path::Path;
use std::time::Duration;

/// Programs of the servers, as the kernel names their processes.
const BROKER: &str = "beam.smp";
const DATABASE: &str = "postgres";

/// Processor time that was used up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// By the host; by the program itself where that consumes.
    pub(crate) consumer: Duration,
    /// By every RabbitMQ of this machine.
    pub(crate) broker: Duration,
    /// By every PostgreSQL of this machine.
    pub(crate) database: Duration,
}

impl Spent {
    /// What was used so far, where the consumer is this process.
    pub(crate) fn now(consumer: u32) -> Self {
        Self { consumer: of_process(consumer).unwrap_or_default(), broker: of_all(BROKER), database: of_all(DATABASE) }
    }

    /// What was used since.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            consumer: self.consumer.saturating_sub(before.consumer),
            broker: self.broker.saturating_sub(before.broker),
            database: self.database.saturating_sub(before.database),
        }
    }

    /// Microseconds for each of so many messages: consumer, broker, database.
    pub(crate) fn micros_each(self, messages: u32) -> [f64; 3] {
        [self.consumer, self.broker, self.database].map(|spent| spent.as_secs_f64() * 1e6 / f64::from(messages))
    }
}

fn of_process(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything: the state is field 3, user and system time are 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    // SAFETY: sysconf() takes a number and reads a constant.
    let ticks_per_s = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|ticks| *ticks > 0)?;
    Some(Duration::from_millis((user + system) * 1_000 / ticks_per_s))
}

fn of_all(name: &str) -> Duration {
    let is_called = |folder: &Path| std::fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let pids =
        processes.filter(|folder| is_called(folder)).filter_map(|folder| folder.file_name()?.to_str()?.parse().ok());
    pids.filter_map(of_process).sum()
}
