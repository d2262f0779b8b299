//! The text of a batch: one JSON body a line. Pure: no state, no I/O.

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::http::BATCH_TASKS_MAX;
use crate::http::problem::{Kind, Problem};

/// The bodies of a batch, sharing the request's buffer.
pub(crate) fn lines(body: &Bytes, payload_bytes_max: u64) -> Result<Vec<Bytes>, Problem> {
    let mut bodies = Vec::new();
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let (line, number) = (line.trim_ascii(), index + 1);
        if line.is_empty() {
            continue;
        }
        if bodies.len() == BATCH_TASKS_MAX {
            return Err(Problem::new(
                Kind::TooLarge,
                format!("a batch has at most {BATCH_TASKS_MAX} tasks; send it in parts"),
            ));
        }
        if line.len() as u64 > payload_bytes_max {
            return Err(Problem::too_large(&format!("line {number}"), payload_bytes_max));
        }
        if let Err(error) = serde_json::from_slice::<IgnoredAny>(line) {
            return Err(Problem::bad_request(format!("line {number} is not JSON: {error}; nothing was enqueued")));
        }
        bodies.push(body.slice_ref(line));
    }
    if bodies.is_empty() {
        return Err(Problem::bad_request("the batch is empty: expected one JSON body a line"));
    }
    Ok(bodies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<String>, u16> {
        let bodies =
            lines(&Bytes::copy_from_slice(text.as_bytes()), 16).map_err(|problem| problem.status().as_u16())?;
        Ok(bodies.iter().map(|body| String::from_utf8(body.to_vec()).unwrap()).collect())
    }

    #[test]
    fn each_line_is_a_body() {
        assert_eq!(read("{\"a\":1}\n[2]\r\n\n3").unwrap(), ["{\"a\":1}", "[2]", "3"]);
        assert_eq!(read(""), Err(400));
        assert_eq!(read("\n \n"), Err(400));
        assert_eq!(read("1\n{\"a\":\n"), Err(400));
        assert_eq!(read("\"12345678901234567\""), Err(413));
    }

    #[test]
    fn at_most_ten_thousand() {
        assert_eq!(read(&"1\n".repeat(BATCH_TASKS_MAX)).unwrap().len(), BATCH_TASKS_MAX);
        assert_eq!(read(&"1\n".repeat(BATCH_TASKS_MAX + 1)), Err(413));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            match lines(&Bytes::from(body), 64) {
                Ok(bodies) => prop_assert!(bodies.iter().all(|body| serde_json::from_slice::<IgnoredAny>(body).is_ok())),
                Err(problem) => prop_assert!(problem.status().is_client_error()),
            }
        }
    }
}
