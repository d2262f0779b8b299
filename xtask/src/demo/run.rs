//! Runs a stage: some callers side by side, each handing in a task and asking until it has ended.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::report::{Ended, Report};
use super::work::{Stage, Task};
use crate::client::Client;
use crate::host::Host;
use crate::{process, ui};

/// Callers side by side: enough to keep every core busy, few enough that the times are not mostly queueing.
pub(super) const CALLERS: usize = 8;
/// How often a caller asks for a task's status.
const ASK_INTERVAL: Duration = Duration::from_millis(2);
/// How long a task may take before the demo gives up on it. The slowest sample takes well under a second.
const TASK_LIMIT: Duration = Duration::from_secs(60);
/// How often the picture of the progress is drawn anew on a terminal.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// How often a line about the progress is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Runs every task of a stage.
pub(super) fn stage(client: &Client, host: &mut Host, stage: &Stage, report: &mut Report) -> Result<()> {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let ended = Mutex::new(Vec::with_capacity(stage.tasks.len()));
    let outcome = std::thread::scope(|scope| {
        let call = || {
            while let Some(task) = stage.tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let one = run_one(client, task, &stop);
                lock(&ended).push(one);
            }
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(call)).collect();
        let outcome = watch(host, stage, &ended, || callers.iter().all(std::thread::ScopedJoinHandle::is_finished));
        // On an interrupt or a dead host the callers are still at it; they look at this between two questions.
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    outcome?;
    report.add_time(begun.elapsed());
    lock(&ended).drain(..).for_each(|one| report.add(one));
    Ok(())
}

/// Shows the progress until all callers are done.
fn watch(host: &mut Host, stage: &Stage, ended: &Mutex<Vec<Ended>>, done: impl Fn() -> bool) -> Result<()> {
    let mut live = ui::Live::default();
    let mut line_at = Instant::now() + LINE_INTERVAL;
    loop {
        let finished = done();
        let counts = counts(stage, &lock(ended));
        live.draw(&counts.iter().map(bar).collect::<Vec<_>>());
        if !ui::is_terminal() && (finished || Instant::now() >= line_at) {
            ui::say(&counts.iter().map(plain).collect::<Vec<_>>().join(", "));
            line_at = Instant::now() + LINE_INTERVAL;
        }
        if finished {
            return Ok(());
        }
        host.check_alive()?;
        process::pause(DRAW_INTERVAL)?;
    }
}

/// How many of an agent's tasks have ended, of how many.
struct Count {
    agent: &'static str,
    done: usize,
    total: usize,
}

fn counts(stage: &Stage, ended: &[Ended]) -> Vec<Count> {
    let count = |agent| Count {
        agent,
        done: ended.iter().filter(|one| one.agent == agent).count(),
        total: stage.tasks.iter().filter(|task| task.agent == agent).count(),
    };
    stage.agents().into_iter().map(count).collect()
}

fn bar(count: &Count) -> String {
    const WIDTH: usize = 30;
    let Count { agent, done, total } = count;
    let filled = done * WIDTH / total.max(&1);
    let bar = format!("{}{}", "█".repeat(filled), "░".repeat(WIDTH - filled));
    format!("          {agent:<14} {bar} {done:>4} of {total}")
}

fn plain(count: &Count) -> String {
    format!("{} {}/{}", count.agent, count.done, count.total)
}

/// Hands a task in and waits for its end.
fn run_one(client: &Client, task: &Task, stop: &AtomicBool) -> Ended {
    let begun = Instant::now();
    let mut memory_bytes_peak = None;
    let result = client.submit(task.agent, task.content_type, &task.body).and_then(|id| {
        loop {
            let status = client.task(&id)?;
            if status.is_terminal() {
                memory_bytes_peak = status.usage("memory_bytes_peak");
                return Ok((task.check)(&status));
            }
            if stop.load(Ordering::Relaxed) || begun.elapsed() > TASK_LIMIT {
                return Ok(Err(format!("task {id} is still {} after {:.0?}", status.status, begun.elapsed())));
            }
            std::thread::sleep(ASK_INTERVAL);
        }
    });
    let problem = match result {
        Ok(checked) => checked.err(),
        Err(error) => Some(format!("{error:#}")),
    };
    Ended { agent: task.agent, problem, answered_after: begun.elapsed(), memory_bytes_peak }
}

/// A caller that panicked left at worst a finished entry behind; the list is still good.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
