//! The values that were given, their sources, and what is to be said about them once logging runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Flag, Status, Value, find};
use crate::{Notice, Severity};

/// Where a value came from. A later variant wins over an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    File,
    Environment,
    Flag,
}

/// A flag that is known, but whose function is to come, was given a value other than its default.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{0} is not supported yet")]
pub struct NotSupportedYet(pub String);

/// Values by flag name. What was not given has its default.
#[derive(Clone, Debug, Default)]
pub struct Values {
    given: BTreeMap<&'static str, (Value, Source)>,
    notices: Vec<Notice>,
}

impl Values {
    /// Takes a value for `flag`, unless one from a stronger source is there.
    pub(super) fn set(&mut self, flag: &'static Flag, text: &str, source: Source) -> Result<(), String> {
        let value = flag.kind.parse(text)?;
        let target = match flag.status {
            Status::Renamed(target) => {
                self.warn(format!("--{} is an older name of --{target}, which takes its value", flag.name));
                find(target).expect("a renamed flag's target is in the table").name
            }
            _ => flag.name,
        };
        match self.given.get(target) {
            Some((_, stronger)) if *stronger > source => {}
            _ => {
                self.given.insert(target, (value, source));
            }
        }
        Ok(())
    }

    /// Whether the user gave this flag a value, from whatever source.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The source of a given value.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<Source> {
        self.given.get(name).map(|(_, source)| *source)
    }

    #[must_use]
    pub fn text(&self, name: &str) -> String {
        match self.value(name) {
            Value::Text(text) => text,
            other => unreachable!("--{name} is no text but {other:?}"),
        }
    }

    /// The items of a comma-separated list, without the empty ones.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    #[must_use]
    pub fn bool(&self, name: &str) -> bool {
        match self.value(name) {
            Value::Bool(value) => value,
            other => unreachable!("--{name} is no boolean but {other:?}"),
        }
    }

    #[must_use]
    pub fn uint(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Uint(value) => value,
            other => unreachable!("--{name} is no unsigned number but {other:?}"),
        }
    }

    #[must_use]
    pub fn int(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Int(value) => value,
            other => unreachable!("--{name} is no number but {other:?}"),
        }
    }

    /// A length of time; negative ones count as none.
    #[must_use]
    pub fn duration(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Duration(nanoseconds) => Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)),
            other => unreachable!("--{name} is no length of time but {other:?}"),
        }
    }

    fn value(&self, name: &str) -> Value {
        match self.given.get(name) {
            Some((value, _)) => value.clone(),
            None => {
                find(name).unwrap_or_else(|| unreachable!("--{name} is not in the table")).default_value()
            }
        }
    }

    pub(super) fn inform(&mut self, text: impl fmt::Display) {
        self.notices.push(Notice { severity: Severity::Info, text: text.to_string() });
    }

    pub(super) fn warn(&mut self, text: impl fmt::Display) {
        self.notices.push(Notice { severity: Severity::Warning, text: text.to_string() });
    }

    /// Refuses what is not supported yet, and returns what is to be logged: older names, flags without a meaning
    /// here, environment variables that were used or not known.
    pub fn review(&self) -> Result<Vec<Notice>, NotSupportedYet> {
        let mut notices = self.notices.clone();
        for (name, (value, _)) in &self.given {
            let flag = find(name).expect("only flags of the table are given");
            match flag.status {
                Status::Supported => {}
                Status::Renamed(_) => unreachable!("a renamed flag's value goes to its target"),
                Status::NotYet if *value == flag.default_value() || is_off(value) => {}
                Status::NotYet => return Err(NotSupportedYet((*name).to_owned())),
                Status::Ignored(why) => notices.push(Notice {
                    severity: Severity::Warning,
                    text: format!("--{name} is accepted, but has no meaning here: {why}"),
                }),
            }
        }
        Ok(notices)
    }
}

/// Whether a value asks for nothing.
fn is_off(value: &Value) -> bool {
    matches!(value, Value::Bool(false)) || *value == Value::Text(String::new())
}
