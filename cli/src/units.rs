// SPDX-License-Identifier: LGPL-2.1-or-later
//! Amounts and times, as people write and read them.

use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

/// `100M`: bytes, with virsh's suffixes: K and KiB are 1024, KB is 1000, and so on.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a number of bytes; write it as 500K, 1.5G, 100MiB or 100MB");
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit: u128 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1000_u128.pow(2),
        "gb" => 1000_u128.pow(3),
        "tb" => 1000_u128.pow(4),
        _ => return Err(wrong()),
    };
    let (whole, fraction) = match number.split_once('.') {
        // There is no part of a byte.
        Some((_, fraction)) if unit == 1 || fraction.is_empty() || fraction.len() > 9 => return Err(wrong()),
        Some(parts) => parts,
        None => (number, "0"),
    };
    // Exact: a binary fraction would not be.
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let (whole, fraction) = match (whole.parse::<u64>(), fraction.parse::<u64>()) {
        (Ok(whole), Ok(fraction)) => (u128::from(whole), u128::from(fraction)),
        _ => return Err(wrong()),
    };
    let bytes = whole * unit + fraction * unit / scale;
    match u64::try_from(bytes) {
        Ok(0) => Err("0 would never end; omit the option for no limit".into()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(format!("'{text}' is too large")),
    }
}

/// `10`, `10s`, `500ms`, `1m`; a bare number is of seconds.
pub fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a time; write it as 500ms, 10s or 1m");
    let bare = text.ends_with(|letter: char| letter.is_ascii_digit());
    let with_unit = if bare { format!("{text}s") } else { text.to_owned() };
    let parsed: SignedDuration = with_unit.parse().map_err(|_| wrong())?;
    let time = Duration::try_from(parsed).map_err(|_| wrong())?;
    if time < Duration::from_millis(1) {
        return Err(format!(
            "'{text}' is less than a millisecond, too short to freeze a file system; use --quiesce none not to freeze"
        ));
    }
    Ok(time)
}

/// In RFC 3339, local time, to so many digits of a second.
pub fn local(time: SystemTime, digits: u8) -> String {
    let Ok(time) = Timestamp::try_from(time) else {
        return "unknown".into();
    };
    let zoned = time.to_zoned(TimeZone::system());
    let fraction = if digits == 0 {
        String::new()
    } else {
        format!("%.{digits}f")
    };
    zoned.strftime(&format!("%Y-%m-%dT%H:%M:%S{fraction}%:z")).to_string()
}

/// `NAME_ns`, since 1970, and the same for readers whose numbers end at 2^53: `NAME_ns_string`, and in RFC 3339 `NAME`.
pub fn put_time(object: &mut Map<String, Value>, name: &str, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = nanoseconds(since);
    object.insert(format!("{name}_ns"), nanoseconds.into());
    object.insert(format!("{name}_ns_string"), nanoseconds.to_string().into());
    object.insert(name.to_owned(), local(time, 9).into());
}

/// Of 64 bits, which last for centuries.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_suffixes() {
        assert_eq!(bytes("7"), Ok(7));
        assert_eq!(bytes("500K"), Ok(500 << 10));
        assert_eq!(bytes("100M"), Ok(100 << 20));
        assert_eq!(bytes("1g"), Ok(1 << 30));
        assert_eq!(bytes("2T"), Ok(2 << 40));
        assert_eq!(bytes("100MiB"), Ok(100 << 20));
        assert_eq!(bytes("100MB"), Ok(100_000_000));
        assert_eq!(bytes("1.5G"), Ok(3 << 29));
        assert_eq!(bytes("0.1GB"), Ok(100_000_000));
        assert_eq!(bytes("1.05kB"), Ok(1050));
    }

    #[test]
    fn other_amounts_are_refused_by_name() {
        for wrong in [
            "",
            "M",
            "1.5",
            "1.G",
            ".5G",
            "1.5.1G",
            "-1",
            "+1",
            "1.+5G",
            "1MBit",
            "1 M",
            "1P",
            "0",
            "0M",
            "0.0000001K",
            "1.0000000001G",
            "99999999T",
            "99999999999999999999",
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
    fn times_are_seconds_or_have_a_unit() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(time("10"), Ok(Duration::from_secs(10)));
        assert_eq!(time("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(time("1.5s"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "s", "0", "0s", "-1s", "-1", "1d", "1us", "10parsecs", "5s ago"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn points_in_time_are_exact() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_764_192_006_123_456_789);
        let mut object = Map::new();
        put_time(&mut object, "started", time);
        assert_eq!(object["started_ns"], 1_764_192_006_123_456_789_u64);
        assert_eq!(object["started_ns_string"], "1764192006123456789");
        let written = object["started"].as_str().unwrap();
        assert!(written.contains(":06.123456789"), "{written}");
        let read: Timestamp = written.parse().unwrap();
        assert_eq!(SystemTime::from(read), time);
        assert!(local(time, 0).contains(":06+") || local(time, 0).contains(":06-"));
    }
}
