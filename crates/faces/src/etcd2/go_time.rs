//! Times and durations in the texts that clients of a Go server expect.

/// Nanoseconds since 1970-01-01 UTC as RFC 3339 with as many digits behind the point as it needs.
#[must_use]
pub fn rfc3339_nano(nanos: u64) -> String {
    const NANOS_PER_SECOND: u64 = 1_000_000_000;
    let (seconds, fraction) = (nanos / NANOS_PER_SECOND, nanos % NANOS_PER_SECOND);
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut out = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction > 0 {
        out.push_str(format!(".{fraction:09}").trim_end_matches('0'));
    }
    out.push('Z');
    out
}

/// The date of a day counted from 1970-01-01. The year starts in March here, so that the leap day is its last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_400_YEARS: u64 = 146_097;
    /// From 0000-03-01 to 1970-01-01.
    const EPOCH_DAYS: u64 = 719_468;
    let days = days + EPOCH_DAYS;
    let (era, day) = (days / DAYS_PER_400_YEARS, days % DAYS_PER_400_YEARS);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day_of_month)
}

/// A duration as Go prints it: `1h2m3.5s`, `150ms`, `0s`.
#[must_use]
pub fn duration(nanos: u128) -> String {
    const SECOND: u128 = 1_000_000_000;
    let decimal = |unit: u128, name: &str| {
        let mut out = (nanos / unit).to_string();
        let digits = unit.ilog10() as usize;
        if !nanos.is_multiple_of(unit) {
            out.push_str(format!(".{:0digits$}", nanos % unit).trim_end_matches('0'));
        }
        out + name
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..SECOND => decimal(1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (nanos / (3600 * SECOND), nanos / (60 * SECOND) % 60);
            let rest = nanos % (60 * SECOND);
            let mut out = String::new();
            if hours > 0 {
                out.push_str(&format!("{hours}h"));
            }
            if hours > 0 || minutes > 0 {
                out.push_str(&format!("{minutes}m"));
            }
            out.push_str(&(rest / SECOND).to_string());
            if !rest.is_multiple_of(SECOND) {
                out.push_str(format!(".{:09}", rest % SECOND).trim_end_matches('0'));
            }
            out + "s"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_digits_that_they_need() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
            (1_386_455_652_123_456_789, "2013-12-07T22:34:12.123456789Z"),
            (1_386_455_652_500_000_000, "2013-12-07T22:34:12.5Z"),
            (4_107_542_399_000_000_010, "2100-02-28T23:59:59.00000001Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339_nano(nanos), text);
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (33_407_448_601, "33.407448601s"),
            (120_182_771_552, "2m0.182771552s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_723_000_000_001, "1h2m3.000000001s"),
        ] {
            assert_eq!(duration(nanos), text);
        }
    }
}
