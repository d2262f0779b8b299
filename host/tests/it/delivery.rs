//! A task ends once, whatever is sent twice; it can be cancelled; and what failed can be looked at and run again.

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

use super::common::{Host, HostBuilder, agent_host, agents_dir, service, wait_until};
use super::fleet::Fleet;
use futures::StreamExt;

/// A host with the misbehaving agent and the samples.
async fn host() -> Host {
    let host = HostBuilder::real().with_samples().start().await;
    deploy_misbehaving(&host, "fixtures", "1s").await;
    host
}

/// Deploys the misbehaving agent under a name of its own, with so much time for a task.
pub(crate) async fn deploy_misbehaving(host: &Host, name: &str, time: &str) {
    let folder = agents_dir().join("fixtures/manifest");
    let manifest = std::fs::read_to_string(folder.join("agent.toml")).unwrap();
    let manifest = manifest.replace(r#"name = "fixtures""#, &format!("name = {name:?}"));
    let manifest = manifest.replace(r#""1s""#, &format!("{time:?}"));
    let module = std::fs::read(folder.join("fixtures.wasm")).expect("cargo xtask agents has built it");
    let deployed = host.deploy(name, &manifest, module).await;
    assert!(deployed.status().is_success(), "{}", deployed.text().await.unwrap());
}

fn unique(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::new_v4().simple())
}

/// A client of the broker that is not the host.
pub(crate) struct Stranger {
    _connection: Connection,
    channel: Channel,
    replies: String,
    answers: lapin::Consumer,
}

impl Stranger {
    pub(crate) async fn connect() -> Self {
        Self::connect_to(&service("AMQP_URL")).await
    }

    pub(crate) async fn connect_to(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        let replies = queue.name().as_str().to_owned();
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let answers =
            channel.basic_consume(replies.as_str().into(), "".into(), no_ack, FieldTable::default()).await.unwrap();
        Self { _connection: connection, channel, replies, answers }
    }

    pub(crate) async fn send(&self, agent: &str, id: &str, headers: FieldTable, body: &[u8]) {
        let properties = BasicProperties::default()
            .with_message_id(id.into())
            .with_reply_to(self.replies.as_str().into())
            .with_delivery_mode(2)
            .with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm =
            self.channel.basic_publish("agents".into(), agent.into(), options, body, properties).await.unwrap();
        assert!(confirm.await.unwrap().is_ack());
    }

    /// Removes a queue with what is left in it.
    pub(crate) async fn delete(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// The next reply: its type and its body.
    async fn answer(&mut self) -> (String, Vec<u8>) {
        let next = tokio::time::timeout(std::time::Duration::from_secs(120), self.answers.next()).await;
        let reply = next.expect("a reply comes").unwrap().unwrap();
        (reply.properties.kind().clone().unwrap().as_str().to_owned(), reply.data)
    }
}

async fn count(host: &Host, name: &str) -> Value {
    host.run_json("counter", &json!({ "key": name, "by": 0 })).await
}

#[tokio::test]
async fn a_task_that_is_sent_many_times_runs_once_and_is_answered_each_time() {
    let host = host().await;
    let mut stranger = Stranger::connect().await;
    let (id, counter) = (unique("dup"), unique("c"));
    let body = json!({ "key": counter, "by": 1 }).to_string();
    stranger.send("counter", &id, FieldTable::default(), body.as_bytes()).await;
    let mut answers = vec![stranger.answer().await];
    for _ in 0..9 {
        stranger.send("counter", &id, FieldTable::default(), body.as_bytes()).await;
    }
    for _ in 0..9 {
        answers.push(stranger.answer().await);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == "succeeded"), "{answers:?}");
    let task = host.task(&id).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("succeeded"), &json!(1)));
    let counted = count(&host, &counter).await;
    assert_eq!(counted["value"], 1, "{counted}");
}

