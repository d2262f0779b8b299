//! What the demo asks of the sample agents: the one table to change when an agent's request changes.

use serde_json::{Value, json};

use crate::client::Status;

/// Says whether a task ended as planned, and otherwise what is wrong.
pub(super) type Check = Box<dyn Fn(&Status) -> Result<(), String> + Send + Sync>;

/// One task.
pub(super) struct Task {
    /// The agent that it is for.
    pub(super) agent: &'static str,
    /// The media type of its body.
    pub(super) content_type: &'static str,
    /// Its body.
    pub(super) body: Vec<u8>,
    /// What its end must look like.
    pub(super) check: Check,
}

/// Tasks that may run in any order. A stage begins when the one before it has ended.
pub(super) struct Stage {
    /// What it shows.
    pub(super) title: &'static str,
    /// Its tasks, the agents mixed.
    pub(super) tasks: Vec<Task>,
}

impl Stage {
    /// Its agents, by name.
    pub(super) fn agents(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.tasks.iter().map(|task| task.agent).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// A picture of 640 by 480 pixels, as a PNG.
const PICTURE: &[u8] = include_bytes!("../../assets/picture.png");

const ECHOES: usize = 100;
const THUMBNAILS: usize = 12;
const COUNTS: usize = 60;
const ORDERS: usize = 60;
const ROWS: usize = 60;
const READS: usize = 60;
/// Fewer keys than reads, so that most reads are hits.
const READ_KEYS: usize = 10;

const PROPOSALS: usize = 5;
const VOTERS: usize = 20;
/// How many of the voters say yes; the others say no.
const YES_VOTERS: usize = 14;
/// Each vote is sent this often, and must count once.
const VOTE_COPIES: usize = 2;
/// Percent of the voters that must agree: fewer than say yes.
const QUORUM: usize = 60;

/// The demo, in order.
pub(super) fn stages() -> Vec<Stage> {
    vec![
        Stage {
            title: "every agent at work: bodies, pictures, counters, orders, rows, cached reads, proposals",
            tasks: interleave(vec![echoes(), thumbnails(), counts(), orders(), rows(), reads(), proposals()]),
        },
        Stage { title: "votes on every proposal at once, each sent twice", tasks: votes() },
        Stage { title: "counting: every vote exactly once, every proposal decided", tasks: tallies() },
    ]
}

fn echoes() -> Vec<Task> {
    let task = |number| {
        let body = json!({ "number": number });
        let sent = body.clone();
        json_task("echo", &body, move |output| *output == sent)
    };
    (0..ECHOES).map(task).collect()
}

fn thumbnails() -> Vec<Task> {
    // Base64 of the first bytes of any PNG.
    let is_png = |output: &Value| {
        let data = output.get("base64").and_then(Value::as_str);
        data.is_some_and(|data| data.starts_with("iVBORw0KGgo"))
    };
    let task = |_| Task {
        agent: "thumbnail",
        content_type: "image/png",
        body: PICTURE.to_vec(),
        check: succeeded_with(is_png),
    };
    (0..THUMBNAILS).map(task).collect()
}

fn counts() -> Vec<Task> {
    let body = json!({ "key": "demo" });
    let positive = |output: &Value| number(output, "value").is_some_and(|value| value > 0);
    let task = |_| json_task("counter", &body, positive);
    (0..COUNTS).map(task).collect()
}

fn orders() -> Vec<Task> {
    let task = |order| {
        let body = json!({ "task_id": format!("order-{order}"), "payload": { "items": [1, 2, 3] } });
        json_task("task-worker", &body, |output| text(output, "status") == Some("processed"))
    };
    (0..ORDERS).map(task).collect()
}

fn rows() -> Vec<Task> {
    let task = |row| {
        let body = if row % 4 == 0 {
            json!({ "op": "insert", "name": format!("row {row}"), "value": row })
        } else {
            json!({ "op": "mix" })
        };
        json_task("crud", &body, |output| number(output, "rows").is_some())
    };
    (0..ROWS).map(task).collect()
}

fn reads() -> Vec<Task> {
    let task = |read| {
        let key = format!("user:{}", read % READ_KEYS);
        let body = json!({ "key": key });
        json_task("cache-reader", &body, |output| text(output, "value").is_some())
    };
    (0..READS).map(task).collect()
}

fn proposal(number: usize) -> String {
    format!("proposal {number}")
}

fn proposals() -> Vec<Task> {
    let task = |number| {
        let proposal = proposal(number);
        let body = json!({
            "op": "create-proposal", "proposal": proposal, "voters": VOTERS, "quorum": QUORUM,
        });
        json_task("voter", &body, |output| text(output, "result") == Some("created"))
    };
    (0..PROPOSALS).map(task).collect()
}

fn votes() -> Vec<Task> {
    let mut tasks = Vec::new();
    for copy in 0..VOTE_COPIES * VOTERS {
        let voter = copy % VOTERS;
        let choice = if voter < YES_VOTERS { "yes" } else { "no" };
        tasks.extend((0..PROPOSALS).map(|number| {
            let body = json!({
                "op": "vote", "proposal": proposal(number), "agent": format!("voter {voter}"), "choice": choice,
            });
            json_task("voter", &body, |output| matches!(text(output, "result"), Some("counted" | "duplicate")))
        }));
    }
    tasks
}

fn tallies() -> Vec<Task> {
    let exact = |output: &Value| {
        [("yes", YES_VOTERS), ("no", VOTERS - YES_VOTERS), ("total", VOTERS)]
            .into_iter()
            .all(|(key, expected)| number(output, key) == i64::try_from(expected).ok())
    };
    let mut tasks = Vec::new();
    for proposal in (0..PROPOSALS).map(proposal) {
        let count = json!({ "op": "count", "proposal": proposal });
        tasks.push(json_task("voter", &count, exact));
        let consensus = json!({ "op": "consensus", "proposal": proposal });
        tasks.push(json_task("voter", &consensus, |output| text(output, "status") == Some("accepted")));
    }
    let total = json!({ "key": "demo", "by": 0 });
    tasks.push(json_task("counter", &total, |output| number(output, "value") == i64::try_from(COUNTS).ok()));
    tasks
}

/// Takes turns between the lists, so that all agents work at the same time.
fn interleave(lists: Vec<Vec<Task>>) -> Vec<Task> {
    let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    let mut mixed = Vec::new();
    loop {
        let before = mixed.len();
        mixed.extend(lists.iter_mut().filter_map(Iterator::next));
        if mixed.len() == before {
            return mixed;
        }
    }
}

/// A task with a JSON body that must succeed with an output that `expected` accepts.
fn json_task(agent: &'static str, body: &Value, expected: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Task {
    Task {
        agent,
        content_type: "application/json",
        body: body.to_string().into_bytes(),
        check: succeeded_with(expected),
    }
}

fn succeeded_with(expected: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Check {
    Box::new(move |status: &Status| {
        if status.status != "succeeded" {
            return Err(status.failure());
        }
        let output = status.record.get("output").unwrap_or(&Value::Null);
        if expected(output) {
            return Ok(());
        }
        Err(format!("succeeded with an unexpected output: {output}"))
    })
}

fn text<'a>(output: &'a Value, key: &str) -> Option<&'a str> {
    output.get(key)?.as_str()
}

fn number(output: &Value, key: &str) -> Option<i64> {
    output.get(key)?.as_i64()
}
