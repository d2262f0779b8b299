//! The forms that a handler may have: each of them expands and type-checks. What they do with a task is the samples'
//! concern; what crosses the component's boundary is tested by the host, on real components.

use agent_sdk::{Failure, Json, Output, Task};

mod only_the_task {
    use super::*;

    #[agent_sdk::agent]
    fn handle(task: Task) -> Output {
        Output::new(task.content_type, task.body)
    }

    #[test]
    fn is_an_ordinary_function_still() {
        let task = Task { content_type: "text/plain".into(), body: b"x".to_vec(), ..Task::default() };
        assert_eq!(handle(task), Output::new("text/plain", "x"));
    }
}

mod a_borrowed_task_and_typed_json {
    use super::*;

    #[agent_sdk::agent]
    fn handle(task: &Task, Json(numbers): Json<Vec<i64>>) -> Result<Json<i64>, Failure> {
        if task.is_last_attempt() {
            return Err(Failure::reject("too late"));
        }
        Ok(Json(numbers.iter().sum()))
    }

    #[test]
    fn gets_both() {
        let task = Task { max_attempts: 5, ..Task::default() };
        assert_eq!(handle(&task, Json(vec![1, 2])), Ok(Json(3)));
    }
}

mod an_owned_task_in_second_place {
    use super::*;

    #[agent_sdk::agent]
    fn handle(text: String, task: Task) -> Result<String, std::num::ParseIntError> {
        let number: u32 = text.parse()?;
        Ok(format!("{}: {number}", task.id))
    }

    #[test]
    fn and_an_error_of_its_own() {
        assert_eq!(handle("7".into(), Task { id: "t".into(), ..Task::default() }), Ok("t: 7".into()));
        assert!(handle("seven".into(), Task::default()).is_err());
    }
}

mod asynchronous {
    use super::*;

    #[agent_sdk::agent]
    async fn handle(body: Vec<u8>) -> Result<Option<Output>, Failure> {
        Ok((!body.is_empty()).then(|| Output::new("application/octet-stream", body)))
    }

    #[test]
    fn is_a_future_of_its_result() {
        let mut future = std::pin::pin!(handle(Vec::new()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert_eq!(future.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(None)));
    }
}

mod without_arguments {
    use super::*;

    #[agent_sdk::agent]
    fn handle() -> Result<(), Failure> {
        Err(Failure::retry("not yet"))
    }

    #[test]
    fn needs_no_task() {
        assert_eq!(handle(), Err(Failure::retry("not yet")));
    }
}
