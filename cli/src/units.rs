// SPDX-License-Identifier: LGPL-2.1-or-later
//! Amounts, as people write them.

use std::time::Duration;

/// `100M`: bytes, with a suffix that is a power of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a number of bytes; write it as 500K, 100M, 1G or 1T");
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(wrong()),
    };
    let number = number(digits).ok_or_else(wrong)?;
    let bytes = number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{text}' is too much"))?;
    if bytes == 0 {
        return Err("0 would never end; leave the option out for no limit".into());
    }
    Ok(bytes)
}

/// `10s`, `500ms`.
pub fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a time; write it as 500ms or 10s");
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let number = number(digits).ok_or_else(wrong)?;
    let time = match &text[digits.len()..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(wrong()),
    };
    if time.is_zero() {
        return Err("no file system can be frozen for no time; --quiesce none does not freeze".into());
    }
    Ok(time)
}

/// Digits only: `parse` takes a sign too.
fn number(digits: &str) -> Option<u64> {
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_binary_suffixes() {
        assert_eq!(bytes("7"), Ok(7));
        assert_eq!(bytes("500K"), Ok(500 << 10));
        assert_eq!(bytes("100M"), Ok(100 << 20));
        assert_eq!(bytes("1g"), Ok(1 << 30));
        assert_eq!(bytes("2T"), Ok(2 << 40));
    }

    #[test]
    fn other_amounts_are_refused_by_name() {
        for wrong in [
            "",
            "M",
            "1.5G",
            "-1",
            "+1",
            "1MB",
            "1MiB",
            "1 M",
            "1P",
            "0",
            "0M",
            "99999999T",
            "1é",
            "١",
        ] {
            let message = bytes(wrong).unwrap_err();
            assert!(
                message.contains(wrong) || message.starts_with('0'),
                "{wrong}: {message}"
            );
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("10s"), Ok(Duration::from_secs(10)));
        for wrong in ["", "10", "s", "0s", "-1s", "1m", "1.5s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
