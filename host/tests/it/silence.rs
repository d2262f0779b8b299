//! A server that vanishes without a word: its connections stay open, and nothing comes back on them, ever. Nobody may
//! wait for them, neither while it is away nor when it is back under its address.

use serde_json::json;

use super::common::wait_until;
use super::delivery::Stranger;
use super::fleet::Fleet;
use super::loss::{TASKS, count_once_more, each_succeeded_at_its_first_attempt, effects, send, sorted, until_put_off};
use super::scripts::{CACHE, KEY_VALUE, SQL, deploy, script, sql, unique};

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_fell_silent_is_used_again_when_it_is_back() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let agent = unique("counting");
    deploy(&host, &agent, 20, &[KEY_VALUE, CACHE], "").await;
    let steps = [json!({ "key-value": "n" }), json!({ "cache": "n" })];
    assert_eq!(count_once_more(&host, &agent, &steps).await, [1, 1]);
    let stranger = Stranger::connect_to(fleet.broker.url()).await;
    fleet.cache.fall_silent();
    let ids = send(&stranger, &agent, &steps).await;
    until_put_off(&host, &agent, TASKS).await;
    fleet.cache.mend();
    each_succeeded_at_its_first_attempt(&host, &ids).await;
    let all = u64::try_from(TASKS).unwrap() + 2;
    assert_eq!(count_once_more(&host, &agent, &steps).await, [all, all]);
    drop(host);
    fleet.end().await;
}

/// Tasks come to the database's silence in three ways: before they run, in the middle of their transaction, and afterwards,
/// with a connection from before.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_fell_silent_is_used_again_when_it_is_back() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let agent = unique("writing");
    let table = "CREATE TABLE effects (task_id text NOT NULL)";
    let grant = SQL.replace("5m", "1s");
    deploy(&host, &agent, 20, &[&grant, KEY_VALUE], table).await;
    let insert = sql("INSERT INTO effects VALUES ($1)");
    let opens = json!({ "key-value": "gate" });
    let count = json!({ "key-value": "n" });
    let waits = json!({ "await": "gate" });
    // One that will commit into the silence, and one that will run another statement into it.
    let commits = host.submit(&agent, "", script(&[insert.clone(), waits.clone(), count.clone()])).await;
    let states = script(&[insert.clone(), waits, sql("SELECT 1"), count]);
    let states = host.submit(&agent, "", states).await;
    wait_until("their transactions are open", async || (fleet.idle_transactions().await == 2).then_some(())).await;
    // It leaves its connection behind for another.
    let before = host.submit(&agent, "", script(std::slice::from_ref(&insert))).await;
    assert_eq!(host.finished(&before).await["status"], "succeeded");
    let mut ids = vec![commits, states, before];

    let stranger = Stranger::connect_to(fleet.broker.url()).await;
    fleet.database.fall_silent();
    ids.extend(send(&stranger, &agent, std::slice::from_ref(&insert)).await);
    until_put_off(&host, &agent, TASKS).await;

    fleet.database.mend();
    ids.push(host.submit(&agent, "", script(&[insert, opens])).await);
    each_succeeded_at_its_first_attempt(&host, &ids).await;
    assert_eq!(effects(&fleet, &agent).await, sorted(ids));
    drop(host);
    fleet.end().await;
}
