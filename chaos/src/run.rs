//! One run from start to audit.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::Setting;
use crate::audit::{self, Evidence, Facts, Verdict, Violation};
use crate::book::Book;
use crate::database::Database;
use crate::faults::{self, Done, Fleet};
use crate::hosts::{self, Host};
use crate::progress::Progress;
use crate::queues::Queues;
use crate::relay::Relay;
use crate::schedule::{HOSTS, Schedule, Server};
use crate::servers::Servers;
use crate::submit::{Client, Publisher, Submitter};

/// How often a line tells how far the run is.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How often the end is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long hosts may take to find the letters of redriven tasks in their queue: they look every minute.
const LETTERS_LIMIT: Duration = Duration::from_secs(75);
/// Of how many tasks each host is asked what became of them.
const ASKED: usize = 25;

/// The servers' own addresses, in the order of [`Server::ALL`].
struct Addresses([String; 3]);

impl Addresses {
    fn from_environment() -> Result<Self> {
        let read = |server: Server| {
            let variable = server.variable();
            std::env::var(variable).with_context(|| format!("{variable} is not set: run cargo xtask chaos"))
        };
        Ok(Self([read(Server::RabbitMq)?, read(Server::Postgres)?, read(Server::Redis)?]))
    }

    fn amqp(&self) -> &str {
        let [amqp, ..] = &self.0;
        amqp
    }

    fn database(&self) -> &str {
        let [_, database, _] = &self.0;
        database
    }
}

/// What a run consists of.
struct Run {
    addresses: Addresses,
    fleet: Arc<Fleet>,
    book: Arc<Book>,
    database: Database,
    progress: Progress,
    done: Arc<Done>,
    submitter: Submitter,
    /// What the run itself found wrong.
    problems: Vec<String>,
}

/// Runs the schedule and audits it; whether nothing was found.
pub(crate) async fn run(schedule: Schedule, setting: &Setting) -> Result<bool> {
    let folder = tempfile::Builder::new().prefix("agent-host-chaos-").tempdir();
    let folder = folder.context("could not make a temporary folder")?;
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    let seed = schedule.seed;
    let whole = async {
        let begun = Instant::now();
        let mut run = Run::start(schedule, setting, folder.path()).await?;
        run.work().await;
        let verdict = run.audit().await?;
        let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let (kills, restarts, cuts) = (count(&run.done.kills), count(&run.done.restarts), count(&run.done.cuts));
        println!("\n{}", verdict.report(&Facts { kills, restarts, cuts, time: begun.elapsed() }));
        anyhow::Ok(verdict.is_sound())
    };
    let result = tokio::select! {
        result = whole => result,
        _ = terminate.recv() => bail!("ended by SIGTERM"),
        _ = interrupt.recv() => bail!("ended by SIGINT"),
    };
    if !matches!(result, Ok(true)) {
        keep(folder, seed);
    }
    result
}

fn keep(folder: TempDir, seed: u64) {
    println!("to repeat the schedule: --seed {seed}; the hosts' logs and data are kept in {}", folder.keep().display());
}

impl Run {
    async fn start(schedule: Schedule, setting: &Setting, folder: &Path) -> Result<Self> {
        let addresses = Addresses::from_environment()?;
        let mut relays = Vec::new();
        for address in &addresses.0 {
            relays.push(Relay::start(address).await?);
        }
        let urls = Server::ALL.into_iter().zip(relays.iter().map(|relay| relay.url().to_owned()));
        let settings = hosts::Settings {
            program: setting.host.clone(),
            agents_dir: agents_dir(&setting.agent, folder)?,
            folder: folder.to_owned(),
            urls: urls.collect(),
        };
        let hosts = hosts::start(&settings)?;
        let http = Client::new(hosts.iter().map(|host| host.url("")).collect())?;
        for host in &hosts {
            host.await_ready(http.inner()).await?;
        }
        println!("{HOSTS} hosts are ready");
        // Over the relay, so that publishing meets the same disturbances as consuming.
        let amqp = Publisher::new(relays.first().context("there are relays")?.url());
        let book = Arc::new(Book::default());
        Queues::connect(addresses.amqp()).await?.make_results().await?;
        let database = Database::new(addresses.database())?;
        let progress = Progress::start(database.clone(), Arc::clone(&book));
        let run = format!("s{:x}", schedule.seed);
        let submitter = Submitter {
            run,
            schedule: Arc::new(schedule),
            book: Arc::clone(&book),
            database: database.clone(),
            http,
            amqp,
        };
        let fleet = Arc::new(Fleet { hosts, relays, servers: Servers::new(setting.pids.clone()) });
        Ok(Self { addresses, fleet, book, database, progress, done: Arc::default(), submitter, problems: Vec::new() })
    }

    /// Sends, breaks, and waits for the last end. What goes wrong is for the audit.
    async fn work(&mut self) {
        let work = async {
            let faults = &self.submitter.schedule.faults;
            tokio::try_join!(
                self.submitter.run(&self.progress),
                faults::run(faults, &self.fleet, &self.done, &self.progress),
            )?;
            self.settled().await
        };
        let problem = tokio::select! {
            result = work => result.err().map(|error| format!("the run broke off: {error:#}")),
            stuck = self.progress.stuck() => Some(format!("{stuck}; {}", self.what_is_left().await)),
            never = self.tell() => match never {},
        };
        self.problems.extend(problem);
    }

