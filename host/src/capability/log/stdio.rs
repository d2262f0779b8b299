//! Standard output and standard error of an agent, line by line into its log.
//!
//! Each holds one unfinished line of at most [`LINE_BYTES_MAX`], so that a guest cannot make it grow.

use std::sync::{Arc, Mutex, PoisonError};

use super::{GuestLog, LINE_BYTES_MAX, Level, escaped};
use crate::capability::stdout::Sink;

/// How much of what was said last is kept for a failure's message.
const LAST_WORDS_BYTES_MAX: usize = 400;

/// One of the two streams. Clones write to the same one.
#[derive(Clone)]
pub struct Stdio {
    lines: Arc<Mutex<Lines>>,
}

struct Lines {
    log: Arc<GuestLog>,
    level: Level,
    name: &'static str,
    unfinished: Vec<u8>,
    last_words: String,
    panicked: bool,
}

impl Stdio {
    /// Standard output: its lines are logged at `info`.
    #[must_use]
    pub fn output(log: &Arc<GuestLog>) -> Self {
        Self::new(log, Level::Info, "stdout")
    }

    /// Standard error: its lines are logged at `warn`.
    #[must_use]
    pub fn error(log: &Arc<GuestLog>) -> Self {
        Self::new(log, Level::Warn, "stderr")
    }

    fn new(log: &Arc<GuestLog>, level: Level, name: &'static str) -> Self {
        let lines = Lines {
            log: Arc::clone(log),
            level,
            name,
            unfinished: Vec::new(),
            last_words: String::new(),
            panicked: false,
        };
        Self { lines: Arc::new(Mutex::new(lines)) }
    }

    /// The last line, or the message of a Rust panic, shortened and on one line; `None` where nothing was said. Logs an
    /// unfinished line.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.end_line();
        (!lines.last_words.is_empty()).then(|| escaped(&lines.last_words, LAST_WORDS_BYTES_MAX))
    }
}

