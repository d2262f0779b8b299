//! The command shape: a program. The task's body is its standard input, what it prints is the output, and its exit code
//! says how it went.

use std::collections::BTreeMap;
use std::time::Instant;

use wasmtime::Store;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

use super::{Answer, Gathered, started};
use crate::agent::load::Revision;
use crate::agent::state::InstanceState;
use crate::capability::stdout::Immediate;
use crate::task::{Output, Task};

/// The exit code of a program that wants to be run again: `EX_TEMPFAIL` of `sysexits.h`.
const TEMPORARY_FAILURE: i32 = 75;

/// Gives it the task: argument 0 is the agent's name, and the environment says the rest.
pub(super) fn wire(wasi: &mut WasiCtxBuilder, revision: &Revision, task: &Task, output: Gathered) {
    wasi.stdin(MemoryInputPipe::new(task.body.clone())).stdout(Immediate(output));
    wasi.arg(revision.agent.as_str());
    if let Some(command) = &revision.manifest.command {
        wasi.args(&command.args);
    }
    for (name, value) in environment(task) {
        wasi.env(name, value);
    }
}

/// What the environment says about a task. Names of headers are made names of variables; where two become the same, their
/// values are joined.
fn environment(task: &Task) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &task.headers {
        let value = passable(value);
        environment
            .entry(variable(name))
            .and_modify(|joined| joined.extend([", ", value.as_str()]))
            .or_insert_with(|| value.clone());
    }
    for (name, value) in [
        ("TASK_ID", task.id.to_string()),
        ("TASK_AGENT", task.agent.to_string()),
        ("TASK_ATTEMPT", task.attempt.to_string()),
        ("TASK_CONTENT_TYPE", passable(&task.content_type)),
    ] {
        environment.insert(name.to_owned(), value);
    }
    environment
}

/// The variable of a header. Whatever no shell could name is an underscore: with a `=` in it, the name would end early.
fn variable(header: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    "TASK_HEADER_".chars().chain(header.chars().map(letter)).collect()
}

/// A value as a program can read it, for which a NUL would be its end.
fn passable(value: &str) -> String {
    value.replace('\0', "\u{fffd}")
}

pub(super) async fn call(
    pre: &CommandPre<InstanceState>,
    store: &mut Store<InstanceState>,
    revision: &Revision,
) -> wasmtime::Result<Answer> {
    let began = Instant::now();
    let command = pre.instantiate_async(&mut *store).await?;
    started(store, revision, began);
    let code = match command.wasi_cli_run().call_run(&mut *store).await {
        Ok(ended) => i32::from(ended.is_err()),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => exit.0,
            None => return Err(error),
        },
    };
    let state = store.data();
    Ok(match code {
        0 => Answer::Succeeded(output(state)),
        TEMPORARY_FAILURE => Answer::Retry { message: told(code, state), after_ms: None },
        _ => Answer::Rejected { message: told(code, state) },
    })
}

/// What it printed; nothing where it printed nothing.
fn output(state: &InstanceState) -> Option<Output> {
    let body = state.gathered.as_ref().map(Gathered::answer).unwrap_or_default();
    (!body.is_empty()).then(|| Output { body, ..Output::default() })
}

fn told(code: i32, state: &InstanceState) -> String {
    let last_words = state.stderr.last_words().map(|words| format!(": {words}"));
    format!("exit code {code}{}", last_words.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(headers: &[(&str, &str)]) -> Task {
        let mut task = Task::new("adder".parse().unwrap(), "");
        task.headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        task
    }

    #[test]
    fn the_environment_says_what_the_task_is() {
        let mut task = task(&[("a-b", "1"), ("a.b", "2"), ("a_b", "3"), ("colour", "red\0blue")]);
        task.content_type = "text/plain".into();
        task.attempt = 2;
        let environment = environment(&task);
        let variables: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            variables,
            [
                ("TASK_AGENT", "adder"),
                ("TASK_ATTEMPT", "2"),
                ("TASK_CONTENT_TYPE", "text/plain"),
                ("TASK_HEADER_A_B", "1, 2, 3"),
                ("TASK_HEADER_COLOUR", "red\u{fffd}blue"),
                ("TASK_ID", task.id.as_str()),
            ]
        );
    }

    proptest! {
        #[test]
        fn no_header_is_anything_but_a_header(name in ".*", value in ".*") {
            let sent = task(&[(&name, &value)]);
            let environment = environment(&sent);
            prop_assert_eq!(environment.len(), 5);
            prop_assert_eq!(&environment["TASK_ID"], sent.id.as_str());
            for (name, value) in &environment {
                prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{:?}", name);
                prop_assert!(!value.contains('\0'));
            }
        }
    }
}
