//! Moments, as nanoseconds since 1970.
//!
//! Go's zero time, the year 1, stands for never.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Reads a moment as Go writes one into JSON; `None` for never.
pub(crate) fn parse(text: &str) -> Result<Option<u64>, String> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| format!("{text:?}: {error}"))?;
    if moment.year() <= 1 {
        return Ok(None);
    }
    let nanos = moment.unix_timestamp_nanos().max(0);
    Ok(Some(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_go_writes_them() {
        assert_eq!(parse("0001-01-01T00:00:00Z"), Ok(None));
        assert_eq!(parse("1970-01-01T01:00:00.5+01:00"), Ok(Some(500_000_000)));
        assert_eq!(parse("2014-04-17T17:24:04.000000001-07:00"), Ok(Some(1_397_780_644_000_000_001)));
        assert_eq!(parse("9999-12-31T23:59:59Z"), Ok(Some(u64::MAX)), "as late as can be told");
        assert!(parse("yesterday").is_err());
    }
}
