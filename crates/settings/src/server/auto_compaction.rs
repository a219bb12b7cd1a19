//! What etcd's two flags of auto-compaction say.

use std::time::Duration;

use quorate::AutoCompaction;

use super::{Kind, Value};

/// A retention that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--auto-compaction-retention: {retention:?} in --auto-compaction-mode={mode}: {reason}")]
pub struct RetentionError {
    mode: String,
    retention: String,
    reason: String,
}

/// A plain number counts hours, or revisions in the mode of that name; a length of time such as `30m` is for the
/// periodic mode alone. 0 turns it off.
pub(super) fn rule(mode: &str, retention: &str) -> Result<AutoCompaction, RetentionError> {
    const SECONDS_PER_HOUR: u64 = 3600;
    let by_revision = mode == "revision";
    let refused = |reason: &str| RetentionError {
        mode: mode.to_owned(),
        retention: retention.to_owned(),
        reason: reason.to_owned(),
    };
    if let Ok(number) = retention.parse::<u64>() {
        return Ok(match number {
            0 => AutoCompaction::Off,
            revisions if by_revision => AutoCompaction::KeepRevisions(revisions),
            hours => {
                let seconds = hours.checked_mul(SECONDS_PER_HOUR).ok_or_else(|| refused("is too long"))?;
                AutoCompaction::OlderThan(Duration::from_secs(seconds))
            }
        });
    }
    if by_revision {
        return Err(refused("must be a number of revisions"));
    }
    match Kind::Duration.parse(retention).map_err(|reason| refused(&reason))? {
        Value::Duration(0) => Ok(AutoCompaction::Off),
        Value::Duration(nanos) => {
            let nanos = u64::try_from(nanos).map_err(|_| refused("must not be negative"))?;
            Ok(AutoCompaction::OlderThan(Duration::from_nanos(nanos)))
        }
        other => unreachable!("a length of time is none but {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_reads_as_in_etcd() {
        let minutes = |number: u64| AutoCompaction::OlderThan(Duration::from_secs(number * 60));
        for (mode, retention, wanted) in [
            ("periodic", "0", AutoCompaction::Off),
            ("revision", "0", AutoCompaction::Off),
            ("periodic", "1", minutes(60)),
            ("periodic", "5m", minutes(5)),
            ("periodic", "1h30m", minutes(90)),
            ("revision", "1000", AutoCompaction::KeepRevisions(1000)),
        ] {
            assert_eq!(rule(mode, retention).expect("fine"), wanted, "{mode} {retention}");
        }
        for (mode, retention) in
            [("revision", "5m"), ("periodic", "soon"), ("periodic", "-5m"), ("periodic", "")]
        {
            let error = rule(mode, retention).expect_err("refused").to_string();
            assert!(error.starts_with("--auto-compaction-retention: "), "{error}");
        }
    }
}
