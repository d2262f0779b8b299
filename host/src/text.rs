//! Text that others wrote some of, made safe to show to people.

use std::fmt::Write;

/// Whether a character does something where it is shown: ends a line, moves a cursor, turns the direction of text.
#[must_use]
pub fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// A text on one line: harmful characters as Rust escapes, cut after about `bytes_max` bytes.
#[must_use]
pub fn escaped(text: &str, bytes_max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(bytes_max));
    for (at, character) in text.char_indices() {
        if line.len() >= bytes_max {
            let _ = write!(line, "… ({} bytes more)", text.len().saturating_sub(at));
            break;
        }
        if is_harmful(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_in_a_line_can_look_like_another_line() {
        let hostile = "done\n{\"level\":\"ERROR\"}\r\u{1b}[2Jx\u{202e}gpj.exe\0";
        assert_eq!(escaped(hostile, 100), r#"done\n{"level":"ERROR"}\r\u{1b}[2Jx\u{202e}gpj.exe\u{0}"#);
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let shown = escaped(&"x".repeat(10 << 20), 100);
        assert_eq!(shown, format!("{}… ({} bytes more)", "x".repeat(100), (10 << 20) - 100));
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_short_line(text in ".*", bytes_max in 0usize..64) {
            let shown = escaped(&text, bytes_max);
            prop_assert!(!shown.contains(is_harmful));
            prop_assert!(shown.len() < bytes_max + 64);
        }
    }
}