impl Sink for Stdio {
    fn take(&self, bytes: &[u8]) -> wasmtime::Result<()> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).take(bytes);
        Ok(())
    }
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let mut rest = text;
            // A line longer than a record goes on in the next one.
            while self.unfinished.len().saturating_add(rest.len()) > LINE_BYTES_MAX {
                let (fits, more) = rest.split_at(LINE_BYTES_MAX.saturating_sub(self.unfinished.len()));
                self.unfinished.extend_from_slice(fits);
                self.end_line();
                rest = more;
            }
            self.unfinished.extend_from_slice(rest);
            if ends {
                self.end_line();
            }
        }
    }

    /// Logs the line. An empty one says nothing, and would cost a record for a byte.
    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.unfinished);
        let text = String::from_utf8_lossy(&bytes);
        let text = self.log.hidden.hide(text.trim_end()).into_owned();
        if !text.is_empty() {
            self.log.line(self.level, self.name, &text);
            self.remember(&text);
        }
    }

    /// A Rust panic ends with advice about backtraces, which says nothing here; what counts comes before it.
    fn remember(&mut self, text: &str) {
        const PLACE: &str = "panicked at ";
        if text.starts_with("note: run with `RUST_BACKTRACE") {
            return;
        }
        if let Some(at) = text.find(PLACE) {
            self.panicked = true;
            self.last_words = text.get(at..).unwrap_or_default().to_owned();
        } else if self.panicked && self.last_words.len() < LAST_WORDS_BYTES_MAX {
            self.last_words = format!("{} {}", self.last_words, text.trim_start());
        } else if !self.panicked {
            text.clone_into(&mut self.last_words);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end_line();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use bytes::Bytes;
    use wasmtime_wasi::cli::StdoutStream;

    use super::*;
    use crate::capability::log::KEPT_BYTES_MAX;
    use crate::capability::secrets::HiddenValues;
    use crate::capability::stdout::Immediate;
    use crate::task::TaskId;
    use crate::units::ByteSize;

    fn log(bytes_max: u64) -> Arc<GuestLog> {
        Arc::new(GuestLog {
            agent: "a".parse().unwrap(),
            revision: 1,
            task_id: TaskId::generate(),
            attempt: 1,
            trace_id: None,
            bytes_max: ByteSize(bytes_max),
            bytes: Default::default(),
            cut: Default::default(),
            kept: Default::default(),
            ledger: Default::default(),
            hidden: HiddenValues::default(),
        })
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn records(said: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, said);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_is_a_record_however_it_is_written() {
        let seen = records(|| {
            let (log, mut error) = (log(1 << 10), None);
            let output = Stdio::output(&log);
            for piece in ["on", "e\n\ntw", "o\nun", "finished"] {
                output.take(piece.as_bytes()).unwrap();
                error.get_or_insert_with(|| Stdio::error(&log)).clone().take(b"x\n").unwrap();
            }
        });
        assert_eq!(seen.len(), 7, "{seen:?}");
        let output: Vec<_> = seen.iter().filter(|line| line.contains("stdout")).collect();
        for (line, text) in output.iter().zip(["one", "two", "unfinished"]) {
            assert!(line.contains(" INFO ") && line.contains(text) && line.contains("attempt=1"), "{line}");
        }
        assert_eq!(seen.iter().filter(|line| line.contains(" WARN ") && line.contains("stderr")).count(), 4);
    }

    #[test]
    fn nothing_grows_and_the_log_is_cut() {
        let log = log(32 << 10);
        let seen = records(|| {
            let error = Stdio::error(&log);
            for _ in 0..10_000 {
                error.take(b"").unwrap();
            }
            error.take(&vec![b'x'; 10 << 20]).unwrap();
            assert!(error.lines.lock().unwrap().unfinished.len() <= LINE_BYTES_MAX);
            assert!(error.last_words().unwrap().len() < LAST_WORDS_BYTES_MAX + 40);
        });
        assert!(log.is_cut());
        assert!(seen.len() <= 5, "{}", seen.len());
    }

    #[test]
    fn what_is_kept_is_bounded_and_accounted_for() {
        let (ledger, log) = (crate::memory::MemoryLedger::new(100 << 20, 10), log(u64::MAX));
        log.account_to(&ledger);
        assert_eq!(log.take(), None);
        log.line(Level::Debug, "a \u{1b}", "b\"\n");
        for _ in 0..100_000 {
            log.line(Level::Info, "", "x");
        }
        let said = log.take().unwrap();
        assert!(said.is_cut() && said.lines().len() <= KEPT_BYTES_MAX, "{}", said.lines().len());
        let first: serde_json::Value = serde_json::from_str(said.lines().lines().next().unwrap()).unwrap();
        assert_eq!(
            (&first["level"], &first["context"], &first["message"]),
            (&"debug".into(), &r"a \u{1b}".into(), &"b\"\\n".into())
        );
        let held = ledger.accounts().reserved_bytes;
        assert!(held + (16 << 10) >= said.lines().len() as u64, "{held}");
        drop(said);
        assert_eq!((log.take(), ledger.accounts().reserved_bytes), (None, 0));
    }

    #[tokio::test]
    async fn a_million_empty_writes_leave_nothing() {
        let log = log(1 << 10);
        // Both ways in which a stream is written to.
        let mut streams = [Immediate(Stdio::output(&log)).p2_stream(), Immediate(Stdio::error(&log)).p2_stream()];
        let stdio = Stdio::error(&log);
        let mut asynchronous = Box::into_pin(Immediate(stdio.clone()).async_stream());
        for _ in 0..1_000_000 {
            for stream in &mut streams {
                assert!(stream.check_write().unwrap() > 0);
                stream.write(Bytes::new()).unwrap();
            }
            let written = std::future::poll_fn(|context| asynchronous.as_mut().poll_write(context, b"")).await;
            assert_eq!(written.unwrap(), 0);
        }
        assert_eq!(stdio.lines.lock().unwrap().unfinished.capacity(), 0);
        assert_eq!(log.bytes.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[test]
    fn the_last_words_of_a_panic_are_its_message() {
        let said = |text: &str| {
            let error = Stdio::error(&log(1 << 20));
            error.take(text.as_bytes()).unwrap();
            error.last_words()
        };
        assert_eq!(said("\n\n"), None);
        assert_eq!(said("first\nlast\u{1b}[2J\n").as_deref(), Some(r"last\u{1b}[2J"));
        let panic = "\nthread '<unnamed>' (1) panicked at src/lib.rs:1:1:\nassertion failed\n  left: 1\n right: 2\n\
                     note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        assert_eq!(said(panic).as_deref(), Some("panicked at src/lib.rs:1:1: assertion failed left: 1 right: 2"));
    }
}
