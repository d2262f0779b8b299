//! Processor time of the processes that share the work, read from `/proc`: unlike a rate it says little of what else the
//! machine does meanwhile.

use std::time::Duration;

/// Programs of the servers, as the kernel names their processes.
const BROKER: &str = "beam.smp";
const DATABASE: &str = "postgres";

/// Processor time that was used up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// By the host; by the program itself where that consumes.
    pub consumer: Duration,
    /// By every RabbitMQ of this machine.
    pub broker: Duration,
    /// By every PostgreSQL of this machine.
    pub database: Duration,
}

impl Spent {
    /// What was used so far, where the consumer is this process with its children.
    #[must_use]
    pub fn now(consumer: u32) -> Self {
        let is_consumer = |process: &Process| process.pid == consumer || process.parent == consumer;
        let (mut spent, processes) = (Self::default(), processes());
        for process in processes {
            match process.name.as_str() {
                BROKER => spent.broker += process.spent,
                DATABASE => spent.database += process.spent,
                _ if is_consumer(&process) => spent.consumer += process.spent,
                _ => {}
            }
        }
        spent
    }

    /// What was used since.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            consumer: self.consumer.saturating_sub(before.consumer),
            broker: self.broker.saturating_sub(before.broker),
            database: self.database.saturating_sub(before.database),
        }
    }

    /// Microseconds for each of so many messages: consumer, broker, database.
    #[must_use]
    pub fn micros_each(self, messages: u32) -> [f64; 3] {
        [self.consumer, self.broker, self.database].map(|spent| spent.as_secs_f64() * 1e6 / f64::from(messages))
    }
}

struct Process {
    pid: u32,
    parent: u32,
    name: String,
    spent: Duration,
}

fn processes() -> impl Iterator<Item = Process> {
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| process(name.to_str()?.parse().ok()?))
}

/// One process; nothing where it ended meanwhile.
fn process(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, so that the fields count from its end: the state is field 3, the parent 4, user and
    // system time are 14 and 15.
    let (start, end) = stat.rsplit_once(')')?;
    let name = start.split_once('(')?.1.to_owned();
    let mut fields = end.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let mut times = fields.skip(9);
    let (user, system): (u64, u64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    // SAFETY: sysconf() takes a number and reads a constant.
    let ticks_per_s = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|ticks| *ticks > 0)?;
    Some(Process { pid, parent, name, spent: Duration::from_millis((user + system) * 1_000 / ticks_per_s) })
}