    /// Waits until every accepted task has ended, with its follow-up, and nothing is on its way any more.
    async fn settled(&self) -> Result<()> {
        println!("all is sent and promised; waiting for the last ends");
        self.ended(self.book.ids()).await;
        println!("all have ended; waiting for what the outbox holds: {:?}", self.database.unsent().await);
        // Servers may still be on their way back; whether they are is for the clock that looks for a stuck run.
        while self.database.unsent().await.ok() != Some(0) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let follow_ups: Vec<_> = self.database.ledger().await?.into_iter().filter_map(|row| row.follow_up).collect();
        println!("waiting for the ends of {} follow-ups", follow_ups.len());
        self.ended(follow_ups).await;
        println!("waiting for the queues to be empty");
        loop {
            let left = async { Queues::connect(self.addresses.amqp()).await?.left().await };
            let is_empty = left.await.is_ok_and(|left| left.is_empty());
            // A follow-up that failed has left a dead letter.
            if is_empty && self.database.unsent().await.ok() == Some(0) {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// What a stuck run may be waiting for.
    async fn what_is_left(&self) -> String {
        let open = self.database.open(&self.book.ids()).await;
        let open = open.map(|open| format!("{} without an end, as {:?}", open.len(), open.first()));
        let unsent = self.database.unsent().await;
        let queues = async { Queues::connect(self.addresses.amqp()).await?.left().await }.await;
        format!(
            "{}; tasks: {open:?}; unsent: {unsent:?}; queues: {queues:?}; the last unclear answer: {}",
            self.book.at(),
            self.submitter.http.last_unclear(),
        )
    }

    /// Waits until these have ended.
    async fn ended(&self, mut open: Vec<String>) {
        while !open.is_empty() {
            if let Ok(left) = self.database.open(&open).await {
                open = left;
            }
            if !open.is_empty() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }

    /// Tells how far the run is, until it is over.
    async fn tell(&self) -> std::convert::Infallible {
        let all = self.submitter.schedule.ends();
        loop {
            tokio::time::sleep(REPORT_INTERVAL).await;
            let (counts, ended) = (self.book.counts(), self.progress.ended());
            let done = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
            println!(
                "accepted {}, ended {ended} of {all}; {} kills, {} restarts, {} disturbances",
                counts.accepted,
                done(&self.done.kills),
                done(&self.done.restarts),
                done(&self.done.cuts),
            );
        }
    }

    async fn audit(&mut self) -> Result<Verdict> {
        let mut problems = std::mem::take(&mut self.problems);
        problems.extend(self.ask_hosts().await?);
        self.letters_removed().await;
        let listed = self.submitter.http.dead_letters(0).await.context("the dead letters cannot be listed")?;
        for (index, host) in self.fleet.hosts.iter().enumerate() {
            problems.extend(ended(index, host).await);
        }
        let queues = Queues::connect(self.addresses.amqp()).await?;
        for (queue, count) in queues.left().await? {
            problems.push(format!("{count} messages are left in {queue}"));
        }
        let (letters, answers) = (queues.take_dead_letters().await?, queues.take_results().await?);
        let (rows, records) = (self.database.ledger().await?, self.database.records().await?);
        let (entries, refusals) = self.book.close();
        problems.extend(refusals);
        let mut verdict = audit::judge(&Evidence { entries, rows, records, letters, listed, answers });
        problems.into_iter().for_each(|problem| verdict.blame(Violation::Other, problem));
        Ok(verdict)
    }

    /// Gives hosts the time to look once more for letters of redriven tasks that were not in their queue at first, because
    /// the host died that was about to send them. Not all of them need be found: a host may have removed one, and died
    /// before it could say so.
    async fn letters_removed(&self) {
        let until = Instant::now() + LETTERS_LIMIT;
        while Instant::now() < until && self.database.taken().await.ok() != Some(0) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Asks every host for the status of a few tasks: each must say what the database says.
    async fn ask_hosts(&self) -> Result<Vec<String>> {
        let records = self.database.records().await?;
        let step = (records.len() / ASKED).max(1);
        let mut wrong = Vec::new();
        for record in records.iter().filter(|record| record.has_ended()).step_by(step) {
            for host in 0..HOSTS {
                let told = self.submitter.http.status(host, &record.id).await.unwrap_or_else(|error| error.to_string());
                let true_status = record.status_name();
                if told != true_status {
                    wrong.push(format!("host {host} says of {} that it is {told}; it is {true_status}", record.id));
                }
            }
        }
        Ok(wrong)
    }
}

/// Stops a host; says what was wrong with its life.
async fn ended(index: usize, host: &Host) -> Vec<String> {
    match host.stop().await {
        Ok(life) => {
            let deaths = life.deaths.iter().map(|status| format!("host {index} died of itself: {status}"));
            let end = (!life.end.success()).then(|| format!("host {index} did not drain cleanly: {}", life.end));
            deaths.chain(end).collect()
        }
        Err(error) => vec![format!("host {index}: {error:#}")],
    }
}

/// A folder with the one agent in it.
fn agents_dir(agent: &Path, folder: &Path) -> Result<std::path::PathBuf> {
    let agents = folder.join("agents");
    std::fs::create_dir(&agents).context("could not make a folder for the agent")?;
    let agent = agent.canonicalize().with_context(|| format!("there is no agent in {}", agent.display()))?;
    std::os::unix::fs::symlink(agent, agents.join("ledger")).context("could not put the agent into its folder")?;
    Ok(agents)
}
