//! Reads a command line in the syntax of Go's `flag` package.
//!
//! `-x` and `--x` are the same; a value follows after `=` or as the next argument; a boolean stands alone or has
//! `=value`; the last of repeated flags wins; reading stops at the first argument that is no flag, and at `--`.

use super::values::{Source, Values};
use super::{Kind, find};

/// What a command line asks for.
#[derive(Debug)]
pub enum Reading {
    /// `-h`, `-help`, `--help`.
    Help,
    Values(Values),
}

/// Why a command line can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error("invalid value {text:?} for flag -{name}: {reason}")]
    BadValue { name: String, text: String, reason: String },
    /// An argument that is no flag, where none is expected.
    #[error("{0:?} is not a valid flag")]
    Extra(String),
}

impl ReadError {
    /// The process's exit status: 2 for a misused flag, as Go's flag package has it, else 1.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Extra(_) => 1,
            _ => 2,
        }
    }
}

/// What a table of flags says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It may stand alone.
    Bool,
    /// A value follows.
    Valued,
    No,
}

/// Walks over `arguments`, which come after the subcommand, and hands each flag with its text to `take`, in order.
/// Returns false where help is asked for by a flag that the table does not have.
pub fn walk(
    arguments: &[String],
    known: impl Fn(&str) -> Known,
    mut take: impl FnMut(&str, String) -> Result<(), ReadError>,
) -> Result<bool, ReadError> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(body) = argument.strip_prefix('-').filter(|body| !body.is_empty()) else {
            return Err(ReadError::Extra(argument.clone()));
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            return match rest.next() {
                Some(extra) => Err(ReadError::Extra(extra.clone())),
                None => Ok(true),
            };
        }
        if body.starts_with('-') || body.starts_with('=') {
            return Err(ReadError::Syntax(argument.clone()));
        }
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let text = match (inline, known(name)) {
            (_, Known::No) if name == "h" || name == "help" => return Ok(false),
            (_, Known::No) => return Err(ReadError::Unknown(name.to_owned())),
            (Some(value), _) => value.to_owned(),
            (None, Known::Bool) => "true".to_owned(),
            (None, Known::Valued) => rest.next().ok_or_else(|| ReadError::NoValue(name.to_owned()))?.clone(),
        };
        take(name, text)?;
    }
    Ok(true)
}

/// Reads the arguments of `quorate server`.
pub fn read(arguments: &[String]) -> Result<Reading, ReadError> {
    let mut values = Values::default();
    let known = |name: &str| match find(name).map(|flag| flag.kind) {
        Some(Kind::Bool) => Known::Bool,
        Some(_) => Known::Valued,
        None => Known::No,
    };
    let read = walk(arguments, known, |name, text| {
        let flag = find(name).ok_or_else(|| ReadError::Unknown(name.to_owned()))?;
        values.set(flag, &text, Source::Flag).map_err(|reason| ReadError::BadValue {
            name: name.to_owned(),
            text,
            reason,
        })
    })?;
    Ok(if read { Reading::Values(values) } else { Reading::Help })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(arguments: &[&str]) -> Values {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        match read(&arguments).expect("readable") {
            Reading::Values(values) => values,
            Reading::Help => panic!("help was not asked for"),
        }
    }

    fn error(arguments: &[&str]) -> ReadError {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        read(&arguments).expect_err("unreadable")
    }

    #[test]
    fn one_dash_two_dashes_equals_and_next_argument() {
        let values =
            values(&["-name", "a", "--data-dir=/x", "--heartbeat-interval", "50", "-election-timeout=500"]);
        assert_eq!(values.text("name"), "a");
        assert_eq!(values.text("data-dir"), "/x");
        assert_eq!(values.uint("heartbeat-interval"), 50);
        assert_eq!(values.uint("election-timeout"), 500);
    }

    #[test]
    fn bare_booleans_do_not_eat_the_next_argument() {
        let values = values(&["--strict-reconfig-check", "--pre-vote=false", "--name", "b"]);
        assert!(values.bool("strict-reconfig-check"));
        assert!(!values.bool("pre-vote"));
        assert_eq!(values.text("name"), "b");
        assert_eq!(error(&["--pre-vote", "false"]), ReadError::Extra("false".to_owned()));
    }

    #[test]
    fn the_last_of_repeated_flags_wins() {
        assert_eq!(values(&["--name", "a", "--name=b", "-name", "c"]).text("name"), "c");
    }

    #[test]
    fn values_may_hold_equals_signs_and_dashes() {
        assert_eq!(
            values(&["--initial-cluster", "a=http://h:1,b=http://h:2"]).text("initial-cluster"),
            "a=http://h:1,b=http://h:2"
        );
        assert_eq!(values(&["--initial-cluster=a=http://h:1"]).text("initial-cluster"), "a=http://h:1");
        assert_eq!(values(&["--quota-backend-bytes", "-1"]).int("quota-backend-bytes"), -1);
    }

    #[test]
    fn malformed_command_lines_are_refused_with_gos_exit_status() {
        for (arguments, expected) in [
            (&["--no-such-flag"][..], ReadError::Unknown("no-such-flag".to_owned())),
            (&["---name", "a"], ReadError::Syntax("---name".to_owned())),
            (&["--=a"], ReadError::Syntax("--=a".to_owned())),
            (&["--name"], ReadError::NoValue("name".to_owned())),
        ] {
            let error = error(arguments);
            assert_eq!(error, expected);
            assert_eq!(error.exit_status(), 2);
        }
        let bad = error(&["--heartbeat-interval=soon"]);
        assert_eq!(
            bad.to_string(),
            "invalid value \"soon\" for flag -heartbeat-interval: must be a whole number"
        );
        let bad = error(&["--initial-cluster-state", "old"]);
        assert_eq!(
            bad.to_string(),
            "invalid value \"old\" for flag -initial-cluster-state: must be one of: new, existing"
        );
        for extra in [&["start"][..], &["--name", "a", "-"], &["--", "x"]] {
            assert_eq!(error(extra).exit_status(), 1, "{extra:?}");
        }
    }

    #[test]
    fn help_in_all_its_spellings() {
        for help in ["-h", "--h", "-help", "--help"] {
            assert!(matches!(read(&[help.to_owned()]), Ok(Reading::Help)), "{help}");
        }
    }
}
