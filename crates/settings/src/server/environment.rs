//! Flags from the environment: `ETCD_<NAME>`, and `QUORATE_<NAME>` for our own. A flag on the command line wins.

use super::all;
use super::values::{Source, Values};

/// A variable whose value can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {text:?} for {variable}: {reason}")]
pub struct BadVariable {
    pub variable: String,
    pub text: String,
    pub reason: String,
}

/// Variables that are no flags, but that etcd knows.
const NO_FLAGS: [&str; 2] = ["ETCD_VERIFY", "ETCD_UNSUPPORTED_ARCH"];

/// What `quorate ctl` and the like read, each behind `QUORATE_`.
pub const COMMAND_VARIABLES: [&str; 9] = [
    "ENDPOINTS",
    "CACERT",
    "CERT",
    "KEY",
    "SERVER_NAME",
    "INSECURE_SKIP_TLS_VERIFY",
    "DIAL_TIMEOUT",
    "COMMAND_TIMEOUT",
    "OUTPUT",
];

/// Takes every variable that names a flag into `values`. An empty variable counts as not set.
pub fn apply(
    values: &mut Values,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(), BadVariable> {
    let mut variables: Vec<(String, String)> = variables
        .into_iter()
        .filter(|(name, text)| {
            (name.starts_with("ETCD_") || name.starts_with("QUORATE_")) && !text.is_empty()
        })
        .collect();
    variables.sort();
    for (variable, text) in variables {
        let Some(flag) = all().find(|flag| flag.variable() == variable) else {
            if is_of_commands(&variable) {
                continue;
            }
            if NO_FLAGS.contains(&variable.as_str()) {
                values.warn(format!("{variable} is accepted, but has no meaning here"));
            } else {
                values.warn(format!("unrecognized environment variable {variable}"));
            }
            continue;
        };
        if values.source(flag.name) == Some(Source::Flag) {
            values.warn(format!("{variable} is not used, because --{} is given", flag.name));
            continue;
        }
        match values.set(flag, &text, Source::Environment) {
            Ok(()) => values.inform(format!("recognized and used environment variable {variable}={text}")),
            Err(reason) => return Err(BadVariable { variable, text, reason }),
        }
    }
    Ok(())
}

/// Whether a variable is one that `quorate ctl` and the like read.
fn is_of_commands(variable: &str) -> bool {
    variable.strip_prefix("QUORATE_").is_some_and(|name| COMMAND_VARIABLES.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::super::{Reading, read};
    use super::*;

    fn with(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Values, BadVariable> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let Ok(Reading::Values(mut values)) = read(&arguments) else { panic!("unreadable") };
        apply(&mut values, variables.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())))?;
        Ok(values)
    }

    #[test]
    fn a_variable_stands_for_its_flag_and_the_flag_wins() {
        let values =
            with(&["--name", "flag"], &[("ETCD_NAME", "variable"), ("ETCD_DATA_DIR", "/d")]).expect("fine");
        assert_eq!(values.text("name"), "flag");
        assert_eq!(values.text("data-dir"), "/d");
        let notices = values.review().expect("all supported");
        assert!(
            notices.iter().any(|n| n.text == "recognized and used environment variable ETCD_DATA_DIR=/d")
        );
        assert!(notices.iter().any(|n| n.text.contains("ETCD_NAME is not used")));
    }

    #[test]
    fn unknown_variables_are_named_and_bad_values_refused() {
        let values = with(
            &[],
            &[("ETCD_NO_SUCH", "1"), ("HOME", "/"), ("ETCD_NAME", ""), ("QUORATE_ENDPOINTS", "h:1")],
        )
        .expect("fine");
        let notices = values.review().expect("all supported");
        assert_eq!(notices.len(), 1);
        assert_eq!(notices[0].text, "unrecognized environment variable ETCD_NO_SUCH");
        let error = with(&[], &[("ETCD_PRE_VOTE", "perhaps")]).expect_err("refused");
        assert_eq!(error.to_string(), "invalid value \"perhaps\" for ETCD_PRE_VOTE: must be true or false");
    }

    #[test]
    fn what_is_not_built_yet_is_refused_only_where_it_is_asked_for() {
        let asked = with(&["--memory-mlock"], &[]).expect("readable");
        assert_eq!(asked.review().expect_err("refused").to_string(), "--memory-mlock is not supported yet");
        for harmless in [
            &["--discovery-insecure-skip-tls-verify=false"][..],
            &["--host-whitelist="],
            &["--bcrypt-cost=10"],
            &["--warning-apply-duration=0.1s"],
        ] {
            let values = with(harmless, &[]).expect("readable");
            assert_eq!(values.review(), Ok(Vec::new()), "{harmless:?}");
        }
    }

    #[test]
    fn flags_without_meaning_and_older_names_are_accepted_and_said() {
        let values =
            with(&["--max-wals=3", "--experimental-compaction-batch-limit=10"], &[]).expect("readable");
        let notices = values.review().expect("accepted");
        assert!(
            notices.iter().any(|n| n.text.starts_with("--max-wals is accepted, but has no meaning here"))
        );
        assert!(notices.iter().any(|n| n.text.contains("older name of --compaction-batch-limit")));
    }
}
