//! Between the database's values and Rust's types. Nothing is lost on the way: a type that cannot hold a value is an
//! error, not a rounding.

use super::{Param, Value};

/// A type that a value of a row can be read as.
pub trait FromValue: Sized {
    /// Reads the value, or gives it back where it does not fit.
    fn from_value(value: Value) -> Result<Self, Value>;
}

/// A type that can be given as a parameter.
pub trait ToParam {
    /// The parameter.
    fn to_param(&self) -> Param;
}

/// What a value holds, in PostgreSQL's words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Boolean(_) => "BOOL",
        Value::Int8(_) => "\"char\"",
        Value::Int16(_) => "INT2",
        Value::Int32(_) => "INT4",
        Value::Int64(_) => "INT8",
        Value::Floating32(_) => "FLOAT4",
        Value::Floating64(_) => "FLOAT8",
        Value::Str(_) => "TEXT",
        Value::Binary(_) => "BYTEA",
        Value::Date(_) => "DATE",
        Value::Time(_) => "TIME",
        Value::Datetime(_) | Value::Timestamp(_) => "TIMESTAMP",
        Value::Uuid(_) => "UUID",
        Value::Jsonb(_) => "JSONB",
        Value::Decimal(_) => "NUMERIC",
        Value::ArrayInt32(_) => "INT4[]",
        Value::ArrayInt64(_) => "INT8[]",
        Value::ArrayDecimal(_) => "NUMERIC[]",
        Value::ArrayStr(_) => "TEXT[]",
        Value::DbNull => "NULL",
        Value::Unsupported(_) => "a type that only a cast (`::text`) makes readable",
    }
}

impl FromValue for Value {
    fn from_value(value: Value) -> Result<Self, Value> {
        Ok(value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Result<Self, Value> {
        if value == Value::DbNull { Ok(None) } else { T::from_value(value).map(Some) }
    }
}

impl<T: ToParam> ToParam for Option<T> {
    fn to_param(&self) -> Param {
        self.as_ref().map_or(Param::DbNull, T::to_param)
    }
}

impl<T: ToParam + ?Sized> ToParam for &T {
    fn to_param(&self) -> Param {
        (**self).to_param()
    }
}

impl ToParam for Param {
    fn to_param(&self) -> Param {
        self.clone()
    }
}

/// Reads any integer column that fits the type.
macro_rules! integer {
    ($($type:ty),*) => { $(
        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, Value> {
                let whole = match value {
                    Value::Int8(whole) => i64::from(whole),
                    Value::Int16(whole) => i64::from(whole),
                    Value::Int32(whole) => i64::from(whole),
                    Value::Int64(whole) => whole,
                    _ => return Err(value),
                };
                Self::try_from(whole).map_err(|_| value)
            }
        }
    )* };
}

integer!(i8, i16, i32, i64, u8, u16, u32, u64);

/// Types that are one case of both variants.
macro_rules! plain {
    ($($type:ty => $case:ident),*) => { $(
        impl ToParam for $type {
            fn to_param(&self) -> Param {
                Param::$case(self.clone().into())
            }
        }
    )* };
}

plain!(bool => Boolean, i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64, u8 => Int16, u16 => Int32,
    u32 => Int64, f32 => Floating32, f64 => Floating64, String => Str, Vec<u8> => Binary);

impl ToParam for str {
    fn to_param(&self) -> Param {
        Param::Str(self.to_owned())
    }
}

impl ToParam for [u8] {
    fn to_param(&self) -> Param {
        Param::Binary(self.to_owned())
    }
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, Value> {
        if let Value::Boolean(truth) = value { Ok(truth) } else { Err(value) }
    }
}

impl FromValue for f32 {
    fn from_value(value: Value) -> Result<Self, Value> {
        if let Value::Floating32(number) = value { Ok(number) } else { Err(value) }
    }
}

/// Reads FLOAT4 and FLOAT8, and INT2 and INT4, which it holds exactly.
impl FromValue for f64 {
    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Floating64(number) => Ok(number),
            Value::Floating32(number) => Ok(number.into()),
            Value::Int32(number) => Ok(number.into()),
            Value::Int16(number) => Ok(number.into()),
            _ => Err(value),
        }
    }
}

