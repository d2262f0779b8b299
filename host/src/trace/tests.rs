use std::sync::{Mutex, PoisonError};

use super::*;

/// Keeps what it is told.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

#[derive(Debug)]
struct ToldTracer {
    told: Told,
    flags: u8,
}

impl Tracer for ToldTracer {
    fn start(&self, parent: Option<Parent>, kind: Kind, name: Cow<'static, str>) -> Option<Started> {
        let number = self.told.lines().len() as u64 + 1;
        let parent = parent.map(|parent| (parent.context.span_id(), parent.is_remote));
        self.told.tell(format!("{name} {kind:?} after {parent:?}"));
        let context = TraceContext::new(1, number, self.flags).unwrap();
        let span = || Box::new(ToldSpan { told: self.told.clone(), name: name.into_owned() }) as Recording;
        Some((context, (self.flags == 1).then(span)))
    }
}

struct ToldSpan {
    told: Told,
    name: String,
}

impl RecordingSpan for ToldSpan {
    fn set(&mut self, key: &'static str, value: Value) {
        self.told.tell(format!("{} {key}={value:?}", self.name));
    }

    fn fail(&mut self) {
        self.told.tell(format!("{} failed", self.name));
    }
}

impl Drop for ToldSpan {
    fn drop(&mut self) {
        self.told.tell(format!("{} ended", self.name));
    }
}

fn traces(flags: u8) -> (Traces, Told) {
    let told = Told::default();
    let tracer = ToldTracer { told: told.clone(), flags };
    (Traces::new(Box::new(tracer), Systems { broker: "rabbitmq", store: "redis" }), told)
}

#[test]
fn a_span_knows_its_parent_and_ends_when_it_is_dropped() {
    let (traces, told) = traces(1);
    let parent = TraceContext::new(1, 7, 1);
    let span = traces.start(parent, Kind::Consumer, format_args!("process {}", "x"));
    let mut child = span.scope().child(Kind::Client, format_args!("get"));
    child.set("n", 3_u64);
    child.fail("unavailable");
    drop(child);
    drop(span);
    let expected = [
        "process x Consumer after Some((7, true))",
        "get Client after Some((1, false))",
        "get n=Number(3)",
        "get error.type=Text(\"unavailable\")",
        "get failed",
        "get ended",
        "process x ended",
    ];
    assert_eq!(told.lines(), expected);
}

#[test]
fn a_trace_that_is_not_recorded_travels_on_and_tells_no_more() {
    let (traces, told) = traces(0);
    let span = traces.start(None, Kind::Server, format_args!("x"));
    let child = span.scope().child(Kind::Internal, format_args!("y"));
    assert_eq!(told.lines(), ["x Server after None"]);
    assert!(child.traceparent().is_some_and(|header| header.ends_with("-00")) && !child.scope().is_recorded());
}

#[test]
fn without_a_tracer_nothing_happens_and_a_task_keeps_its_context() {
    struct Never;
    impl fmt::Display for Never {
        fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("a name was written for nobody")
        }
    }
    let traces = Traces::default();
    let mut span = traces.start(TraceContext::new(1, 1, 1), Kind::Server, format_args!("{Never}"));
    span.set_with("x", || -> u64 { panic!("an attribute was made for nobody") });
    let child = span.scope().child(Kind::Client, format_args!("{Never}"));
    assert_eq!((span.traceparent(), child.traceparent()), (None, None));
    let mut task = Task::new("echo".parse().unwrap(), "x");
    task.traceparent = Some("kept".to_owned());
    drop(traces.publish(&mut task));
    assert_eq!(task.traceparent.as_deref(), Some("kept"));
}

#[test]
fn a_message_carries_the_span_that_made_it() {
    let (traces, told) = traces(1);
    let mut task = Task::new("echo".parse().unwrap(), "secret");
    task.traceparent = TraceContext::new(1, 9, 1).map(|context| context.to_string());
    let span = traces.publish(&mut task);
    assert_eq!(task.traceparent, span.traceparent());
    let lines = told.lines().join("\n");
    assert!(lines.starts_with("publish agent.echo Producer after Some((9, true))"), "{lines}");
    assert!(!lines.contains("secret"), "{lines}");
}
