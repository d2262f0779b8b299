//! The sample agents do what their READMEs say.

use std::io::Cursor;

use serde_json::json;

use super::common::HostBuilder;

fn png(width: u32, height: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x % 256) as u8, (y % 256) as u8, 128]));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test]
async fn thumbnail_shrinks_an_image() {
    let host = HostBuilder::real().with_samples().start().await;
    let answer = host
        .client()
        .post(host.url("/v1/agents/thumbnail/tasks"))
        .header("content-type", "image/png")
        .header("task-header-width", "64")
        .header("task-header-height", "64")
        .header("prefer", "wait=60")
        .body(png(640, 320))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "image/png");
    assert!(answer.headers().contains_key("task-id"));
    let small = image::load_from_memory(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!((small.width(), small.height()), (64, 32));
}

#[tokio::test]
async fn counter_counts() {
    let host = HostBuilder::real().with_samples().start().await;
    let key = uuid::Uuid::new_v4().to_string();
    let body = json!({ "key": key });
    let mut seen = futures::future::join_all((0..20).map(|_| host.run_json("counter", &body))).await;
    seen.sort_by_key(|answer| answer["value"].as_i64());
    let values: Vec<i64> = seen.iter().map(|answer| answer["value"].as_i64().unwrap()).collect();
    assert_eq!(values, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn task_worker_processes_once_by_id() {
    let host = HostBuilder::real().with_samples().start().await;
    let body = json!({ "task_id": uuid::Uuid::new_v4().to_string(), "payload": { "a": [1, 2, 3] } });
    assert_eq!(host.run_json("task-worker", &body).await["status"], "processed");
    assert_eq!(host.run_json("task-worker", &body).await["status"], "duplicate");
}

#[tokio::test]
async fn crud_inserts_selects_updates_and_deletes() {
    let host = HostBuilder::real().with_samples().start().await;
    let run = async |body| host.run_json("crud", &body).await;
    let inserted = run(json!({ "op": "insert", "name": "pear", "value": 3 })).await;
    let id = inserted["item"]["id"].as_i64().expect("the inserted row's id");
    let selected = run(json!({ "op": "select", "id": id })).await;
    assert_eq!((&selected["item"]["name"], &selected["item"]["value"]), (&json!("pear"), &json!(3)), "{selected}");
    run(json!({ "op": "update", "id": id, "value": 4 })).await;
    assert_eq!(run(json!({ "op": "select", "id": id })).await["item"]["value"], 4);
    assert_eq!(run(json!({ "op": "delete", "id": id })).await["rows"], 1);
    assert_eq!(run(json!({ "op": "select", "id": id })).await["rows"], 0);
    let body = json!({ "op": "mix" });
    let mixed = futures::future::join_all((0..40).map(|_| host.run_json("crud", &body))).await;
    let drawn = |op: &str| mixed.iter().filter(|answer| answer["op"] == op).count();
    assert_eq!(drawn("insert") + drawn("select") + drawn("update") + drawn("delete"), 40);
}

#[tokio::test]
async fn cache_reader_misses_once_and_then_hits() {
    let host = HostBuilder::real().with_samples().start().await;
    let body = json!({ "key": uuid::Uuid::new_v4().to_string() });
    let (miss, hit) = (host.run_json("cache-reader", &body).await, host.run_json("cache-reader", &body).await);
    assert_eq!((&miss["hit"], &hit["hit"]), (&json!(false), &json!(true)));
    assert_eq!(miss["value"], hit["value"]);
    let metrics = host.get("/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.contains("cache_hits{agent=\"cache-reader\"}"), "{metrics}");
    assert!(metrics.contains("cache_misses{agent=\"cache-reader\"}"), "{metrics}");
}
