//! Values travel both ways unharmed.

use super::{agent, one, open, rows, sqlstate};
use crate::capability::sql::{Database, Date, DateTime, End, Kind, SqlError, Time, Value};

pub(super) async fn exercise(database: &dyn Database) {
    let agent = agent(database, "values", "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN age AS int;").await;
    let mut connection = open(database, &agent).await;

    for (of, value, text) in cases() {
        let back = one(&mut connection, &format!("SELECT $1::{of}"), std::slice::from_ref(&value)).await;
        assert_eq!(back, value, "{of}");
        let shown = one(&mut connection, &format!("SELECT $1::{of}::text"), &[value]).await;
        assert_eq!(shown, Value::Text(text.to_owned()), "{of}");
        let null = one(&mut connection, &format!("SELECT $1::{of}"), &[Value::Null]).await;
        assert_eq!(null, Value::Null, "{of}");
    }
    // The conversions that lose nothing.
    for (of, given, back) in conversions() {
        assert_eq!(one(&mut connection, &format!("SELECT $1::{of}"), &[given]).await, back, "{of}");
    }
    connection.finish(End::Commit(None)).await.unwrap();

    for (of, given) in refusals() {
        let mut connection = open(database, &agent).await;
        let error = rows(&mut connection, &format!("SELECT $1::{of}"), std::slice::from_ref(&given)).await.unwrap_err();
        assert!(matches!(error, SqlError::BadParameter(_)), "{of} {given:?}: {error:?}");
        // Nothing was sent, so the transaction goes on.
        assert_eq!(one(&mut connection, "SELECT 1", &[]).await, Value::Int32(1));
        connection.finish(End::Commit(None)).await.unwrap();
    }

    let mut connection = open(database, &agent).await;
    for parameters in [vec![], vec![Value::Int32(1), Value::Int32(2)]] {
        let error = rows(&mut connection, "SELECT $1::int", &parameters).await.unwrap_err();
        assert!(matches!(error, SqlError::BadParameter(_)), "{error:?}");
    }
    let statement = "SELECT 1 AS a, 'x'::text AS b, now() AS c, ARRAY[1] AS d, '1 day'::interval AS e WHERE false";
    let (columns, none) = rows(&mut connection, statement, &[]).await.unwrap();
    let kinds: Vec<_> = columns.iter().map(|column| (column.name.as_str(), &column.kind)).collect();
    let interval = Kind::Other("INTERVAL".to_owned());
    let expected =
        [("a", &Kind::Int32), ("b", &Kind::Text), ("c", &Kind::DateTime), ("d", &Kind::ArrayInt32), ("e", &interval)];
    assert_eq!(kinds, expected);
    assert!(none.is_empty());
    let unsupported = one(&mut connection, "SELECT '1 day'::interval", &[]).await;
    assert!(matches!(&unsupported, Value::Unsupported(bytes) if bytes.len() == 16), "{unsupported:?}");
    connection.finish(End::Commit(None)).await.unwrap();

    for statement in ["SELECT 'infinity'::timestamptz", "SELECT '-infinity'::date", "SELECT ARRAY[[1],[2]]"] {
        let mut connection = open(database, &agent).await;
        let error = rows(&mut connection, statement, &[]).await.unwrap_err();
        assert!(matches!(error, SqlError::Conversion(_)), "{statement}: {error:?}");
    }
    let mut connection = open(database, &agent).await;
    let error = rows(&mut connection, "SELECT $1::jsonb", &[Value::Json(b"{no json".to_vec())]).await.unwrap_err();
    assert_eq!(sqlstate(&error), "22P02");
}

