//! Sizes and durations as people write them in manifests, configuration and queries.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How much of a text that is neither is quoted: whoever wrote it knows it from its beginning.
const QUOTED_CHARACTERS_MAX: usize = 40;

/// Why a text is no size or duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// Not a size.
    #[error("{0:?} is not a size: expected a number with B, KB, MB, GB, KiB, MiB or GiB, such as \"64MiB\"")]
    Size(String),
    /// Not a duration.
    #[error("{0:?} is not a duration: expected a number with ms, s, m, h or d, such as \"30s\"")]
    Duration(String),
}

/// A number of bytes. `MB` is 10^6, `MiB` is 2^20.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

impl ByteSize {
    /// Reads a size.
    ///
    /// # Errors
    /// [`InvalidUnit::Size`] for anything but a number with one of the units, or one past 2^64.
    pub fn parse(text: &str) -> Result<Self, InvalidUnit> {
        let invalid = || InvalidUnit::Size(beginning(text));
        let (number, bytes_per_unit) = SIZE_UNITS
            .iter()
            .find_map(|(unit, bytes)| text.trim().strip_suffix(unit).map(|number| (number, *bytes)))
            .ok_or_else(invalid)?;
        scaled(number, bytes_per_unit).map(Self).ok_or_else(invalid)
    }

    /// The size as a length in memory, for allocations and comparisons with lengths.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, bytes_per_unit) = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("MB", 1_000_000), ("KiB", 1 << 10)]
            .into_iter()
            .find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes_per_unit)
    }
}

const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration such as `250ms`, `1.5s`, `5m`.
///
/// # Errors
/// [`InvalidUnit::Duration`] for anything but a number with one of the units.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidUnit> {
    let invalid = || InvalidUnit::Duration(beginning(text));
    let (number, ms_per_unit) = DURATION_UNITS
        .iter()
        .find_map(|(unit, ms)| text.trim().strip_suffix(unit).map(|number| (number, *ms)))
        // "5ms" also ends in "s", and "5m" is a prefix of neither: the longer unit stands first in the list.
        .ok_or_else(invalid)?;
    scaled(number, ms_per_unit).map(Duration::from_millis).ok_or_else(invalid)
}

/// Microseconds of a duration, the rest cut off.
#[must_use]
pub fn whole_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Writes a duration the way [`parse_duration`] reads it.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, ms_per_unit) = DURATION_UNITS
        .into_iter()
        .rev()
        .find(|(_, per_unit)| ms >= *per_unit && ms.is_multiple_of(*per_unit))
        .unwrap_or(("ms", 1));
    format!("{}{unit}", ms / ms_per_unit)
}

fn beginning(text: &str) -> String {
    let mut characters = text.chars();
    let mut beginning: String = characters.by_ref().take(QUOTED_CHARACTERS_MAX).collect();
    if characters.next().is_some() {
        beginning.push('…');
    }
    beginning
}

/// `number * unit`, where the number has digits and at most one decimal point.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let number = number.trim_end();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let (whole, fraction) = number.split_once('.')?;
    // Nine digits after the point are finer than any unit here.
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let scale = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction_scaled = fraction.parse::<u64>().ok()?.checked_mul(unit)? / scale;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(fraction_scaled)
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// `#[serde(with = "units::duration")]`: a [`Duration`] written as in [`parse_duration`].
pub mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, format_duration, parse_duration};

    /// Writes the duration as text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*duration))
    }

    /// Reads the duration from text.
    ///
    /// # Errors
    /// Text that is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_text_is_refused_in_few_words() {
        for error in [
            ByteSize::parse(&"\u{10}".repeat(10 << 20)).unwrap_err(),
            parse_duration(&"\u{10}".repeat(10 << 20)).unwrap_err(),
        ] {
            assert!(error.to_string().len() < 1_000, "{error}");
        }
        assert!(ByteSize::parse("64mib").unwrap_err().to_string().starts_with("\"64mib\" is not"));
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in
            [("64MiB", 64 << 20), ("500MB", 500_000_000), ("500 MB", 500_000_000), ("1.5KiB", 1536), ("7B", 7)]
        {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "64", "MiB", "-1MB", "1e3MB", "1.MB", ".5MB", "99999999999GiB", "1 000MB", "64mib"] {
            assert!(ByteSize::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, ms) in [("250ms", 250), ("1.5s", 1_500), ("5m", 300_000), ("1h", 3_600_000), ("30d", 2_592_000_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "s", "-5s", "5 years", "1m30s", "NaNs", "infs"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = ByteSize::parse(&text);
            let _ = parse_duration(&text);
        }

        #[test]
        fn what_is_written_reads_back(bytes in any::<u64>(), ms in any::<u32>()) {
            prop_assert_eq!(ByteSize::parse(&ByteSize(bytes).to_string()), Ok(ByteSize(bytes)));
            let duration = Duration::from_millis(ms.into());
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}
