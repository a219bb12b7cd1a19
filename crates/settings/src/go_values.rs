//! Values in the notation of Go's `flag` package, so that command lines written for etcd read the same here.

/// `true`, `false` and their short forms.
pub fn bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// A signed number: decimal, `0x`, `0o`, `0b`, or octal after a leading zero; `_` may separate digits.
pub fn int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = i128::from(magnitude(digits)?);
    i64::try_from(if negative { -magnitude } else { magnitude })
        .map_err(|_| "the number is out of range".to_owned())
}

/// An unsigned number in the notation of [`int`], without a sign.
pub fn uint(text: &str) -> Result<u64, String> {
    magnitude(text)
}

fn magnitude(digits: &str) -> Result<u64, String> {
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let plain = body.replace('_', "");
    if plain.is_empty() || !plain.chars().all(|c| c.is_digit(radix)) {
        return Err("must be a whole number".to_owned());
    }
    u64::from_str_radix(&plain, radix).map_err(|_| "the number is out of range".to_owned())
}

const NANOSECOND: f64 = 1.0;

/// A length of time such as `300ms`, `1.5h` or `2h45m`; returns nanoseconds.
pub fn duration(text: &str) -> Result<i64, String> {
    let malformed = || "must be a length of time such as 300ms, 1.5h or 2h45m".to_owned();
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(malformed());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let number: f64 = rest[..number_end].parse().map_err(|_| malformed())?;
        rest = &rest[number_end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "ns" => NANOSECOND,
            "us" | "µs" | "μs" => NANOSECOND * 1e3,
            "ms" => NANOSECOND * 1e6,
            "s" => NANOSECOND * 1e9,
            "m" => NANOSECOND * 60e9,
            "h" => NANOSECOND * 3600e9,
            _ => return Err(malformed()),
        };
        total += number * unit;
        rest = &rest[unit_end..];
    }
    if total > i64::MAX as f64 {
        return Err("the length of time is out of range".to_owned());
    }
    Ok((sign * total).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_each_of_gos_notations() {
        assert_eq!(int("42"), Ok(42));
        assert_eq!(int("-0x10"), Ok(-16));
        assert_eq!(int("010"), Ok(8));
        assert_eq!(int("0b101"), Ok(5));
        assert_eq!(uint("1_500_000"), Ok(1_500_000));
        assert_eq!(int("-9223372036854775808"), Ok(i64::MIN));
        for bad in ["", "-", "1.5", "ten", "0x", "08", "99999999999999999999", "9223372036854775808"] {
            assert!(int(bad).is_err(), "{bad:?}");
        }
        assert!(uint("-1").is_err());
    }

    #[test]
    fn durations_in_gos_notation() {
        assert_eq!(duration("100ms"), Ok(100_000_000));
        assert_eq!(duration("1h30m"), Ok(5_400_000_000_000));
        assert_eq!(duration("1.5s"), Ok(1_500_000_000));
        assert_eq!(duration("-2us"), Ok(-2_000));
        assert_eq!(duration("0"), Ok(0));
        for bad in ["", "5", "s", "1x", "1 s", "ms5", "1..5s", "400000000h"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn booleans_in_gos_notation() {
        for yes in ["1", "t", "true", "TRUE"] {
            assert_eq!(bool(yes), Ok(true));
        }
        for no in ["0", "f", "false", "False"] {
            assert_eq!(bool(no), Ok(false));
        }
        assert!(bool("yes").is_err());
    }
}
