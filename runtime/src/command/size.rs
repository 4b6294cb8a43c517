//! Sizes and durations as runc's flags have them: `512m`, `1.5GiB`, `1m30s`.

use std::time::Duration;

/// Bytes: a number, and a unit in powers of 1024 with or without "i" and "b", in any case.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} must be a size such as 1048576, 512k, 64m or 1.5g");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let letter = unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .or(unit.strip_suffix('i'))
        .unwrap_or(&unit);
    let power = match (letter, unit.as_str()) {
        ("", "" | "b") => 0,
        ("k", _) => 1,
        ("m", _) => 2,
        ("g", _) => 3,
        ("t", _) => 4,
        ("p", _) => 5,
        _ => return Err(wrong()),
    };
    let factor = 1i64 << (10 * power);
    let bytes = match number.parse::<i64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => number
            .parse::<f64>()
            .ok()
            .map(|number| number * factor as f64)
            .filter(|bytes| *bytes < i64::MAX as f64)
            .map(|bytes| bytes as i64),
    };
    bytes.ok_or_else(wrong)
}

/// A limit in bytes, where -1 is none.
pub(crate) fn limit(text: &str) -> Result<i64, String> {
    match text {
        "-1" => Ok(-1),
        text => bytes(text),
    }
}

/// A duration in Go's form: numbers with units, one after the other.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} must be a duration above zero such as 500ms, 5s or 1m30s");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, after) = rest.split_at(digits.ok_or_else(wrong)?);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = after.split_at(letters.unwrap_or(after.len()));
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    match total.is_zero() {
        true => Err(wrong()),
        false => Ok(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_runcs() {
        for (text, want) in [
            ("0", 0),
            ("33554432", 33_554_432),
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 << 10),
            ("32K", 32 << 10),
            ("32kb", 32 << 10),
            ("32Kb", 32 << 10),
            ("32KiB", 32 << 10),
            ("32ki", 32 << 10),
            ("32Mb", 32 << 20),
            ("32 Gb", 32 << 30),
            ("32Tb", 32 << 40),
            ("32PiB", 32 << 50),
            ("1.5g", 3 << 29),
            ("32.5kB", 33_280),
        ] {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        for text in [
            "",
            "hello",
            "-32",
            " 32",
            "32  mb",
            "32m b",
            "32bm",
            "1.2.3",
            ".",
            "32ib",
            "32i",
            "9999999p",
            "99999999999999999999",
        ] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
        assert_eq!(limit("-1"), Ok(-1));
        assert!(limit("-2").is_err());
    }

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("2h", 7_200_000),
            ("1500us", 1),
        ] {
            assert_eq!(duration(text).unwrap().as_millis(), milliseconds, "{text}");
        }
        for text in [
            "",
            "0",
            "0s",
            "5",
            "-5s",
            "s",
            "5x",
            "1e9s",
            "5s ",
            "99999999999999999999h",
        ] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
