//! Results as JUnit's XML, which every CI reads.

use std::fmt::Write as _;
use std::time::Duration;

/// A scenario's result.
pub(super) struct Case<'a> {
    pub(super) name: &'a str,
    pub(super) took: Duration,
    /// What is wrong; nothing where it passed.
    pub(super) failure: Option<&'a str>,
}

/// The document.
pub(super) fn document(suite: &str, cases: &[Case<'_>]) -> String {
    let failures = cases.iter().filter(|case| case.failure.is_some()).count();
    let took: Duration = cases.iter().map(|case| case.took).sum();
    let (tests, suite, seconds) = (cases.len(), escaped(suite), took.as_secs_f64());
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let counts = format!("tests=\"{tests}\" failures=\"{failures}\" time=\"{seconds:.3}\"");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "<testsuites {counts}>\n  <testsuite name=\"{suite}\" {counts}>");
    for case in cases {
        let (name, seconds) = (escaped(case.name), case.took.as_secs_f64());
        let start = format!("    <testcase classname=\"{suite}\" name=\"{name}\" time=\"{seconds:.3}\"");
        let _ = match case.failure {
            None => writeln!(text, "{start}/>"),
            Some(told) => {
                let first = told.lines().next().unwrap_or_default();
                let (first, told) = (escaped(first), escaped(told));
                writeln!(text, "{start}>\n      <failure message=\"{first}\">{told}</failure>\n    </testcase>")
            }
        };
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

/// Text as XML has it. Characters that XML cannot hold are replaced.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\n' => safe.push_str("&#10;"),
            '\t' => safe.push('\t'),
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_document_counts_and_tells() {
        let second = Duration::from_secs(1);
        let cases = [
            Case { name: "good", took: second, failure: None },
            Case { name: "b<a>d", took: second, failure: Some("output:\n- \"a\"\n+ b & c\u{1b}") },
        ];
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <testsuites tests=\"2\" failures=\"1\" time=\"2.000\">\n  \
            <testsuite name=\"voter\" tests=\"2\" failures=\"1\" time=\"2.000\">\n    \
            <testcase classname=\"voter\" name=\"good\" time=\"1.000\"/>\n    \
            <testcase classname=\"voter\" name=\"b&lt;a&gt;d\" time=\"1.000\">\n      \
            <failure message=\"output:\">output:&#10;- &quot;a&quot;&#10;+ b &amp; c\u{fffd}</failure>\n    \
            </testcase>\n  </testsuite>\n</testsuites>\n";
        assert_eq!(document("voter", &cases), expected);
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_place(text in ".*") {
            let safe = escaped(&text);
            prop_assert!(!safe.contains(['<', '>', '"']));
            prop_assert!(!safe.chars().any(|character| character.is_control() && character != '\t'));
        }
    }
}
