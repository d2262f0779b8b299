//! Ends of tasks that are committed with the tasks' own SQL, on connections on which the agent has run what it likes.

use std::sync::Arc;
use std::time::Duration;

use agent_host::capability::sql::{Committed, Database, End, Postgres, PostgresConfig, SqlConnection, SqlError, Value};
use agent_host::catalog::Migration;
use agent_host::manifest::TransactionMode;
use agent_host::records::conformance::{ended, new_task, update};
use agent_host::records::{Cancelled, Ended, Ending, Inbox, NewTask, Outgoing, Status, TaskRecords};
use sqlx::{Executor, PgConnection};

use super::{Scratch, records, until_true, with_database};

/// Longer than any statement here takes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The types of `end_task_now`'s parameters.
const TYPES: [&str; 18] = [
    "bytea",
    "text",
    "text",
    "integer",
    "bigint",
    "bigint",
    "text",
    "bytea",
    "bigint",
    "bigint",
    "bigint",
    "bigint",
    "bigint",
    "bigint",
    "bigint",
    "uuid[]",
    "bytea[]",
    "double precision",
];

/// The database as a host sees it that keeps its records there, and an agent with this schema.
async fn database(scratch: &Scratch, schema: &str) -> Postgres {
    scratch.open().await;
    let mut config = PostgresConfig::parse(&scratch.url).unwrap();
    config.keeps_records = true;
    let database = Postgres::connect(config).await.unwrap();
    let migration = Migration { name: "0001.sql".to_owned(), sql: schema.to_owned() };
    database.provision(&new_task("").agent, &[], &[migration]).await.unwrap();
    database
}

async fn open(database: &Postgres, mode: TransactionMode) -> Box<dyn SqlConnection> {
    database.open(&new_task("").agent, mode, TIMEOUT).await.unwrap()
}

async fn execute(connection: &mut Box<dyn SqlConnection>, statement: &str) -> Result<u64, SqlError> {
    connection.execute(statement, &[], TIMEOUT).await
}

/// The first value of a query.
async fn value(connection: &mut Box<dyn SqlConnection>, query: &str) -> Result<Value, SqlError> {
    connection.query(query, &[], TIMEOUT).await?;
    let mut rows = Vec::new();
    while connection.is_streaming() {
        rows.extend(connection.next_rows().await?.unwrap_or_default().rows);
    }
    Ok(rows.first().and_then(|row| row.first()).unwrap_or_else(|| panic!("no row: {query}")).clone())
}

fn ending(task: &NewTask) -> Ending {
    let outgoing = [&b"one"[..], b""].map(|payload| Outgoing { id: uuid::Uuid::now_v7(), payload: payload.into() });
    Ending { outgoing: outgoing.to_vec(), ..ended(task, Status::Succeeded).into() }
}

