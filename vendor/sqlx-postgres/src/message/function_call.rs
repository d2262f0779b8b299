use crate::message::{FrontendMessage, FrontendMessageFormat};
use crate::types::Oid;
use crate::PgValueFormat;
use sqlx_core::Error;
use std::num::Saturating;

/// <https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-FUNCTIONCALL>
#[derive(Debug)]
pub struct FunctionCall<'a> {
    /// The number of the function in `pg_proc`.
    pub function: Oid,

    pub num_args: i16,

    /// Each with its length, in binary format: as the parameters of a `Bind`.
    pub args: &'a [u8],
}

impl FrontendMessage for FunctionCall<'_> {
    const FORMAT: FrontendMessageFormat = FrontendMessageFormat::FunctionCall;

    fn body_size_hint(&self) -> Saturating<usize> {
        let mut size = Saturating(0);

        // the function, one format for all arguments, their number, and the format of the result
        size += 4 + 2 + 2 + 2 + 2;
        size += self.args.len();

        size
    }

    fn encode_body(&self, buf: &mut Vec<u8>) -> Result<(), Error> {
        buf.extend(self.function.0.to_be_bytes());
        buf.extend(1_i16.to_be_bytes());
        buf.extend((PgValueFormat::Binary as i16).to_be_bytes());
        buf.extend(self.num_args.to_be_bytes());
        buf.extend(self.args);
        buf.extend((PgValueFormat::Binary as i16).to_be_bytes());

        Ok(())
    }
}

#[test]
fn test_encode_function_call() {
    const EXPECTED: &[u8] =
        b"F\0\0\0\x18\0\0\0\x2A\0\x01\0\x01\0\x01\0\0\0\x04\0\0\0\x07\0\x01";

    let mut buf = Vec::new();
    let m = FunctionCall {
        function: Oid(42),
        num_args: 1,
        args: b"\0\0\0\x04\0\0\0\x07",
    };

    m.encode_msg(&mut buf).unwrap();

    assert_eq!(buf, EXPECTED);
}
