//! PostgreSQL's binary format, in both directions.
//!
//! The host knows a parameter's type only when PostgreSQL has told it, so a value is written for that type and not for the
//! Rust type at hand, which is why this is not left to the driver's `Encode`. Nothing is lost on the way: what does not
//! convert exactly is refused with a text that says what to write instead.

mod decode;
mod encode;
mod numeric;

pub(super) use decode::{decode, kind};
pub(super) use encode::encode;

/// OIDs of PostgreSQL's own types; they never change (`src/include/catalog/pg_type.dat`).
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const CHAR: u32 = 18;
    pub(super) const NAME: u32 = 19;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const JSON: u32 = 114;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const UNKNOWN: u32 = 705;
    pub(super) const BPCHAR: u32 = 1042;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIME: u32 = 1083;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
    pub(super) const JSONB: u32 = 3802;
    pub(super) const NAME_ARRAY: u32 = 1003;
    pub(super) const INT4_ARRAY: u32 = 1007;
    pub(super) const TEXT_ARRAY: u32 = 1009;
    pub(super) const BPCHAR_ARRAY: u32 = 1014;
    pub(super) const VARCHAR_ARRAY: u32 = 1015;
    pub(super) const INT8_ARRAY: u32 = 1016;
    pub(super) const NUMERIC_ARRAY: u32 = 1231;
}

/// 2000-01-01, from which PostgreSQL counts days and microseconds.
const EPOCH: chrono::NaiveDate = match chrono::NaiveDate::from_ymd_opt(2000, 1, 1) {
    Some(date) => date,
    None => chrono::NaiveDate::MIN,
};
/// Seconds from 1970-01-01 to 2000-01-01.
const EPOCH_UNIX_SECONDS: i64 = 946_684_800;
const MICROSECONDS_PER_SECOND: i64 = 1_000_000;
