//! Answers with the body it was sent, under the same content type.

use agent_sdk::{Output, Task};

#[agent_sdk::agent]
fn handle(task: Task) -> Output {
    Output::new(task.content_type, task.body)
}
