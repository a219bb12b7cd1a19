//! The cluster's settings, as `/v2/admin/config` shows and takes them.

use serde_json::Value;

const ACTIVE_SIZE_MIN: u64 = 3;
const PROMOTE_DELAY_SECONDS_MIN: f64 = 2.0;
const SYNC_INTERVAL_SECONDS_MIN: f64 = 1.0;
/// Ten years: more would overflow clocks.
const SECONDS_MAX: f64 = 315_360_000.0;

/// How many machines vote, and how long they may be silent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClusterSettings {
    /// Machines that vote; the others are standbys.
    pub active_size: u64,
    /// A voter that is silent for so long is replaced where a standby is there.
    pub promote_delay_seconds: f64,
    /// Between two looks of a standby at the cluster. Standbys here hear of changes at once; it is kept for clients.
    pub sync_interval_seconds: f64,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self { active_size: 9, promote_delay_seconds: 1800.0, sync_interval_seconds: 5.0 }
    }
}

/// Why settings can't be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("a JSON object is expected")]
    NotAnObject,
    #[error("{0} must be a number that is not negative")]
    NotANumber(&'static str),
}

impl ClusterSettings {
    /// The same, with what is below its minimum raised to it.
    #[must_use]
    pub fn raised(self) -> Self {
        Self {
            active_size: self.active_size.max(ACTIVE_SIZE_MIN),
            promote_delay_seconds: self.promote_delay_seconds.clamp(PROMOTE_DELAY_SECONDS_MIN, SECONDS_MAX),
            sync_interval_seconds: self.sync_interval_seconds.clamp(SYNC_INTERVAL_SECONDS_MIN, SECONDS_MAX),
        }
    }

    /// The same, with what a JSON object names changed. `removeDelay` is 0.4.9's name of `promoteDelay`.
    pub fn changed_by(self, json: &[u8]) -> Result<Self, SettingsError> {
        let given: Value = serde_json::from_slice(json).map_err(|_| SettingsError::NotAnObject)?;
        let given = given.as_object().ok_or(SettingsError::NotAnObject)?;
        let seconds = |name: &'static str| match given.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(seconds) if seconds >= 0.0 => Ok(Some(seconds)),
                _ => Err(SettingsError::NotANumber(name)),
            },
        };
        let mut changed = self;
        match given.get("activeSize") {
            None | Some(Value::Null) => {}
            Some(size) => {
                changed.active_size = size.as_u64().ok_or(SettingsError::NotANumber("activeSize"))?;
            }
        }
        for name in ["promoteDelay", "removeDelay"] {
            if let Some(delay) = seconds(name)?.filter(|delay| *delay != self.promote_delay_seconds) {
                changed.promote_delay_seconds = delay;
            }
        }
        if let Some(interval) = seconds("syncInterval")? {
            changed.sync_interval_seconds = interval;
        }
        Ok(changed.raised())
    }

    #[must_use]
    pub fn json(&self) -> String {
        format!(
            "{{\"activeSize\":{},\"promoteDelay\":{},\"removeDelay\":{},\"syncInterval\":{}}}",
            self.active_size,
            self.promote_delay_seconds,
            self.promote_delay_seconds,
            self.sync_interval_seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_and_what_is_too_low_is_raised() {
        let start = ClusterSettings::default();
        assert_eq!(
            start.json(),
            "{\"activeSize\":9,\"promoteDelay\":1800,\"removeDelay\":1800,\"syncInterval\":5}"
        );
        assert_eq!(start.changed_by(b"{}"), Ok(start));
        assert_eq!(start.changed_by(start.json().as_bytes()), Ok(start));
        let changed =
            start.changed_by(b"{\"activeSize\":1,\"removeDelay\":0.5,\"syncInterval\":0}").expect("fine");
        assert_eq!(
            changed.json(),
            "{\"activeSize\":3,\"promoteDelay\":2,\"removeDelay\":2,\"syncInterval\":1}"
        );
        // Either name, and what comes back from a client that changed one of the two.
        let one = br#"{"activeSize":5,"promoteDelay":60,"removeDelay":1800,"syncInterval":5}"#;
        assert!((start.changed_by(one).expect("fine").promote_delay_seconds - 60.0).abs() < f64::EPSILON);
    }

    /// Most of these need all 17 digits; a reader that rounds loses the last bit of some.
    #[test]
    fn numbers_with_many_digits_are_read_as_they_were_written() {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        for _ in 0..10_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let share = (state >> 11) as f64 / (1_u64 << 53) as f64;
            let settings = ClusterSettings {
                promote_delay_seconds: PROMOTE_DELAY_SECONDS_MIN + share * 1e6,
                sync_interval_seconds: SYNC_INTERVAL_SECONDS_MIN + share,
                ..ClusterSettings::default()
            };
            let read = ClusterSettings::default().changed_by(settings.json().as_bytes());
            assert_eq!(read, Ok(settings), "{}", settings.json());
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let start = ClusterSettings::default();
        for (json, expected) in [
            (&b""[..], SettingsError::NotAnObject),
            (b"[]", SettingsError::NotAnObject),
            (b"{\"activeSize\":\"9\"}", SettingsError::NotANumber("activeSize")),
            (b"{\"activeSize\":-1}", SettingsError::NotANumber("activeSize")),
            (b"{\"promoteDelay\":-1}", SettingsError::NotANumber("promoteDelay")),
            (b"{\"syncInterval\":true}", SettingsError::NotANumber("syncInterval")),
        ] {
            assert_eq!(start.changed_by(json), Err(expected));
        }
    }
}
