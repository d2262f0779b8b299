//! The report as Markdown: the tables and checks, for reading beside the code.

use std::fmt::Write as _;

use serde_json::Value;

use super::limits::Verdict;
use super::run::Run;
use super::sections::Section;
use super::{html, words};

/// The page. `reference` is the machine of the reference figures.
pub(super) fn page(run: &Run, sections: &[Section], reference: &Value) -> String {
    let mut page = format!("# Load report: {}\n\n{}\n", html::started(run), html::verdict(sections));
    for section in sections {
        // Writing to a string does not fail.
        let _ = write!(page, "\n## {}\n\n{}\n\n", section.title, section.about);
        page.push_str("| figure | here | reference | SLA | |\n|---|---|---|---|---|\n");
        for row in &section.rows {
            let here = if row.verdict == Verdict::Broken { format!("**{}**", row.value) } else { row.value.clone() };
            let word = row.verdict.word();
            let _ = writeln!(page, "| {} | {here} | {} | {} | {word} |", row.label, row.reference, row.limits);
        }
        if !section.checks.is_empty() || !section.wrong.is_empty() {
            page.push('\n');
        }
        for check in &section.checks {
            let _ = writeln!(page, "- {}: {} right, {} wrong", check.name, check.right, check.wrong);
        }
        for wrong in &section.wrong {
            let _ = writeln!(page, "- **{wrong}**");
        }
    }
    page.push_str("\n## Machine and run\n\n| | |\n|---|---|\n");
    for (name, value) in html::facts(run, reference) {
        let _ = writeln!(page, "| {} | {} |", name.replace('_', " "), words::value(&value));
    }
    page
}
