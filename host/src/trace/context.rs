//! W3C trace context, level 1: who a span is, as the header `traceparent` says it.

use std::fmt;

/// Bytes of a header of version 00.
const LENGTH: usize = 55;
/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;
/// The flags whose meaning is known: that one, and that the trace's id is random, of level 2. Others are not passed on, says
/// the standard.
const FLAGS: u8 = SAMPLED | 2;

/// A trace, in the form that traces are looked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The identity of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceContext {
    /// From its parts, with the flags that are known; nothing where an id is zero, which stands for none.
    #[must_use]
    pub fn new(trace_id: u128, span_id: u64, flags: u8) -> Option<Self> {
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, flags: flags & FLAGS })
    }

    /// Reads a `traceparent`. What is none is as good as absent, the standard says, and fails nothing.
    ///
    /// A header of a later version is read as far as it is known: it may go on after the flags.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.split_at_checked(LENGTH)?;
        let mut parts = head.split('-');
        let mut next = |digits: usize| parts.next().filter(|part| part.len() == digits).and_then(hex);
        let (version, trace_id, span_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let is_known = version == 0 && rest.is_empty();
        let is_later = (1..0xff).contains(&version) && (rest.is_empty() || rest.starts_with('-'));
        if !is_known && !is_later {
            return None;
        }
        Self::new(trace_id, u64::try_from(span_id).ok()?, u8::try_from(flags).ok()?)
    }

    /// The trace.
    #[must_use]
    pub fn trace_id(self) -> TraceId {
        TraceId(self.trace_id)
    }

    /// The span.
    #[must_use]
    pub fn span_id(self) -> u64 {
        self.span_id
    }

    /// The flags.
    #[must_use]
    pub fn flags(self) -> u8 {
        self.flags
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Hexadecimal digits in lower case, as the standard wants them.
fn hex(digits: &str) -> Option<u128> {
    let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

/// The header, in version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id, flags } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_as_the_standard_has_it() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((context.span_id(), context.flags()), (0xb7ad_6b71_6920_3331, 1));
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), GOOD);
        for later in [GOOD.replacen("00", "cc", 1), format!("{}-what-comes", GOOD.replacen("00", "01", 1))] {
            assert_eq!(TraceContext::parse(&later), Some(context), "{later}");
        }
        let unknown = TraceContext::parse(&GOOD.replace("-01", "-ff")).unwrap();
        assert_eq!(unknown.to_string(), GOOD.replace("-01", "-03"));
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn writing_and_reading_is_the_identity(trace_id in 1..=u128::MAX, span_id in 1..=u64::MAX, flags in any::<u8>()) {
            let context = TraceContext::new(trace_id, span_id, flags).unwrap();
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
            prop_assert_eq!((context.trace_id().0, context.span_id()), (trace_id, span_id));
            prop_assert_eq!(context.flags(), flags % 4);
        }

        /// Whatever a stranger sends is a context that can be written down again, or none.
        #[test]
        fn any_text_is_read_or_not(text in prop_oneof![".{0,80}", "[0-9a-f]{2}-[0-9a-f-]{49}-[0-9a-f]{2}.{0,3}"]) {
            if let Some(context) = TraceContext::parse(&text) {
                prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
            }
        }
    }
}
