//! The command line of `quorate server`.

use super::values::{Source, Values};
use super::{Kind, find};
use crate::go_flags::{Known, ReadError, walk};

/// What a command line asks for.
#[derive(Debug)]
pub enum Reading {
    /// `-h`, `-help`, `--help`.
    Help,
    Values(Values),
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
