//! Reading a secret's value, so that it stands nowhere: not on a command line, and not on a screen.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Stdin};
use std::os::fd::AsFd as _;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::cli::failed::Failed;
use crate::cli::output::Console;
use crate::secrets::VALUE_BYTES_MAX;

/// What was read. Its memory is wiped when it goes.
pub(super) type Read = Zeroizing<Vec<u8>>;

/// The value on standard input: all of it, or on a terminal one line, which is not shown.
pub(super) async fn read(agent: &str, name: &str, console: &mut Console<'_>) -> Result<Read, Failed> {
    let stdin = std::io::stdin();
    let text = if stdin.is_terminal() {
        let hidden = Hidden::from_now_on(&stdin)?;
        // Nobody is left to ask where this cannot be written.
        let _ = write!(console.err, "Value of {name} for {agent}, which is not shown: ");
        let _ = console.err.flush();
        let line = tokio::select! {
            line = in_a_thread(typed) => line,
            // The default would leave the terminal as it is now.
            _ = tokio::signal::ctrl_c() => Err(Failed::usage("nothing is set")),
        };
        drop(hidden);
        let _ = writeln!(console.err);
        line?
    } else {
        in_a_thread(piped).await?
    };
    checked(text)
}

/// Reads in a thread that nobody waits for: a terminal may say nothing for ever.
async fn in_a_thread(read: fn() -> std::io::Result<Read>) -> Result<Read, Failed> {
    let (sender, text) = oneshot::channel();
    let reading = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || sender.send(read()));
    let text = match reading {
        Ok(_) => text.await.unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into())),
        Err(error) => Err(error),
    };
    text.map_err(|error| Failed::usage(format!("standard input cannot be read: {error}")))
}

/// More than the largest value with a line break, so that one too many is noticed.
const READ_BYTES_MAX: u64 = VALUE_BYTES_MAX as u64 + 3;

fn piped() -> std::io::Result<Read> {
    let mut text = Zeroizing::new(Vec::new());
    std::io::stdin().lock().take(READ_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn typed() -> std::io::Result<Read> {
    let mut text = Zeroizing::new(Vec::new());
    std::io::stdin().lock().take(READ_BYTES_MAX).read_until(b'\n', &mut text)?;
    Ok(text)
}

/// The value of what was read: without one line break at its end.
fn checked(mut text: Read) -> Result<Read, Failed> {
    if text.last() == Some(&b'\n') {
        text.pop();
        if text.last() == Some(&b'\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        let expected = "expected it on standard input, such as: agent-host secrets set AGENT NAME < FILE";
        return Err(Failed::usage(format!("the value is empty: {expected}")));
    }
    if text.len() > VALUE_BYTES_MAX {
        return Err(Failed::usage(format!(
            "the value is larger than {VALUE_BYTES_MAX} bytes, the most that is stored"
        )));
    }
    if std::str::from_utf8(&text).is_err() {
        return Err(Failed::usage("the value is no UTF-8: encode it, as base64 say, and decode it in the agent"));
    }
    Ok(text)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden<'a> {
    stdin: &'a Stdin,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn from_now_on(stdin: &'a Stdin) -> Result<Self, Failed> {
        let hide = || -> rustix::io::Result<Termios> {
            let before = tcgetattr(stdin.as_fd())?;
            let mut hidden = before.clone();
            hidden.local_modes.remove(LocalModes::ECHO);
            tcsetattr(stdin.as_fd(), OptionalActions::Flush, &hidden)?;
            Ok(before)
        };
        let before = hide().map_err(|error| {
            Failed::usage(format!(
                "the terminal would show what is typed ({error}): expected the value from a file or a pipe, such as: agent-host \
                 secrets set AGENT NAME < FILE"
            ))
        })?;
        Ok(Self { stdin, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing any more.
        let _ = tcsetattr(self.stdin.as_fd(), OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &[u8]) -> Result<Vec<u8>, String> {
        checked(Zeroizing::new(text.to_vec())).map(|value| value.to_vec()).map_err(|failed| failed.message)
    }

    #[test]
    fn one_line_break_at_the_end_is_not_part_of_it() {
        for (text, expected) in [
            (&b"hunter2"[..], &b"hunter2"[..]),
            (b"hunter2\n", b"hunter2"),
            (b"hunter2\r\n", b"hunter2"),
            (b"two\nlines\n\n", b"two\nlines\n"),
            (b" blank \n", b" blank "),
            (b"\r", b"\r"),
        ] {
            assert_eq!(value(text).unwrap(), expected);
        }
        let largest = [vec![b'x'; VALUE_BYTES_MAX], b"\r\n".to_vec()].concat();
        assert_eq!(value(&largest).unwrap().len(), VALUE_BYTES_MAX);
        assert!(u64::try_from(largest.len()).unwrap() < READ_BYTES_MAX);
    }

    #[test]
    fn what_is_no_value_is_refused_without_repeating_it() {
        let large = b"hunter2".repeat(10_000);
        for (text, expected) in
            [(&b""[..], "empty"), (b"\n", "empty"), (b"\r\n", "empty"), (b"hunter2\xff", "UTF-8"), (&large, "65536")]
        {
            let said = value(text).unwrap_err();
            assert!(said.contains(expected) && !said.contains("hunter"), "{said}");
        }
    }
}
