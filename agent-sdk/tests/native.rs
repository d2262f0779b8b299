//! An agent's own tests, natively: what a handler calls is there, and what it leaves can be looked at.

use std::time::Duration;

use agent_sdk::log::Level;
use agent_sdk::testing::{Answer, World};
use agent_sdk::{Failure, Json, cache, config, http, kv, params, secrets, sql, tasks};

mod page {
    use super::*;

    #[agent_sdk::agent]
    fn handle(page: String) -> Result<Json<i64>, Failure> {
        let limit: i64 = config::get_as("limit")?.unwrap_or(10);
        let visits = kv::Bucket::open("default")?.increment(&page, 1)?;
        if visits > limit {
            return Err(Failure::reject("too many"));
        }
        let database = sql::Connection::open("main")?;
        database.execute("INSERT INTO visits (page) VALUES ($1)", params![page.as_str()])?;
        let row = database.query_one("SELECT count(*) AS count FROM visits WHERE page = $1", params![page.as_str()])?;
        cache::set_for(&page, "seen", Duration::from_secs(60))?;
        tasks::to("mail").idempotency_key(&page).delay(Duration::from_secs(1)).submit(page)?;
        agent_sdk::info!("visit {visits}");
        Ok(Json(row.get("count")?))
    }

    #[test]
    fn leaves_what_it_did() {
        let world = World::new();
        world.set("default", "/", "6");
        world.answer_sql(|statement, params| match statement.split(' ').next() {
            Some("INSERT") => {
                assert_eq!(params, params!["/"]);
                Answer::affected(1)
            }
            _ => Answer::rows(&["count"], &[params![7_i64]]),
        });
        assert_eq!(handle("/".into()), Ok(Json(7)));
        assert_eq!(world.get("default", "/").as_deref(), Some(&b"7"[..]));
        assert_eq!(world.log()[0].message, "visit 7");
        assert_eq!((world.log()[0].level, world.log().len()), (Level::Info, 1));
        let [mail] = &world.submitted()[..] else { panic!("one") };
        assert_eq!(
            (mail.agent.as_str(), &mail.body[..], mail.delay),
            ("mail", &b"/"[..], Some(Duration::from_secs(1)))
        );
        assert_eq!(world.cached("/").as_deref(), Some(&b"seen"[..]));
        world.pass(Duration::from_secs(60));
        assert_eq!(world.cached("/"), None);
        // The same key again is the same task.
        assert_eq!(handle("/".into()), Ok(Json(7)));
        assert_eq!(world.submitted().len(), 1);
    }

    #[test]
    fn fails_as_on_a_host() {
        let world = World::new();
        world.set_config("limit", "0");
        assert_eq!(handle("/".into()), Err(Failure::reject("too many")));
        world.set_config("limit", "9");
        world.answer_sql(|_, _| Answer::refused("40001", "could not serialize access"));
        assert!(matches!(handle("/".into()), Err(Failure::Retry { .. })));
        world.answer_sql(|_, _| Answer::failed(sql::Error::AccessDenied("main".into())));
        assert!(matches!(handle("/".into()), Err(Failure::Reject { .. })));
    }

    #[test]
    #[should_panic(expected = "give the test's World an answer_sql: INSERT INTO visits")]
    fn a_statement_without_an_answer_says_what_is_missing() {
        let _world = World::new();
        let _ = handle("/".into());
    }
}

mod rates {
    use super::*;

    #[agent_sdk::agent]
    fn handle(currency: String) -> Result<String, Failure> {
        let key = secrets::get("api-key")?;
        let request = http::Request::get(format!("https://api.example.com/{currency}"));
        let response = request.header("authorization", key.reveal()).send()?.ok()?;
        tasks::progress(0.5, "half");
        if tasks::is_cancelled() {
            return Err(Failure::retry("cancelled"));
        }
        Ok(String::from_utf8_lossy(&response.body).into_owned())
    }

    fn answered(status: u16) -> World {
        let world = World::new();
        world.set_secret("api-key", "k");
        world.answer_http(move |sent| {
            assert_eq!((sent.method.as_str(), sent.url.as_str()), ("GET", "https://api.example.com/eur"));
            assert_eq!(sent.headers, [("authorization".to_owned(), "k".to_owned())]);
            Ok(http::Response { status, headers: Vec::new(), body: b"1.1".to_vec() })
        });
        world
    }

    #[test]
    fn asks_and_answers() {
        let world = answered(200);
        assert_eq!(handle("eur".into()), Ok("1.1".to_owned()));
        assert_eq!(world.progress(), Some((0.5, Some("half".to_owned()))));
        world.cancel();
        assert_eq!(handle("eur".into()), Err(Failure::retry("cancelled")));
    }

    #[test]
    fn a_busy_server_is_asked_again_later() {
        let _world = answered(503);
        assert!(matches!(handle("eur".into()), Err(Failure::Retry { .. })));
    }

    #[test]
    fn a_secret_that_is_not_set_says_so() {
        let _world = World::new();
        let failure = handle("eur".into()).unwrap_err();
        assert!(failure.message().contains("set_secret"), "{failure}");
    }
}

#[test]
fn a_bucket_does_what_a_bucket_does() {
    let world = World::new();
    let bucket = kv::Bucket::open("default").unwrap();
    bucket.set_many(&[("a".into(), b"1".to_vec()), ("b".into(), b"x".to_vec())]).unwrap();
    assert_eq!(bucket.get_many(&["a", "c"]).unwrap(), [Some(b"1".to_vec()), None]);
    assert!(matches!(bucket.increment("b", 1), Err(kv::Error::Store(_))));
    let written = bucket.update("a", |value| {
        // Another writer comes between, once.
        if value.as_deref() == Some(b"1") {
            world.set("default", "a", "5");
        }
        [value.unwrap_or_default(), b"!".to_vec()].concat()
    });
    assert_eq!(written.unwrap(), b"5!");
    bucket.delete("b").unwrap();
    assert_eq!(bucket.keys().collect::<Result<Vec<_>, _>>().unwrap(), ["a"]);
    drop(world);
    assert_eq!(kv::Bucket::open("default").unwrap().keys().count(), 0, "a world ends with its value");
}

#[test]
fn the_cache_counts_and_forgets() {
    let world = World::new();
    assert_eq!((cache::increment("n", 2), cache::increment("n", 3)), (Ok(2), Ok(5)));
    assert_eq!(
        (cache::expire("n", Duration::from_secs(1)), cache::expire("m", Duration::from_secs(1))),
        (Ok(true), Ok(false))
    );
    world.set_cached("kept", "x");
    world.pass(Duration::from_secs(2));
    assert_eq!(cache::get_many(&["n", "kept"]), Ok(vec![None, Some(b"x".to_vec())]));
    assert_eq!((cache::delete("n"), cache::delete("kept")), (Ok(false), Ok(true)));
}
