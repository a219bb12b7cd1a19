//! What etcd's two flags of auto-compaction say.

use std::time::Duration;

use anyhow::{Context, bail};
use quorate::AutoCompaction;

use crate::flags::{Kind, Value};

/// A plain number counts hours, or revisions in the mode of that name; a length of time such as `30m` is for the
/// periodic mode alone. 0 turns it off.
pub fn rule(mode: &str, retention: &str) -> anyhow::Result<AutoCompaction> {
    const SECONDS_PER_HOUR: u64 = 3600;
    let by_revision = mode == "revision";
    let told = || format!("--auto-compaction-retention: {retention:?} in --auto-compaction-mode={mode}");
    if let Ok(number) = retention.parse::<u64>() {
        return Ok(match number {
            0 => AutoCompaction::Off,
            revisions if by_revision => AutoCompaction::KeepRevisions(revisions),
            hours => {
                let seconds = hours.checked_mul(SECONDS_PER_HOUR).with_context(told)?;
                AutoCompaction::OlderThan(Duration::from_secs(seconds))
            }
        });
    }
    if by_revision {
        bail!("{}: must be a number of revisions", told());
    }
    match Kind::Duration.parse(retention).map_err(anyhow::Error::msg).with_context(told)? {
        Value::Duration(0) => Ok(AutoCompaction::Off),
        Value::Duration(nanos) => {
            let nanos = u64::try_from(nanos).with_context(told)?;
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