/// Reads TEXT and its kin, UUID and NUMERIC in their written form, and JSON as its text.
impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Str(text) | Value::Uuid(text) | Value::Decimal(text) => Ok(text),
            Value::Jsonb(bytes) => String::from_utf8(bytes).map_err(|error| Value::Jsonb(error.into_bytes())),
            _ => Err(value),
        }
    }
}

/// Reads BYTEA.
impl FromValue for Vec<u8> {
    fn from_value(value: Value) -> Result<Self, Value> {
        if let Value::Binary(bytes) = value { Ok(bytes) } else { Err(value) }
    }
}

/// Reads JSON and JSONB.
impl FromValue for serde_json::Value {
    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Jsonb(bytes) => serde_json::from_slice(&bytes).map_err(|_| Value::Jsonb(bytes)),
            _ => Err(value),
        }
    }
}

impl ToParam for serde_json::Value {
    fn to_param(&self) -> Param {
        Param::Jsonb(self.to_string().into_bytes())
    }
}

/// Arrays whose elements may be NULL, and arrays of none that are.
macro_rules! array {
    ($($type:ty => $($case:ident)|+),*) => { $(
        impl FromValue for Vec<Option<$type>> {
            fn from_value(value: Value) -> Result<Self, Value> {
                match value {
                    $(Value::$case(items) => Ok(items),)+
                    _ => Err(value),
                }
            }
        }

        impl FromValue for Vec<$type> {
            fn from_value(value: Value) -> Result<Self, Value> {
                match value {
                    $(Value::$case(items) => {
                        if items.iter().any(Option::is_none) {
                            return Err(Value::$case(items));
                        }
                        Ok(items.into_iter().flatten().collect())
                    })+
                    _ => Err(value),
                }
            }
        }
    )* };
}

array!(i32 => ArrayInt32, i64 => ArrayInt64, String => ArrayStr | ArrayDecimal);

impl ToParam for [i32] {
    fn to_param(&self) -> Param {
        Param::ArrayInt32(self.iter().copied().map(Some).collect())
    }
}

impl ToParam for [i64] {
    fn to_param(&self) -> Param {
        Param::ArrayInt64(self.iter().copied().map(Some).collect())
    }
}

impl ToParam for [String] {
    fn to_param(&self) -> Param {
        Param::ArrayStr(self.iter().cloned().map(Some).collect())
    }
}

impl ToParam for [&str] {
    fn to_param(&self) -> Param {
        Param::ArrayStr(self.iter().map(|&text| Some(text.to_owned())).collect())
    }
}

impl ToParam for Vec<i32> {
    fn to_param(&self) -> Param {
        self.as_slice().to_param()
    }
}

impl ToParam for Vec<i64> {
    fn to_param(&self) -> Param {
        self.as_slice().to_param()
    }
}

impl ToParam for Vec<String> {
    fn to_param(&self) -> Param {
        self.as_slice().to_param()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_widen_and_narrow_only_without_loss() {
        assert_eq!(i64::from_value(Value::Int16(-3)), Ok(-3));
        assert_eq!(u32::from_value(Value::Int64(7)), Ok(7));
        assert_eq!(u32::from_value(Value::Int64(-7)), Err(Value::Int64(-7)));
        assert_eq!(i8::from_value(Value::Int32(300)), Err(Value::Int32(300)));
        assert_eq!(i64::from_value(Value::Floating64(1.0)), Err(Value::Floating64(1.0)));
    }

    #[test]
    fn json_arrives_as_json_or_as_its_text() {
        let value = || Value::Jsonb(br#"{"a":1}"#.to_vec());
        assert_eq!(serde_json::Value::from_value(value()), Ok(serde_json::json!({ "a": 1 })));
        assert_eq!(String::from_value(value()), Ok(r#"{"a":1}"#.to_owned()));
    }

    #[test]
    fn an_array_with_nulls_needs_a_type_that_says_so() {
        let value = || Value::ArrayInt32(vec![Some(1), None]);
        assert_eq!(Vec::<Option<i32>>::from_value(value()), Ok(vec![Some(1), None]));
        assert_eq!(Vec::<i32>::from_value(value()), Err(value()));
    }
}