/// A type, a value of it, and how PostgreSQL writes that.
fn cases() -> Vec<(&'static str, Value, &'static str)> {
    let text = |text: &str| Value::Text(text.to_owned());
    let decimal = |text: &str| Value::Decimal(text.to_owned());
    let date = Date { year: 2024, month: 2, day: 29 };
    let time = Time { hour: 23, minute: 59, second: 58, nanosecond: 123_456_000 };
    vec![
        ("bool", Value::Boolean(true), "true"),
        ("\"char\"", Value::Int8(65), "A"),
        ("int2", Value::Int16(i16::MIN), "-32768"),
        ("int4", Value::Int32(i32::MAX), "2147483647"),
        ("int8", Value::Int64(i64::MIN), "-9223372036854775808"),
        ("float4", Value::Float32(1.5), "1.5"),
        ("float8", Value::Float64(-1e300), "-1e+300"),
        ("text", text("naïve \u{1f600} \r\n'; DROP TABLE x; --"), "naïve \u{1f600} \r\n'; DROP TABLE x; --"),
        ("varchar", text(""), ""),
        ("name", text("n"), "n"),
        ("mood", text("bad"), "bad"),
        ("age", Value::Int32(42), "42"),
        ("bytea", Value::Binary(vec![0, 255, 10]), "\\x00ff0a"),
        ("date", Value::Date(date), "2024-02-29"),
        ("date", Value::Date(Date { year: -43, month: 3, day: 15 }), "0044-03-15 BC"),
        ("time", Value::Time(time), "23:59:58.123456"),
        ("timestamp", Value::DateTime(DateTime { date, time }), "2024-02-29 23:59:58.123456"),
        ("timestamptz", Value::DateTime(DateTime { date, time }), "2024-02-29 23:59:58.123456+00"),
        (
            "uuid",
            Value::Uuid("6f1c0d3a-0c3b-4f8e-9d6a-000000000001".to_owned()),
            "6f1c0d3a-0c3b-4f8e-9d6a-000000000001",
        ),
        ("json", Value::Json(b"{\"a\" : 1}".to_vec()), "{\"a\" : 1}"),
        ("jsonb", Value::Json(b"{\"a\": [1, null]}".to_vec()), "{\"a\": [1, null]}"),
        ("numeric", decimal("0"), "0"),
        (
            "numeric",
            decimal("-12345678901234567890123456789012345678.000100"),
            "-12345678901234567890123456789012345678.000100",
        ),
        ("numeric", decimal("0.00001"), "0.00001"),
        ("numeric", decimal("100000000"), "100000000"),
        ("numeric", decimal("NaN"), "NaN"),
        ("int4[]", Value::ArrayInt32(vec![Some(1), None, Some(-1)]), "{1,NULL,-1}"),
        ("int4[]", Value::ArrayInt32(Vec::new()), "{}"),
        ("int8[]", Value::ArrayInt64(vec![Some(i64::MAX)]), "{9223372036854775807}"),
        ("numeric[]", Value::ArrayDecimal(vec![Some("1.50".to_owned()), None]), "{1.50,NULL}"),
        (
            "text[]",
            Value::ArrayText(vec![Some("a,\"b".to_owned()), None, Some(String::new())]),
            "{\"a,\\\"b\",NULL,\"\"}",
        ),
        ("varchar[]", Value::ArrayText(vec![Some("x".to_owned())]), "{x}"),
    ]
}

/// A type, a value of another, and what becomes of it.
fn conversions() -> Vec<(&'static str, Value, Value)> {
    let uuid = "6f1c0d3a-0c3b-4f8e-9d6a-000000000001".to_owned();
    let midnight = Time { hour: 0, minute: 0, second: 1, nanosecond: 0 };
    let start = DateTime { date: Date { year: 1970, month: 1, day: 1 }, time: midnight };
    vec![
        ("int8", Value::Int32(7), Value::Int64(7)),
        ("int2", Value::Int64(7), Value::Int16(7)),
        ("int4", Value::Float64(3.0), Value::Int32(3)),
        ("float8", Value::Int32(3), Value::Float64(3.0)),
        ("numeric", Value::Int64(-10_000), Value::Decimal("-10000".to_owned())),
        ("numeric", Value::Float64(1.25), Value::Decimal("1.25".to_owned())),
        ("numeric", Value::Text("1e3".to_owned()), Value::Decimal("1000".to_owned())),
        ("uuid", Value::Text(uuid.clone()), Value::Uuid(uuid.clone())),
        ("text", Value::Uuid(uuid.clone()), Value::Text(uuid)),
        ("jsonb", Value::Text("[1]".to_owned()), Value::Json(b"[1]".to_vec())),
        ("timestamptz", Value::Timestamp(1), Value::DateTime(start)),
        ("int8[]", Value::ArrayInt32(vec![Some(1)]), Value::ArrayInt64(vec![Some(1)])),
        ("int4[]", Value::ArrayInt64(vec![Some(1)]), Value::ArrayInt32(vec![Some(1)])),
    ]
}

fn refusals() -> Vec<(&'static str, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    vec![
        ("int2", Value::Int32(40_000)),
        ("int4", Value::Float64(1.5)),
        ("int4", text("1")),
        ("float8", Value::Int64(i64::MAX)),
        ("bool", Value::Int32(1)),
        ("text", Value::Int32(1)),
        ("uuid", text("no uuid")),
        ("numeric", text("1,5")),
        ("date", Value::Date(Date { year: 2023, month: 2, day: 29 })),
        ("time", Value::Time(Time { hour: 24, minute: 0, second: 0, nanosecond: 0 })),
        ("interval", text("1 day")),
        ("int4[]", Value::ArrayInt64(vec![Some(i64::MAX)])),
        ("timestamptz", Value::Timestamp(i64::MAX)),
    ]
}
