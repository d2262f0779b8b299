//! A place in the list of dead letters as clients carry it around. They are not to read anything into it. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::records::{DeadLetter, DeadLetterCursor};
use crate::task::TaskId;

/// The place behind a letter.
pub(crate) fn cursor_text(letter: &DeadLetter) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {}", letter.failed_at_ms, letter.id))
}

/// The place that a client sends back; nothing where the text is no place.
pub(crate) fn cursor(text: &str) -> Option<DeadLetterCursor> {
    let decoded = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (failed_at_ms, id) = decoded.split_once(' ')?;
    Some(DeadLetterCursor { failed_at_ms: failed_at_ms.parse().ok()?, id: TaskId::parse(id).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::doubles::dead_letter;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a task is called, its place in the list is found again.
        #[test]
        fn a_cursor_leads_back_to_its_letter(failed_at_ms: u64, id in "[ -~]{1,128}") {
            let letter = DeadLetter { failed_at_ms, ..dead_letter(&id, "echo", 0).letter };
            let text = cursor_text(&letter);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
            prop_assert_eq!(cursor(&text), Some(DeadLetterCursor { failed_at_ms, id: letter.id }));
        }

        #[test]
        fn any_text_is_a_cursor_or_none(text in ".{0,60}") {
            if let Some(cursor) = cursor(&text) {
                prop_assert!(!cursor.id.as_str().is_empty());
            }
        }
    }
}
