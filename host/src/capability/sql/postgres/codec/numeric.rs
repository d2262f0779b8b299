//! NUMERIC between decimal digits and PostgreSQL's groups of four digits.
//!
//! All of NUMERIC's range, which no decimal type of Rust has, and its NaN and infinities.

use std::fmt::Write;

/// Digits before the point that PostgreSQL takes at most, and digits after it.
const INTEGER_DIGITS_MAX: usize = 131_072;
const FRACTION_DIGITS_MAX: usize = 16_383;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// The binary form of decimal digits such as `-12.50`, `1e-3` or `NaN`; nothing where the text is no number.
pub(super) fn encode(text: &str) -> Option<Vec<u8>> {
    let special = |sign| Some(bytes(0, sign, 0, &[]));
    match text {
        "NaN" => return special(NAN),
        "Infinity" => return special(INFINITY),
        "-Infinity" => return special(NEGATIVE_INFINITY),
        _ => {}
    }
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: Vec<u8> = [whole, fraction].concat().into_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Where the point stands in `digits`, counted from its start.
    let point = i64::try_from(whole.len()).ok()?.checked_add(exponent.into())?;
    let scale = usize::try_from(i64::try_from(digits.len()).ok()?.checked_sub(point)?.max(0)).ok()?;
    let integer_digits = usize::try_from(point.max(0)).ok()?;
    if scale > FRACTION_DIGITS_MAX || integer_digits > INTEGER_DIGITS_MAX {
        return None;
    }
    let (weight, groups) = grouped(&digits, point)?;
    let sign = if negative && !groups.is_empty() { NEGATIVE } else { 0 };
    Some(bytes(weight, sign, u16::try_from(scale).ok()?, &groups))
}

/// Groups of four digits around the point, without zero groups at either end, and the weight of the first.
fn grouped(digits: &[u8], point: i64) -> Option<(i16, Vec<u16>)> {
    // Digit `i` stands for 10^(point - 1 - i); its group has the weight floor of that exponent over 4.
    let mut groups: Vec<u16> = Vec::with_capacity(digits.len() / 4 + 2);
    let first_weight = (point - 1).div_euclid(4);
    for (index, digit) in digits.iter().enumerate() {
        let exponent = point.checked_sub(1)?.checked_sub(i64::try_from(index).ok()?)?;
        let group = usize::try_from(first_weight.checked_sub(exponent.div_euclid(4))?).ok()?;
        if groups.len() <= group {
            groups.resize(group.checked_add(1)?, 0);
        }
        let place = 10u16.pow(u32::try_from(exponent.rem_euclid(4)).ok()?);
        let value = groups.get_mut(group)?;
        *value = value.checked_add(u16::from(digit.wrapping_sub(b'0')).checked_mul(place)?)?;
    }
    let leading = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..leading);
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        return Some((0, groups));
    }
    let weight = i16::try_from(first_weight.checked_sub(i64::try_from(leading).ok()?)?).ok()?;
    Some((weight, groups))
}

fn bytes(weight: i16, sign: u16, scale: u16, groups: &[u16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(groups.len().saturating_mul(2).saturating_add(8));
    // The text was checked to be short enough for 16 bits.
    out.extend(u16::try_from(groups.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(weight.to_be_bytes());
    out.extend(sign.to_be_bytes());
    out.extend(scale.to_be_bytes());
    for group in groups {
        out.extend(group.to_be_bytes());
    }
    out
}

/// How many characters [`decode`] will give, about; nothing where the bytes are no NUMERIC.
pub(super) fn digits(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<8>()?;
    let [_, _, weight_high, weight_low, _, _, scale_high, scale_low] = *header;
    let weight = usize::try_from(i16::from_be_bytes([weight_high, weight_low])).unwrap_or(0);
    let scale = usize::from(u16::from_be_bytes([scale_high, scale_low]));
    Some(weight.saturating_add(1).saturating_mul(4).saturating_add(scale).saturating_add(2))
}

/// Decimal digits of the binary form; nothing where the bytes are no NUMERIC.
pub(super) fn decode(bytes: &[u8]) -> Option<String> {
    let mut words = bytes.chunks_exact(2).map(|pair| <[u8; 2]>::try_from(pair).map(u16::from_be_bytes));
    let mut word = || words.next()?.ok();
    let (count, weight, sign, scale) = (word()?, word()?.cast_signed(), word()?, word()?);
    match sign {
        NAN => return Some("NaN".to_owned()),
        INFINITY => return Some("Infinity".to_owned()),
        NEGATIVE_INFINITY => return Some("-Infinity".to_owned()),
        _ => {}
    }
    let groups: Vec<u16> = (0..count).map(|_| word()).collect::<Option<_>>()?;
    let group = |weight_of: i32| -> u16 {
        let index = i32::from(weight).checked_sub(weight_of).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| groups.get(index)).copied().unwrap_or(0)
    };
    let mut text = String::with_capacity(digits(bytes)?);
    if sign == NEGATIVE {
        text.push('-');
    }
    let top = i32::from(weight).max(0);
    text.push_str(&group(top).to_string());
    for weight_of in (0..top).rev() {
        let _ = write!(text, "{:04}", group(weight_of));
    }
    if scale > 0 {
        text.push('.');
        let mut left = usize::from(scale);
        let mut weight_of = -1;
        while left > 0 {
            let four = format!("{:04}", group(weight_of));
            text.push_str(four.get(..left.min(4)).unwrap_or(&four));
            left = left.saturating_sub(4);
            weight_of -= 1;
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_read_back_as_they_were_written() {
        let long = format!("-{}.{}", "9".repeat(5_000), "1".repeat(3_000));
        for text in ["0", "1", "-1", "10000", "9999", "12345678.9", "0.0001", "0.00001", "100.00", "0.50", "NaN", &long]
        {
            assert_eq!(decode(&encode(text).unwrap()).unwrap(), text, "{text}");
        }
        for (text, plain) in
            [("1e3", "1000"), ("1.5e-3", "0.0015"), ("+7", "7"), (".5", "0.5"), ("-0", "0"), ("007", "7")]
        {
            assert_eq!(decode(&encode(text).unwrap()).unwrap(), plain, "{text}");
        }
        for bad in ["", "-", ".", "1.2.3", "1,5", "0x10", "1e", "1e999999", " 1", "nan", "١"] {
            assert_eq!(encode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(text) = decode(&bytes) {
                // A group of bytes that PostgreSQL would not send may have a digit more.
                prop_assert!(text.len() <= digits(&bytes).unwrap() * 2 + "-Infinity".len());
            }
        }

        #[test]
        fn any_text_encodes_or_not(text in "[-+0-9.eE]{0,24}") {
            let _ = encode(&text);
        }

        #[test]
        fn whole_numbers_and_fractions_survive(whole in any::<i64>(), fraction in 0u32..1_000_000_000) {
            let text = format!("{whole}.{fraction:09}");
            prop_assert_eq!(decode(&encode(&text).unwrap()).unwrap(), text);
        }
    }
}
