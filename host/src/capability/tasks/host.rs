//! `agent:runtime/tasks`.

use std::time::Duration;

use super::{
    BODY_BYTES_MAX, DELAY_MAX, HEADERS_BYTES_MAX, HEADERS_MAX, IDEMPOTENCY_KEY_BYTES_MAX, NOTE_BYTES_MAX, Refused,
};
use crate::capability::recording::forms::blob::Lent;
use crate::capability::{View, denied, quoted};
use crate::records::Progress;
use crate::task::{AgentName, FollowUp, Task, TaskId};
use crate::trace::{Kind, Queue, Span};
use crate::wit::capabilities::agent::runtime::tasks::{Error, Host, SubmitOptions};

/// Headers that the host itself reads; a follow-up says these things through its options.
const HEADERS_RESERVED: [&str; 7] =
    ["traceparent", "x-attempt", "x-deadline", "x-generation", "x-host-errors", "x-max-attempts", "x-revision"];
/// One that it reads too, and that a follow-up may have: tasks of one key run one after the other.
const PARTITION_KEY: &str = "x-partition-key";

/// Types only; the tasks interface uses them.
impl crate::wit::capabilities::agent::runtime::types::Host for View<'_> {}

impl Host for View<'_> {
    fn submit(
        &mut self,
        agent: String,
        body: Vec<u8>,
        options: SubmitOptions,
    ) -> wasmtime::Result<Result<String, Error>> {
        self.session.count_call();
        self.submit_follow_up(&agent, body, options)
    }

    fn is_cancelled(&mut self) -> wasmtime::Result<bool> {
        self.session.count_call();
        Ok(self.session.is_cancelled())
    }

    fn progress(&mut self, fraction: f64, note: Option<String>) -> wasmtime::Result<()> {
        self.session.count_call();
        if let Some(sink) = &self.session.progress {
            #[expect(clippy::cast_possible_truncation, reason = "a fraction for people; seven digits are plenty")]
            let fraction = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) as f32 };
            let note = self.session.log().presentable(&note.unwrap_or_default(), NOTE_BYTES_MAX);
            sink.note(Progress { fraction, note });
        }
        Ok(())
    }
}

