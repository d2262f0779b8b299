use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest};

use super::*;

/// What a collector answers.
type Said = (u16, &'static [(&'static str, &'static str)], Vec<u8>);

/// A collector that gives these answers, one after the other, and counts the requests; then it answers 200.
async fn collector(answers: Vec<Said>) -> (Url, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (answers, count) = (Arc::new(Mutex::new(VecDeque::from(answers))), Arc::clone(&asked));
    let answer = post(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let (status, fields, body) = answers.lock().unwrap().pop_front().unwrap_or((200, &[], Vec::new()));
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        std::future::ready((StatusCode::from_u16(status).unwrap(), headers, body))
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    (url, asked)
}

async fn sent(url: Url, timeout: Duration) -> Result<(), OtlpError> {
    let client = Client::new(&Target { url, headers: HeaderMap::new(), timeout }).unwrap();
    client.post::<ExportTraceServiceResponse>(&ExportTraceServiceRequest::default()).await
}

/// Longer than any test lasts.
const LONG: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_busy_collector_is_asked_again_and_one_that_refuses_is_not() {
    let (url, asked) = collector(vec![(503, &[], Vec::new()), (429, &[("retry-after", "1")], Vec::new())]).await;
    sent(url, LONG).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    let (url, asked) = collector(vec![(400, &[], b"no\nsuch thing".to_vec())]).await;
    let refused = sent(url, LONG).await.unwrap_err();
    assert!(matches!(&refused, OtlpError::Refused { status, .. } if status.as_u16() == 400), "{refused:?}");
    assert!(refused.to_string().contains("such thing") && !refused.to_string().contains('\n'), "{refused}");
    assert_eq!((asked.load(Ordering::Relaxed), refused.lost(7)), (1, 7));
}

#[tokio::test]
async fn a_wait_that_ends_too_late_is_not_begun() {
    // The last is all that fits into a duration, and more than fits into a moment.
    for after in ["300", "9223372036854775807", "18446744073709551615"] {
        let fields: &'static [_] = vec![("retry-after", after)].leak();
        let (url, asked) = collector(vec![(503, fields, Vec::new())]).await;
        let refused = sent(url, LONG).await.unwrap_err();
        assert!(matches!(refused, OtlpError::Refused { .. }), "{after}: {refused:?}");
        assert_eq!(asked.load(Ordering::Relaxed), 1, "{after}");
    }
}

#[tokio::test]
async fn nobody_is_followed_elsewhere() {
    let (elsewhere, asked) = collector(Vec::new()).await;
    let fields: &'static [_] = vec![("location", &*elsewhere.to_string().leak())].leak();
    let (url, _) = collector(vec![(307, fields, Vec::new())]).await;
    let refused = sent(url, LONG).await.unwrap_err();
    assert!(matches!(&refused, OtlpError::Refused { status, .. } if status.as_u16() == 307), "{refused:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn all_tries_together_have_one_limit() {
    // It takes the connection, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let slow = sent(url, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(slow, OtlpError::TooSlow(_)), "{slow:?}");
    let (url, asked) = collector((0..9).map(|_| (503, &[] as &[_], Vec::new())).collect()).await;
    let refused = sent(url, RETRY_FIRST * 2).await.unwrap_err();
    assert!(asked.load(Ordering::Relaxed) <= 2, "{refused:?}");
}

#[tokio::test]
async fn what_a_collector_leaves_is_lost_and_not_sent_again() {
    const FIELDS: &[(&str, &str)] = &[("content-type", "application/x-protobuf")];
    let answer = |rejected_spans| {
        let partial = ExportTracePartialSuccess { rejected_spans, error_message: "too\nold".to_owned() };
        ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec()
    };
    let (url, asked) = collector(vec![(200, FIELDS, answer(3))]).await;
    let partly = sent(url, LONG).await.unwrap_err();
    assert!(partly.to_string().contains("leaves 3") && !partly.to_string().contains('\n'), "{partly}");
    assert_eq!((asked.load(Ordering::Relaxed), partly.lost(7), partly.lost(2)), (1, 3, 2));
    // A warning, nonsense, other words, and more than anybody says: all of it is taken.
    let long = [answer(3), vec![0; ANSWER_BYTES_MAX]].concat();
    let taken = vec![
        (200, FIELDS, answer(0)),
        (200, FIELDS, answer(-1)),
        (200, FIELDS, vec![0xff; 9]),
        (200, &[] as &[_], answer(3)),
        (200, FIELDS, long),
    ];
    let count = taken.len();
    let (url, asked) = collector(taken).await;
    for _ in 0..count {
        sent(url.clone(), LONG).await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), count);
}

#[test]
fn only_this_machine_is_reached_without_a_proxy() {
    let is_own = |url: &str| is_of_this_machine(&url.parse().unwrap());
    assert!(["http://localhost:4318", "http://127.0.0.2", "https://[::1]:1"].into_iter().all(is_own));
    assert!(!["http://collector", "http://10.0.0.1", "http://localhost.example"].into_iter().any(is_own));
}

#[test]
fn trouble_is_said_once_a_minute_however_it_comes_and_goes() {
    let (mut trouble, start) = (Trouble::default(), Instant::now());
    let mut note = |seconds, failed, lost| trouble.note(start + Duration::from_secs(seconds), failed, lost);
    assert_eq!(note(0, false, 0), None);
    assert_eq!(note(1, true, 5), Some(News::Failing(5)));
    assert_eq!(note(2, true, 1), None);
    assert_eq!(note(3, false, 0), Some(News::Over(1)));
    for second in 4..30 {
        assert_eq!((note(2 * second, true, 1), note(2 * second + 1, false, 0)), (None, None));
    }
    assert_eq!(note(61, true, 1), Some(News::Failing(27)));
    assert_eq!(note(62, false, 0), Some(News::Over(0)));
    assert_eq!(note(63, false, 0), None);
}
