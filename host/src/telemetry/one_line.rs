//! The fields of a log line for people, on one line whatever they hold.
//!
//! What an agent says is escaped where it enters the log. Texts of others come in other ways too: in the error of a statement that
//! PostgreSQL refused in an agent's own words, say. `tracing-subscriber` takes terminal sequences out of them and leaves the ends of
//! lines.

use std::fmt;

use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

use crate::text::escaped;

/// Most bytes of all fields of one line: several of the longest that an agent may log.
const FIELDS_BYTES_MAX: usize = 64 << 10;

/// Formats fields as `tracing-subscriber` does, and escapes the result.
#[derive(Debug, Default)]
pub(super) struct OneLine(DefaultFields);

impl<'writer> FormatFields<'writer> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = String::new();
        self.0.format_fields(Writer::new(&mut text), fields)?;
        writer.write_str(&escaped(&text, FIELDS_BYTES_MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("first\nERROR forged")]
    struct Forging(#[source] std::io::Error);

    #[test]
    fn a_record_is_a_line_whatever_its_fields_hold() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).fmt_fields(OneLine::default());
        tracing::subscriber::with_default(subscriber.with_writer(move || writer.clone()).finish(), || {
            let error = Forging(std::io::Error::other("second\r\u{2028}\u{1b}[2J"));
            tracing::warn!(error = &error as &dyn std::error::Error, name = %"a\nb", "what\nhappened");
            tracing::info!(number = 1, "plain");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains(r"what\nhappened") && text.contains(r"first\nERROR forged"), "{text}");
        assert!(text.contains(r"a\nb") && text.contains(r"second\r\u{2028}"), "{text}");
        assert!(text.contains("plain number=1") && !text.contains('\u{1b}'), "{text}");
    }
}