async fn status(connection: &mut PgConnection, task: &NewTask) -> Option<i16> {
    let query = sqlx::query_scalar("SELECT status FROM agent_host.tasks WHERE id = $1");
    query.bind(task.id.as_str()).fetch_optional(connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_puts_no_statement_in_the_place_of_the_hosts() {
    // Takes whatever is prepared for the host's call, and every name that the driver may give to a statement next.
    let types = TYPES.join(", ");
    let attack = format!(
        "DO $attack$ DECLARE held text; BEGIN
             FOR held IN SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT agent_host.end%' LOOP
                 EXECUTE format('DEALLOCATE %I', held);
             END LOOP;
             FOR held IN SELECT 'sqlx_s_' || n FROM generate_series(1, 999) AS n
                 WHERE NOT EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'sqlx_s_' || n) LOOP
                 EXECUTE format('PREPARE %I ({types}) AS INSERT INTO loot VALUES ($1) RETURNING true', held);
             END LOOP;
         END $attack$"
    );
    with_database(async |scratch| {
        let database = database(&scratch, "CREATE TABLE loot (proof bytea)").await;
        let mut admin = scratch.connect().await;
        for round in 0..3 {
            let task = new_task("a");
            let mut connection = open(&database, TransactionMode::Task).await;
            execute(&mut connection, "UPDATE loot SET proof = NULL WHERE false").await.unwrap();
            if round > 0 {
                let kept = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT agent_host.end%'";
                assert_eq!(value(&mut connection, kept).await.unwrap(), Value::Int64(0));
            }
            if round == 1 {
                execute(&mut connection, &attack).await.unwrap();
            }
            if round < 2 {
                let committed = connection.finish(End::Commit(Some(&ending(&task)))).await.unwrap();
                assert_eq!(committed, Committed::WithEnd(Ended::Now), "round {round}");
                assert_eq!(status(&mut admin, &task).await, Some(3), "round {round}");
            } else {
                connection.finish(End::Rollback).await.unwrap();
            }
        }
        let loot: i64 =
            sqlx::query_scalar("SELECT count(*) FROM agent_voter.loot").fetch_one(&mut admin).await.unwrap();
        assert_eq!(loot, 0);
        let outgoing: i64 =
            sqlx::query_scalar("SELECT count(*) FROM agent_host.outbox").fetch_one(&mut admin).await.unwrap();
        assert_eq!(outgoing, 4);
        database.close().await;
    })
    .await;
}

/// Puts a function that notes its arguments, where the agent can read them, before the real one.
async fn eavesdrop(admin: &mut PgConnection) {
    let columns: Vec<_> = TYPES.iter().enumerate().map(|(index, of)| format!("a{index} {of}")).collect();
    let arguments: Vec<_> = (1..=TYPES.len()).map(|number| format!("${number}")).collect();
    let (columns, arguments) = (columns.join(", "), arguments.join(", "));
    let sql = format!(
        "CREATE TABLE public.stolen ({columns});
         GRANT SELECT ON public.stolen TO PUBLIC;
         ALTER FUNCTION agent_host.end_task_now RENAME TO end_task_itself;
         CREATE FUNCTION agent_host.end_task_now({columns}) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
         $$ BEGIN
             INSERT INTO public.stolen VALUES ({arguments});
             PERFORM agent_host.end_task_itself({arguments});
         END $$"
    );
    admin.execute(sql.as_str()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_proof_is_good_for_the_same_call_only() {
    with_database(async |scratch| {
        let database = database(&scratch, "CREATE TABLE own (n int)").await;
        let mut admin = scratch.connect().await;
        eavesdrop(&mut admin).await;
        let (full, spare) = (new_task("a"), new_task("b"));
        let mut sparing = Ending::from(ended(&spare, Status::Succeeded));
        (sparing.update.output, sparing.update.usage, sparing.update.revision) = (None, None, None);
        for ending in [ending(&full), sparing] {
            let mut connection = open(&database, TransactionMode::Task).await;
            execute(&mut connection, "INSERT INTO own VALUES (1)").await.unwrap();
            let committed = connection.finish(End::Commit(Some(&ending))).await.unwrap();
            assert_eq!(committed, Committed::WithEnd(Ended::Now));
        }
        let mut connection = open(&database, TransactionMode::Statement).await;
        for task in [&full, &spare] {
            for changed in 0..=TYPES.len() {
                let arguments = TYPES.iter().enumerate();
                let arguments: Vec<_> = arguments
                    .map(|(index, of)| if index == changed { another(index, of) } else { format!("a{index}") })
                    .collect();
                let call = format!(
                    "SELECT agent_host.end_task_itself({}) FROM public.stolen WHERE a1 = '{}'",
                    arguments.join(", "),
                    task.id
                );
                let answer = execute(&mut connection, &call).await;
                let Err(SqlError::Query(error)) = answer else { panic!("parameter {changed}: {answer:?}") };
                // The same call again is believed, and finds that the task has ended.
                let expected = if changed == TYPES.len() { "AH001" } else { "42501" };
                assert_eq!(error.sqlstate, expected, "parameter {changed}: {error}");
            }
        }
        connection.finish(End::Commit(None)).await.unwrap();
        let tasks: i64 =
            sqlx::query_scalar("SELECT count(*) FROM agent_host.tasks").fetch_one(&mut admin).await.unwrap();
        assert_eq!(tasks, 2);
        database.close().await;
    })
    .await;
}

/// Another value of this argument, whatever it is.
fn another(index: usize, of: &str) -> String {
    match of {
        "text" => format!("COALESCE(a{index} || 'x', '')"),
        "bytea" => format!("COALESCE(a{index} || '\\x00', '')"),
        "uuid[]" | "bytea[]" => format!("CASE WHEN cardinality(a{index}) > 0 THEN a{index}[1:1] END"),
        _ => format!("COALESCE(a{index} + 1, 0)"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_leaves_the_running_revision_its_right_to_end_tasks() {
    const SCHEMA: &str = "CREATE TABLE own (n int)";
    with_database(async |scratch| {
        let running = database(&scratch, SCHEMA).await;
        let task = new_task("a");
        // What a deploy with a migration does before it grants anything: all of what this one does.
        let deploying = Postgres::connect(PostgresConfig::parse(&scratch.url).unwrap()).await.unwrap();
        let migrations = [("0001.sql", SCHEMA), ("0002.sql", "CREATE TABLE more (n int)")]
            .map(|(name, sql)| Migration { name: name.to_owned(), sql: sql.to_owned() });
        deploying.provision(&task.agent, &[], &migrations).await.unwrap();
        let mut connection = open(&running, TransactionMode::Task).await;
        execute(&mut connection, "INSERT INTO own VALUES (1)").await.unwrap();
        let records = value(
            &mut connection,
            "SELECT has_function_privilege('agent_host.record_migration(text, text)', 'execute')",
        );
        assert_eq!(records.await.unwrap(), Value::Boolean(false));
        let committed = connection.finish(End::Commit(Some(&ending(&task)))).await.unwrap();
        assert_eq!(committed, Committed::WithEnd(Ended::Now));
        deploying.close().await;
        running.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_on_disk_whatever_the_session_says() {
    const SCHEMA: &str = "
        CREATE TABLE own (n int);
        CREATE TABLE seen (setting text);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON own DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION see()";
    with_database(async |scratch| {
        let database = database(&scratch, SCHEMA).await;
        let mut admin = scratch.connect().await;
        for (ends, expected) in [(false, "off"), (true, "on")] {
            let mut connection = open(&database, TransactionMode::Task).await;
            execute(&mut connection, "SET synchronous_commit = off").await.unwrap();
            execute(&mut connection, "INSERT INTO own VALUES (1)").await.unwrap();
            let ending = ending(&new_task("a"));
            connection.finish(End::Commit(ends.then_some(&ending))).await.unwrap();
            let seen: String = sqlx::query_scalar("DELETE FROM agent_voter.seen RETURNING setting")
                .fetch_one(&mut admin)
                .await
                .unwrap();
            assert_eq!(seen, expected);
        }
        database.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_takes_long_holds_up_nobody_else() {
    const SCHEMA: &str = "
        CREATE TABLE own (n int);
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON own DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION wait()";
    const IS_COMMITTING: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    with_database(async |scratch| {
        let database = database(&scratch, SCHEMA).await;
        let records = Arc::new(records(&scratch).await);
        let mut admin = scratch.connect().await;
        let held = new_task("held");
        records.queued(vec![held.clone()]).await.unwrap();
        admin.execute("SELECT pg_advisory_lock(4711)").await.unwrap();
        let mut connection = open(&database, TransactionMode::Task).await;
        execute(&mut connection, "INSERT INTO own VALUES (1)").await.unwrap();
        let end = ending(&held);
        let committing = tokio::spawn(async move { connection.finish(End::Commit(Some(&end))).await });
        until_true(&mut admin, IS_COMMITTING).await;

        // Whatever else may want its row: another end of it, and more requests to cancel it than there are connections.
        let other_end = tokio::spawn({
            let (records, held) = (Arc::clone(&records), held.clone());
            async move { records.finished(&ended(&held, Status::Failed).into()).await }
        });
        let mut cancelling = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (records, held) = (Arc::clone(&records), held.clone());
            cancelling.spawn(async move { records.cancel(&held.id, 1).await });
        }
        let again = records.queued(vec![held.clone()]).await.unwrap_err();
        assert!(again.is_passing, "{again:?}");
        // Others go on while notes of it are waiting to be written, one after the other, and given up.
        for notes in 1..=3 {
            records.note(update(&held, Status::Running));
            while records.notes_dropped() < notes {
                let task = new_task("other");
                records.queued(vec![task.clone()]).await.unwrap();
                assert_eq!(records.finished(&ended(&task, Status::Succeeded).into()).await.unwrap(), Ended::Now);
                assert_eq!(records.cancelled(vec![held.id.clone(), task.id]).await.unwrap(), []);
            }
        }
        let is_committing: bool = sqlx::query_scalar(IS_COMMITTING).fetch_one(&mut admin).await.unwrap();
        assert!(is_committing, "the others had to wait until the server gave the commit up");
        assert!(!other_end.is_finished());

        admin.execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
        assert_eq!(committing.await.unwrap().unwrap(), Committed::WithEnd(Ended::Now));
        assert_eq!(other_end.await.unwrap().unwrap(), Ended::Before);
        for cancelled in cancelling.join_all().await {
            match cancelled {
                Ok(cancelled) => assert_eq!(cancelled, Cancelled::Finished(Status::Succeeded)),
                Err(error) => assert!(error.is_passing, "{error:?}"),
            }
        }
        database.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lock_that_an_agent_takes_keeps_a_host_from_starting() {
    with_database(async |scratch| {
        let running = database(&scratch, "CREATE TABLE own (n int)").await;
        let mut connection = open(&running, TransactionMode::Task).await;
        // What hosts once started under.
        execute(&mut connection, "SELECT pg_advisory_lock(7018690069354017652)").await.unwrap();
        let starting = database(&scratch, "CREATE TABLE own (n int)").await;
        connection.finish(End::Rollback).await.unwrap();
        starting.close().await;
        running.close().await;
    })
    .await;
}