#[tokio::test]
async fn a_task_that_is_delivered_many_times_at_once_has_one_effect_in_sql() {
    let host = HostBuilder::real().start().await;
    let other = HostBuilder::real().start().await;
    let folder = agents_dir().join("fixtures/ledger");
    let mut deploy = agent_host();
    deploy.arg("deploy").arg(&folder).arg("--url").arg(host.url(""));
    let deployed = deploy.output().await.unwrap();
    assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
    wait_until("the other host follows", async || {
        (other.get("/v1/agents/ledger").await.unwrap().status() == 200).then_some(())
    })
    .await;
    let mut stranger = Stranger::connect().await;
    let ids: Vec<String> = (0..20).map(|_| unique("ledger")).collect();
    let body = json!({ "do": "ledger", "label": "duplicate" }).to_string();
    for _ in 0..8 {
        for id in &ids {
            stranger.send("ledger", id, FieldTable::default(), body.as_bytes()).await;
        }
    }
    for _ in 0..8 * ids.len() {
        assert_eq!(stranger.answer().await.0, "succeeded");
    }
    let pool = sqlx::PgPool::connect(&service("DATABASE_URL")).await.unwrap();
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT task_id, count(*) FROM agent_ledger.ledger WHERE task_id = ANY($1) GROUP BY 1")
            .bind(&ids)
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(rows.len(), ids.len());
    assert!(rows.iter().all(|(_, rows)| *rows == 1), "{rows:?}");
}

/// On a fleet of its own: hosts of other tests would take its tasks, and have instances of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_is_stopped_wherever_it_is() {
    let fleet = Fleet::start().await;
    let (host, other) = (fleet.host().with_samples().start().await, fleet.host().start().await);
    deploy_misbehaving(&host, "patient", "10m").await;
    let delete = async |host: &Host, id: &str| {
        let answer = host.client().delete(host.url(&format!("/v1/tasks/{id}"))).send().await.unwrap();
        answer.status().as_u16()
    };
    // One that computes, one that waits in a host call; both for far longer than this test.
    for what in ["spin", "sleep"] {
        let body = json!({ "do": what }).to_string();
        let id = host.submit("patient", "", body).await;
        wait_until("it runs", async || (host.task(&id).await["status"] == "running").then_some(())).await;
        let instances = async |host: &Host| {
            let metrics = host.get("/metrics").await.unwrap().text().await.unwrap();
            let live = metrics.lines().find_map(|line| line.strip_prefix("host_live_instances "));
            live.unwrap().parse::<u64>().unwrap()
        };
        wait_until("an instance is alive", async || {
            (instances(&host).await + instances(&other).await > 0).then_some(())
        })
        .await;
        // Whichever of the hosts runs it, the other one may be asked.
        assert_eq!(delete(&other, &id).await, 202, "{what}");
        let task = host.task(&id).await;
        assert_eq!((&task["status"], &task["failure"]["type"]), (&json!("cancelled"), &json!("cancelled")), "{task}");
        assert_eq!(delete(&host, &id).await, 409, "{what}");
    }
    wait_until("the instances are gone", async || {
        let live = async |host: &Host| {
            let metrics = host.get("/metrics").await.unwrap().text().await.unwrap();
            metrics.lines().any(|line| line == "host_live_instances 0")
        };
        (live(&host).await && live(&other).await).then_some(())
    })
    .await;
    // One that waits in a queue is discarded when it is delivered.
    let counter = unique("c");
    let id = host.submit("counter", "?delay=1s", json!({ "key": counter, "by": 1 }).to_string()).await;
    assert_eq!(delete(&host, &id).await, 202);
    wait_until("it was delivered", async || {
        let settled = async |host: &Host| {
            let metrics = host.get("/metrics").await.unwrap().text().await.unwrap();
            let is_it = |line: &str| line.contains("agent=\"counter\"") && line.contains("ended-before");
            metrics.lines().any(|line| line.starts_with("agent_settlements") && is_it(line))
        };
        (settled(&host).await || settled(&other).await).then_some(())
    })
    .await;
    assert_eq!(host.task(&id).await["status"], "cancelled");
    assert_eq!(count(&host, &counter).await["value"], 0);
    assert_eq!(delete(&host, &unique("nobody")).await, 404);
    drop((host, other));
    fleet.end().await;
}

#[tokio::test]
async fn a_dead_letter_tells_why_and_can_be_run_again_or_dropped() {
    let host = host().await;
    let url = |path: &str| host.url(&format!("/v1/dead-letters{path}"));
    let get = async |path: &str| host.client().get(url(path)).send().await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(host.submit("fixtures", "", json!({ "do": "reject" }).to_string()).await);
    }
    for id in &ids {
        assert_eq!(host.finished(id).await["status"], "failed");
    }
    let letter: Value = get(&format!("/{}", ids[0])).await.json().await.unwrap();
    assert_eq!((&letter["agent"], &letter["failure"]["type"]), (&json!("fixtures"), &json!("rejected")), "{letter}");
    assert_eq!(letter["attempts"], 1);
    assert_eq!(letter["generation"], 0);
    // The list, in pages of two, has all of them, the newest first.
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let page: Value = get(&format!("?agent=fixtures&limit=2{cursor}")).await.json().await.unwrap();
        listed.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(ids.iter().all(|id| listed.contains(id)));
    // Run again, it is the same task in its next generation, and fails again.
    let answer = host.client().post(url(&format!("/{}/redrive", ids[0]))).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let again = wait_until("it has failed again", async || {
        let letter: Value = get(&format!("/{}", ids[0])).await.json().await.unwrap();
        (letter["generation"] == 1).then_some(letter)
    })
    .await;
    assert_eq!(again["attempts"], 1, "attempts begin anew");
    // Dropped, the task stays failed.
    let drop = async |id: &str| host.client().delete(url(&format!("/{id}"))).send().await.unwrap().status().as_u16();
    assert_eq!((drop(&ids[1]).await, drop(&ids[1]).await), (204, 404));
    assert_eq!(host.task(&ids[1]).await["status"], "failed");
}