impl View<'_> {
    fn submit_follow_up(
        &mut self,
        agent: &str,
        body: Vec<u8>,
        options: SubmitOptions,
    ) -> wasmtime::Result<Result<String, Error>> {
        let mut follow_up = match self.follow_up(agent, body, options) {
            Ok(follow_up) => follow_up,
            Err(error) => return Ok(Err(error)),
        };
        let id = follow_up.task.id.as_str().to_owned();
        if let Some(tape) = self.session.tape() {
            let task = &follow_up.task;
            let asked = (task.agent.as_str(), &id, Lent(&task.body), &task.headers, follow_up.delay);
            tape.call_now("tasks.submit", &asked, || ());
        }
        let mut span = self.created(&mut follow_up.task);
        match self.session.follow_ups.push(follow_up) {
            Ok(()) => Ok(Ok(id)),
            Err(Refused::OverLimit(text)) => {
                span.fail("limit-exceeded");
                Ok(Err(Error::LimitExceeded(text)))
            }
            Err(Refused::NoRoom(error)) => Err(error.into()),
        }
    }

    /// The follow-up that the guest asks for, if it may.
    fn follow_up(&mut self, agent: &str, body: Vec<u8>, options: SubmitOptions) -> Result<FollowUp, Error> {
        let granted = self.session.plan().manifest().grants.tasks.iter().find(|name| name.as_str() == agent);
        let Some(agent) = granted.cloned() else {
            let agent = quoted(agent);
            let line = format!("[grants] tasks = [{agent}]");
            self.session.note_denied("tasks", &agent, &line);
            return Err(Error::AccessDenied(denied(&format!("tasks of {agent}"), &line)));
        };
        if !self.session.directory().is_deployed(&agent) {
            return Err(Error::UnknownAgent(format!("no agent {agent} is deployed")));
        }
        if body.len() > BODY_BYTES_MAX {
            let text = format!("a body of {} bytes: at most {BODY_BYTES_MAX}", body.len());
            return Err(Error::LimitExceeded(text));
        }
        let delay = Duration::from_millis(options.delay_ms.unwrap_or(0));
        if delay > DELAY_MAX {
            return Err(Error::InvalidOption(format!("delay-ms: at most {}", DELAY_MAX.as_millis())));
        }
        if options.max_attempts == Some(0) {
            return Err(Error::InvalidOption("max-attempts: at least 1".to_owned()));
        }
        let mut task = Task::new(agent, body);
        task.headers = checked_headers(options.headers)?;
        task.partition_key = task.headers.extract_if(.., |(name, _)| name == PARTITION_KEY).next().map(|(_, key)| key);
        if let Some(content_type) = options.content_type {
            task.content_type = checked_content_type(content_type)?;
        }
        task.id = self.follow_up_id(&task.agent, options.idempotency_key)?;
        task.attempts_max = options.max_attempts;
        Ok(FollowUp { task, delay })
    }

    /// The span of a follow-up's message, whose context travels with it. It leaves when this task has ended.
    fn created(&self, task: &mut Task) -> Span {
        let calls = self.session.calls();
        let mut span = calls.begin(Kind::Producer, format_args!("create {}", Queue(&task.agent)));
        span.is_of_a_message(&task.agent, "create", "create");
        span.set_with("messaging.message.id", || task.id.to_string());
        let own = span.traceparent().or_else(|| calls.traceparent());
        task.traceparent = own.or_else(|| self.session.traceparent().cloned());
        span
    }

    /// The id that the key stands for; without a key, one that a retry of this run gives the same call again.
    fn follow_up_id(&mut self, agent: &AgentName, key: Option<String>) -> Result<TaskId, Error> {
        let key = match key {
            Some(key) if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX || key.contains('\0') => {
                let text = format!("idempotency-key: 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes without NUL");
                return Err(Error::InvalidOption(text));
            }
            Some(key) => key,
            None => {
                let position = self.session.follow_ups.unnamed;
                self.session.follow_ups.unnamed = position.saturating_add(1);
                // A NUL keeps it apart from every key that a guest can choose.
                format!("\0{}\0{position}", self.session.task_id())
            }
        };
        Ok(TaskId::from_idempotency_key(agent, &key))
    }
}

fn checked_headers(headers: Vec<(String, String)>) -> Result<Vec<(String, String)>, Error> {
    let bytes = headers.iter().map(|(name, value)| name.len().saturating_add(value.len()));
    if headers.len() > HEADERS_MAX || bytes.fold(0, usize::saturating_add) > HEADERS_BYTES_MAX {
        let text = format!("headers: at most {HEADERS_MAX}, of {HEADERS_BYTES_MAX} bytes together");
        return Err(Error::InvalidOption(text));
    }
    let mut checked = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        // The names of HTTP (RFC 9110, token): a task's headers may travel over HTTP too. RabbitMQ stops at 255 bytes.
        let token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        if name.is_empty() || name.len() > 255 || !token {
            return Err(Error::InvalidOption(format!("headers: {name:?} is no header name")));
        }
        if HEADERS_RESERVED.contains(&name.as_str()) || name.starts_with("x-death") {
            return Err(Error::InvalidOption(format!("headers: {name:?} is the host's own, use the options")));
        }
        if value.contains(|character: char| character.is_control() && character != '\t') {
            return Err(Error::InvalidOption(format!("headers: the value of {name:?} has control characters")));
        }
        checked.push((name, value));
    }
    // The order of a task's headers, by name and then by arrival.
    checked.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(checked)
}

fn checked_content_type(content_type: String) -> Result<String, Error> {
    // AMQP's limit of a short string.
    let fits = (1..=255).contains(&content_type.len());
    if fits && content_type.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        Ok(content_type)
    } else {
        Err(Error::InvalidOption("content-type: 1 to 255 printable ASCII characters".to_owned()))
    }
}
