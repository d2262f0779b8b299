//! The messaging shape: `wasi:messaging/incoming-handler`, which is handed one message and answers whether it worked.

use std::time::Instant;

use wasmtime::Store;

use super::{Answer, started};
use crate::agent::load::Revision;
use crate::agent::state::InstanceState;
use crate::capability::messaging::Message;
use crate::task::Task;
use crate::wit::capabilities::wasi::messaging::types::Error;
use crate::wit::messaging::HostMessagingPre;

pub(super) async fn call(
    pre: &HostMessagingPre<InstanceState>,
    store: &mut Store<InstanceState>,
    revision: &Revision,
    task: &Task,
) -> wasmtime::Result<Answer> {
    let began = Instant::now();
    let agent = pre.instantiate_async(&mut *store).await?;
    started(store, revision, began);
    let message = store.data_mut().capabilities().hand_over(message(task))?;
    let answer = agent.wasi_messaging_incoming_handler().call_handle(store, message).await?;
    Ok(answer.map_or_else(|error| Answer::Retry { message: told(error), after_ms: None }, |()| Answer::Succeeded(None)))
}

/// The task as a message: its headers are the metadata, with what the host knows about it.
fn message(task: &Task) -> Message {
    let mut metadata = task.headers.clone();
    for (name, value) in super::http::about(task) {
        // No header of the sender's passes for the host's own.
        metadata.retain(|(other, _)| other != name);
        metadata.push((name.to_owned(), value));
    }
    Message {
        topic: Some(task.agent.to_string()),
        content_type: Some(task.content_type.clone()),
        data: task.body.clone(),
        metadata,
    }
}

fn told(error: Error) -> String {
    let named = |name: &str, text: String| if text.is_empty() { name.to_owned() } else { format!("{name}: {text}") };
    match error {
        Error::Timeout => "timeout".to_owned(),
        Error::Connection(text) => named("connection", text),
        Error::PermissionDenied(text) => named("permission denied", text),
        Error::Other(text) if text.is_empty() => "the handler gave no reason".to_owned(),
        Error::Other(text) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_tasks_headers_and_none_forged() {
        let mut task = Task::new("sorter".parse().unwrap(), "body");
        task.headers = vec![("colour".into(), "red".into()), ("task-id".into(), "forged".into())];
        task.attempt = 3;
        let message = message(&task);
        assert_eq!(message.topic.as_deref(), Some("sorter"));
        assert_eq!(message.content_type.as_deref(), Some("application/octet-stream"));
        let value = |name: &str| {
            let mut values =
                message.metadata.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
            (values.next(), values.next())
        };
        assert_eq!(value("colour"), (Some("red"), None));
        assert_eq!(value("task-id"), (Some(task.id.as_str()), None));
        assert_eq!(value("task-attempt"), (Some("3"), None));
    }

    #[test]
    fn an_error_without_words_still_has_some() {
        assert_eq!(told(Error::Other(String::new())), "the handler gave no reason");
        assert_eq!(told(Error::Connection("no route".into())), "connection: no route");
        assert_eq!(told(Error::PermissionDenied(String::new())), "permission denied");
    }
}
