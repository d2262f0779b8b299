//! Points in time, as the database's calendar dates and as the system's clock counts them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{FromValue, Param, ToParam, Value};

/// Reads TIMESTAMP (taken as UTC), TIMESTAMPTZ and, as midnight UTC, DATE.
impl FromValue for SystemTime {
    fn from_value(value: Value) -> Result<Self, Value> {
        let (seconds, nanoseconds) = match value {
            Value::Datetime((year, month, day, hour, minute, second, nanosecond)) => {
                let of_day = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
                (days_from_civil(year, month, day) * 86_400 + of_day, nanosecond)
            }
            Value::Date((year, month, day)) => (days_from_civil(year, month, day) * 86_400, 0),
            Value::Timestamp(seconds) => (seconds, 0),
            _ => return Err(value),
        };
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        time.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into()))).ok_or(value)
    }
}

/// Gives a TIMESTAMP or TIMESTAMPTZ in UTC. PostgreSQL keeps microseconds.
impl ToParam for SystemTime {
    fn to_param(&self) -> Param {
        let (seconds, nanoseconds) = match self.duration_since(UNIX_EPOCH) {
            Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => (seconds, 0),
                    nanoseconds => (seconds.saturating_sub(1), 1_000_000_000 - nanoseconds),
                }
            }
        };
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        // A second of the day is below 86,400, so that each part is small.
        let part = |value: i64| u8::try_from(value).unwrap_or_default();
        Param::Datetime((year, month, day, part(of_day / 3600), part(of_day / 60 % 60), part(of_day % 60), nanoseconds))
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible low-level
/// date algorithms").
fn days_from_civil(year: i32, month: u8, day: u8) -> i64 {
    let (month, day) = (i64::from(month), i64::from(day));
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The reverse of [`days_from_civil`]; years past 32 bits are capped.
fn civil_from_days(days: i64) -> (i32, u8, u8) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let small = |value: i64| u8::try_from(value).unwrap_or_default();
    (i32::try_from(year).unwrap_or(i32::MAX), small(month), small(day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        let known = [
            (0, (1970, 1, 1, 0, 0, 0, 0)),
            (951_782_400, (2000, 2, 29, 0, 0, 0, 0)),
            (1_700_000_000, (2023, 11, 14, 22, 13, 20, 0)),
        ];
        for (seconds, datetime) in known {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(time.to_param(), Param::Datetime(datetime));
            assert_eq!(SystemTime::from_value(Value::Datetime(datetime)), Ok(time));
        }
        let before = UNIX_EPOCH - Duration::from_millis(250);
        let datetime = (1969, 12, 31, 23, 59, 59, 750_000_000);
        assert_eq!(before.to_param(), Param::Datetime(datetime));
        assert_eq!(SystemTime::from_value(Value::Datetime(datetime)), Ok(before));
    }

    #[test]
    fn every_day_of_eight_centuries_is_its_own_inverse() {
        for days in -146_097..146_097 {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
