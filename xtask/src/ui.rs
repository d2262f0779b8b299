//! What the commands print: steps with the time since the start, warnings, tables.
//!
//! Everything goes to stderr except what a script may want to read (`services` prints its `export` lines to stdout).

use std::io::{IsTerminal, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since the command began.
pub(crate) fn elapsed() -> Duration {
    START.elapsed()
}

/// Whether lines may be redrawn in place and coloured.
pub(crate) fn is_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn styled(code: &str, text: &str) -> String {
    if is_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Announces a step.
pub(crate) fn step(text: &str) {
    let time = styled("2", &format!("[{:6.1}s]", elapsed().as_secs_f64()));
    eprintln!("{time} {}", styled("1", text));
}

/// A remark under the current step.
pub(crate) fn say(text: &str) {
    eprintln!("          {text}");
}

/// Something that the reader should know although the command goes on.
pub(crate) fn warn(text: &str) {
    eprintln!("{} {text}", styled("33", "warning:"));
}

/// The error that ends the command, with its causes, one a line.
pub(crate) fn fail(error: &anyhow::Error) {
    eprintln!("{} {error}", styled("31", "error:"));
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
}

#[derive(Default)]
pub(crate) struct Live {
    drawn: usize,
}

impl Live {
    /// Draws `lines` over the ones drawn before. Without a terminal nothing is drawn.
    pub(crate) fn draw(&mut self, lines: &[String]) {
        if !is_terminal() {
            return;
        }
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            out.push_str(&format!("\x1b[2K{line}\n"));
        }
        self.drawn = lines.len();
        // A closed stderr must not end the command: the work matters more than the picture of it.
        let _ = std::io::stderr().write_all(out.as_bytes());
    }
}

/// Lines the columns up: the first to the left, the others to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("   ")
    };
    let rule = widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>();
    let mut lines = vec![line(head.to_vec()), line(rule.iter().map(String::as_str).collect())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}