#[tokio::test]
async fn all_dead_letters_of_an_agent_are_run_again_or_dropped_but_for_what_cannot_be_sent() {
    const LETTERS: usize = 250;
    let host = host().await;
    let agent = unique("many");
    deploy_misbehaving(&host, &agent, "1s").await;
    let stranger = Stranger::connect().await;
    let mut ids: Vec<String> = Vec::new();
    for _ in 0..LETTERS {
        ids.push(unique("many"));
        stranger.send(&agent, &ids[ids.len() - 1], FieldTable::default(), br#"{"do":"reject"}"#).await;
    }
    let large = unique("large");
    stranger.send(&agent, &large, FieldTable::default(), &vec![b'x'; (16 << 20) + 1]).await;
    let listed = async || {
        let path = format!("/v1/dead-letters?agent={agent}&limit=1000");
        let page: Value = host.get(&path).await.unwrap().json().await.unwrap();
        page["items"].as_array().unwrap().clone()
    };
    let until_listed = async |generation: u64, letters: usize| {
        wait_until("the letters", async || {
            let is_it = |letter: &Value| letter["generation"] == generation;
            (listed().await.iter().filter(|letter| is_it(letter)).count() == letters).then_some(())
        })
        .await;
    };
    until_listed(0, LETTERS + 1).await;
    let all = async |action: &str| -> Value {
        let url = host.url(&format!("/v1/dead-letters:{action}?agent={agent}"));
        host.client().post(url).send().await.unwrap().json().await.unwrap()
    };
    let left = json!({ "unsendable": 1, "unreadable": 0 });
    assert_eq!(all("redrive").await, json!({ "redriven": LETTERS, "left": left }));
    // Run again they fail again, and of each there is one letter: in the list, and in the queue.
    until_listed(1, LETTERS).await;
    let until_queued = async |letters: u32| {
        wait_until("the queue", async || {
            let queue = format!("agent.{agent}.dead");
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let queue = stranger.channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await;
            let queued = queue.unwrap().message_count();
            // Of one whose confirm was late there are two: letters arrive at least once.
            (queued == letters || letters > 0 && queued > letters).then_some(())
        })
        .await;
    };
    until_queued(u32::try_from(LETTERS).unwrap() + 1).await;
    let one = host.client().post(host.url(&format!("/v1/dead-letters/{large}/redrive"))).send().await.unwrap();
    assert_eq!(one.status(), 422);
    assert_eq!(host.task(&large).await["status"], "failed");
    assert_eq!(all("drop").await, json!({ "dropped": LETTERS + 1 }));
    assert_eq!(listed().await.len(), 0);
    until_queued(0).await;
}

#[tokio::test]
async fn deliveries_that_make_no_sense_end_as_dead_letters_and_block_nothing() {
    let host = host().await;
    let stranger = Stranger::connect().await;
    let table = |name: &str, value: AMQPValue| {
        let mut table = FieldTable::default();
        table.insert(name.into(), value);
        table
    };
    let absurd = [
        ("attempt of nothing", table("x-attempt", AMQPValue::LongLongInt(-5)), vec![]),
        ("attempts beyond counting", table("x-max-attempts", AMQPValue::LongLongInt(i64::MAX)), vec![]),
        ("a list for a deadline", table("x-deadline", AMQPValue::FieldArray(vec![].into())), vec![]),
        ("a deadline before time", table("x-deadline", AMQPValue::LongLongInt(1)), vec![]),
        ("garbage in a header", table("x-revision", AMQPValue::LongString(vec![0xff, 0xfe].into())), vec![]),
        ("a revision that is not", table("x-revision", AMQPValue::LongLongInt(1 << 40)), vec![]),
        ("a truth value for an attempt", table("x-attempt", AMQPValue::Boolean(true)), vec![]),
        ("a fraction for attempts", table("x-max-attempts", AMQPValue::Double(2.5)), vec![]),
        ("no attempts", table("x-max-attempts", AMQPValue::LongLongInt(0)), vec![]),
        ("a table for a key", table("x-partition-key", AMQPValue::FieldTable(FieldTable::default())), vec![]),
        ("a moment beyond time", table("x-not-before", AMQPValue::LongLongInt(1 << 62)), vec![]),
        ("generations beyond counting", table("x-generation", AMQPValue::LongLongInt(1_000_000_000)), vec![]),
        ("nothing for a deadline", table("x-deadline", AMQPValue::Void), vec![]),
        ("a deadline in words", table("x-deadline", AMQPValue::LongString("tomorrow".into())), vec![]),
        ("headers without end", table("endless", AMQPValue::LongString("x".repeat(100_000).into())), vec![]),
        ("16 MB", FieldTable::default(), vec![b'x'; 16_000_000]),
    ];
    let mut ids = Vec::new();
    for (what, headers, body) in absurd {
        let id = unique("absurd");
        stranger.send("echo", &id, headers, &body).await;
        ids.push((what, id));
    }
    for (what, id) in &ids {
        let letter = wait_until("its dead letter", async || {
            let answer = host.get(&format!("/v1/dead-letters/{id}")).await.unwrap();
            if answer.status() == 200 { Some(answer.json::<Value>().await.unwrap()) } else { None }
        })
        .await;
        let reason = letter["failure"]["message"].as_str().unwrap();
        let is_told = if *what == "16 MB" { reason.contains("payload_bytes_max") } else { !reason.is_empty() };
        assert!(is_told, "{what}: {letter}");
        assert_eq!((&letter["attempts"], &letter["revision"]), (&json!(0), &Value::Null), "{what} never ran: {letter}");
        assert_eq!(host.task(id).await["status"], "failed", "{what}");
    }
    // Far off is not absurd, and neither is a body of no bytes: what it means is for the agent to say.
    let mut answers = Stranger::connect().await;
    for headers in [table("x-deadline", AMQPValue::LongLongInt(i64::MAX)), FieldTable::default()] {
        answers.send("echo", &unique("empty"), headers, b"").await;
        assert_eq!(answers.answer().await, ("succeeded".to_owned(), Vec::new()));
    }
    answers.send("counter", &unique("empty"), FieldTable::default(), b"").await;
    assert_eq!(answers.answer().await.0, "rejected");
    // A queue of its own has none but agents: what is for another name is the sender's again.
    let properties = BasicProperties::default().with_message_id(unique("nobody").into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = stranger.channel.basic_publish("agents".into(), "nobody".into(), options, b"x", properties).await;
    let returned = sent.unwrap().await.unwrap().take_message();
    assert_eq!(returned.expect("it comes back").reply_code, 312, "NO_ROUTE");
    // The id of a task that has ended, for another agent.
    let (id, mut stranger) = (unique("taken"), Stranger::connect().await);
    stranger.send("echo", &id, FieldTable::default(), b"mine").await;
    assert_eq!(stranger.answer().await, ("succeeded".to_owned(), b"mine".to_vec()));
    stranger.send("counter", &id, FieldTable::default(), b"{}").await;
    assert_eq!(stranger.answer().await, ("rejected".to_owned(), Vec::new()));
    assert_eq!(host.task(&id).await["agent"], "echo", "the first one's record stands");
    // And of one that is yet to run: it runs, and the other is dead-lettered whether or not it has.
    let id = host.submit("echo", "?delay=5s", "mine").await;
    stranger.send("counter", &id, FieldTable::default(), br#"{"key":"another's"}"#).await;
    assert_eq!(stranger.answer().await, ("rejected".to_owned(), Vec::new()));
    // So is what is no task at all, whichever agent it is for.
    for agent in ["counter", "echo"] {
        stranger.send(agent, &id, table("x-attempt", AMQPValue::Boolean(true)), b"").await;
        assert_eq!(stranger.answer().await, ("rejected".to_owned(), Vec::new()));
    }
    assert_eq!(host.task(&id).await["status"], "queued");
    let task = host.finished(&id).await;
    assert_eq!(
        (&task["agent"], &task["status"], &task["output"]),
        (&json!("echo"), &json!("succeeded"), &json!("mine"))
    );
    assert_eq!(host.run("echo", "text/plain", "still here").await.status(), 200);
}
