use super::*;
use crate::records::{Progress, Status};
use crate::task::TaskId;

async fn submitted(host: &mut Host) -> TaskId {
    assert_eq!(host.run(&["submit", "echo", "x"]).await.status, 0);
    host.published.recv().await.unwrap().0.id
}

#[tokio::test]
async fn a_task_is_cancelled_once() {
    let mut host = Host::start(Auth::default()).await;
    let id = submitted(&mut host).await;
    let ended = host.run(&["tasks", "cancel", id.as_str()]).await;
    assert_eq!((ended.status, ended.text()), (0, format!("task {id} is cancelled\n").as_str()), "{}", ended.err);
    assert_eq!(host.doubles.status_of(&id), Some(Status::Cancelled));
    let ended = host.run(&["tasks", "cancel", id.as_str()]).await;
    assert!(ended.status == 64 && ended.err.contains("cancelled before"), "{}", ended.err);
    let other = submitted(&mut host).await;
    let json = host.run(&["tasks", "cancel", other.as_str(), "--format", "json"]).await.json();
    assert_eq!(json, serde_json::json!({ "id": other, "status": "cancelled" }));
    let ended = host.run(&["tasks", "cancel", "nothing"]).await;
    assert!(ended.status == 64 && ended.err.contains("No such task"), "{}", ended.err);
}

#[tokio::test]
async fn cancelling_needs_the_token_for_tasks() {
    let host = Host::start(Auth { submit: Some(Token::new("s")), ..Auth::default() }).await;
    let ended = host.run(&["tasks", "cancel", "x"]).await;
    assert!(ended.status == 64 && ended.err.contains("AGENT_HOST_SUBMIT_TOKEN"), "{}", ended.err);
    let ended = host.run(&["tasks", "cancel", "x", "--token", "s"]).await;
    assert!(ended.err.contains("No such task"), "{}", ended.err);
}

/// Output that a test reads while the command goes on.
#[derive(Clone, Default)]
struct Shared(std::sync::Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Returns once this many lines are there.
    async fn lines(&self, count: usize) -> Vec<String> {
        loop {
            let lines: Vec<String> =
                String::from_utf8_lossy(&self.0.lock().unwrap()).lines().map(str::to_owned).collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Runs `tasks watch` beside a host that goes on with the task, and returns the exit status.
async fn watch(host: &Host, arguments: &[&str], out: &Shared, goes_on: impl Future<Output = ()>) -> u8 {
    let words = ["agent-host", "--url", host.url.as_str(), "tasks", "watch"];
    let cli = Cli::try_parse_from(words.iter().chain(arguments)).unwrap();
    let (mut out, mut err, vars) = (out.clone(), Vec::new(), MapVars::new(&[]));
    let mut console = Console { out: &mut out, err: &mut err, vars: &vars, format: Format::Text };
    let composition = Started::default();
    tokio::join!(run(cli, &composition, &mut console), goes_on).0
}

#[tokio::test]
async fn watching_prints_each_change_and_ends_with_the_task() {
    let mut host = Host::start(Auth::default()).await;
    let id = submitted(&mut host).await;
    let out = Shared::default();
    let goes_on = async {
        out.lines(1).await;
        host.doubles.change(&id, |record| record.status = Status::Running);
        out.lines(2).await;
        let half = Progress { fraction: 0.5, note: "half".to_owned() };
        host.doubles.change(&id, |record| record.progress = Some(half));
        out.lines(3).await;
        host.doubles.succeed(&id, None, b"");
    };
    assert_eq!(watch(&host, &[id.as_str()], &out, goes_on).await, 0);
    let expected = ["queued", "running, attempt 1", "running, attempt 1: 50 % half", "succeeded, attempt 1"];
    assert_eq!(out.lines(4).await, expected);
}

#[tokio::test]
async fn watching_a_task_that_fails_ends_with_1_also_as_json() {
    let mut host = Host::start(Auth::default()).await;
    let id = submitted(&mut host).await;
    let out = Shared::default();
    let goes_on = async {
        out.lines(1).await;
        host.doubles.fail(&id, "trapped", "unreachable");
    };
    assert_eq!(watch(&host, &[id.as_str(), "--format", "json"], &out, goes_on).await, 1);
    let documents: Vec<Value> =
        out.lines(2).await.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    let statuses: Vec<_> = documents.iter().map(|document| document["status"].clone()).collect();
    assert_eq!(
        (statuses, &documents[1]["failure"]["type"]),
        (vec!["queued".into(), "failed".into()], &"trapped".into())
    );
    // One that ended long ago has one line.
    let again = Shared::default();
    assert_eq!(watch(&host, &[id.as_str()], &again, async {}).await, 1);
    assert_eq!(again.lines(1).await, ["failed, attempt 1: trapped: unreachable"]);
}

#[tokio::test]
async fn watching_goes_on_where_the_stream_ends_early() {
    let mut host = Host::start(Auth::default()).await;
    let id = submitted(&mut host).await;
    // Event streams end at once where the host drains.
    host.doubles.draining.cancel();
    let out = Shared::default();
    let goes_on = async {
        out.lines(1).await;
        host.doubles.succeed(&id, None, b"");
    };
    assert_eq!(watch(&host, &[id.as_str()], &out, goes_on).await, 0);
    assert_eq!(out.lines(2).await, ["queued", "succeeded, attempt 1"]);
}
