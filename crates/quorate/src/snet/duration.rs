//! Lengths of time as Go writes them: `5s`, `1m30s`, `1.5h`, `250ms`.

use std::time::Duration;

/// What is wrong with a text that is no length of time.
const FORM: &str = "write a number and a unit, such as 5s, 1m30s or 250ms";
const NANOS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];
/// What Go's type holds: 292 years.
const NANOS_MAX: f64 = i64::MAX as f64;

pub(super) fn parse(text: &str) -> Result<Duration, &'static str> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err("it must not be negative");
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(FORM);
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(FORM)?;
        let number: f64 = rest[..digits].parse().map_err(|_| FORM)?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) = NANOS.iter().find(|(name, _)| *name == &rest[..end]).ok_or(FORM)?;
        nanos += number * unit;
        rest = &rest[end..];
    }
    if nanos > NANOS_MAX { Err("it is too long") } else { Ok(Duration::from_nanos(nanos.round() as u64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_takes_is_taken() {
        for (text, millis) in [
            ("5s", 5000),
            ("0s", 0),
            ("0", 0),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("+250ms", 250),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("3\u{b5}s"), Ok(Duration::from_micros(3)));
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in ["", "5", "s", "5 s", "5x", "-1s", "1e3s", "5s5", "..s", "9999999h", "five"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
