//! Where commands print.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::Format;
use crate::config::Vars;
use crate::text::is_harmful;

/// The streams and the environment of a command.
pub struct Console<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// Everything else.
    pub err: &'a mut dyn Write,
    /// The environment.
    pub vars: &'a dyn Vars,
    /// How results are printed.
    pub format: Format,
}

impl Console<'_> {
    /// Prints a complaint, or a hint, for people.
    pub(crate) fn complain(&mut self, message: &str) {
        // A closed standard error leaves nobody to tell.
        let _ = writeln!(self.err, "agent-host: {}", harmless(message));
    }

    /// Prints a task's output as it is. On a terminal the prompt gets a line of its own.
    pub(crate) fn raw(&mut self, output: &[u8]) -> std::io::Result<()> {
        self.out.write_all(output)?;
        if std::io::stdout().is_terminal() && !output.ends_with(b"\n") {
            writeln!(self.out)?;
        }
        self.out.flush()
    }

    /// Prints one JSON document.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        writeln!(self.out, "{text}")
    }

    /// Prints one JSON document on a line of its own, at once: others follow it.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let text = serde_json::to_string(value)?;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Prints a line of text, at once: others follow it.
    pub(crate) fn line(&mut self, text: &str) -> std::io::Result<()> {
        self.text(text)?;
        self.out.flush()
    }

    /// Prints lines of text.
    pub(crate) fn text(&mut self, text: &str) -> std::io::Result<()> {
        writeln!(self.out, "{}", harmless(text.trim_end()))
    }
}

/// Text that others wrote some of, with its lines and without what makes a terminal do anything else: moving the cursor,
/// setting its title, turning the direction of text.
fn harmless(text: &str) -> Cow<'_, str> {
    let harms = |character: char| is_harmful(character) && !matches!(character, '\n' | '\t');
    if text.contains(harms) { text.replace(harms, " ").into() } else { text.into() }
}

/// Text from an agent for one line on a terminal: without what moves the cursor, and not too long.
pub(crate) fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    let mut line: String =
        text.chars().take(CHARS_MAX).map(|character| if is_harmful(character) { ' ' } else { character }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

/// Rows under headings, in columns as wide as their widest cell.
pub(crate) fn table<const COLUMNS: usize>(headings: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut headings.into_iter());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_moves_the_cursor() {
        assert_eq!(harmless("a\n\tb é"), "a\n\tb é");
        assert_eq!(harmless("a\u{1b}]0;title\u{7}\r\u{9b}2J\u{202e}\u{2028}b"), "a ]0;title   2J  b");
    }

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(one_line("a\nb\u{1b}[2J"), "a b [2J");
        assert_eq!(one_line(&"é".repeat(120)), "é".repeat(120));
        assert_eq!(one_line(&"é".repeat(121)), format!("{}…", "é".repeat(120)));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["é".to_owned(), "1".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "N"], &rows), "NAME    N\né       1\nlonger\n");
    }
}
