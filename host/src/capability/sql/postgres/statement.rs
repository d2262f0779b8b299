//! Which statements an agent may not run.
//!
//! The first word decides. This keeps a well-meant statement from taking the connection out of the host's hands; it is not
//! what confines an agent, which is its login role.

/// Statements that end or split the transaction that the host holds.
const TRANSACTION_CONTROL: [&str; 8] = ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"];
/// Statements that change what the connection holds for the host: its prepared statements, its protocol.
const CONNECTION_CONTROL: [&str; 7] = ["COPY", "PREPARE", "EXECUTE", "DEALLOCATE", "DISCARD", "LISTEN", "LOAD"];

/// Why this statement is refused, if it is.
pub(super) fn refusal(statement: &str) -> Option<String> {
    let word = first_word(statement).to_ascii_uppercase();
    if TRANSACTION_CONTROL.contains(&word.as_str()) {
        return Some(format!(
            "{word} is the host's: under transaction = \"task\" the task is one transaction, which commits when it succeeds; \
             under transaction = \"statement\" each statement is one"
        ));
    }
    if CONNECTION_CONTROL.contains(&word.as_str()) {
        return Some(format!(
            "{word} is not offered: every statement is prepared by the host, and its rows are streamed"
        ));
    }
    None
}

/// The first word, past blanks, comments and opening parentheses.
fn first_word(statement: &str) -> &str {
    let mut rest = statement;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(' || c == ';');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.find(['\n', '\r']).and_then(|end| comment.get(end..)).unwrap_or("");
        } else if rest.starts_with("/*") {
            rest = after_block_comment(rest);
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            return rest.get(..end).unwrap_or("");
        }
    }
}

/// What follows a block comment; these nest.
fn after_block_comment(text: &str) -> &str {
    let (mut depth, mut rest) = (0u32, text);
    loop {
        if let Some(inner) = rest.strip_prefix("/*") {
            (depth, rest) = (depth.saturating_add(1), inner);
        } else if let Some(after) = rest.strip_prefix("*/") {
            (depth, rest) = (depth.saturating_sub(1), after);
            if depth == 0 {
                return rest;
            }
        } else {
            let mut characters = rest.chars();
            if characters.next().is_none() {
                return "";
            }
            rest = characters.as_str();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn transaction_control_is_refused_however_it_is_written() {
        for statement in [
            "BEGIN",
            "commit",
            "  RollBack to x",
            "-- a comment\nCOMMIT",
            "-- ended by either\rCOMMIT",
            "/* /* nested */ */ end",
            "; ;commit",
            "savepoint a",
            "START TRANSACTION",
            "prepare transaction 'x'",
            "copy t from stdin",
            "DISCARD ALL",
        ] {
            assert!(refusal(statement).is_some(), "{statement}");
        }
        for statement in
            ["select 1", "(select 1)", "with x as (select 1) select * from x", "", "-- begin", "/* commit", "beginning"]
        {
            assert_eq!(refusal(statement), None, "{statement}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_first_word(text in ".*") {
            prop_assert!(first_word(&text).bytes().all(|byte| byte.is_ascii_alphabetic()));
        }
    }
}
