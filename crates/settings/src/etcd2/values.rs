//! The values of etcd 0.4's flags, from all their sources.
//!
//! Invariant: a later source wins over an earlier one, whatever it says: `/etc/etcd/etcd.conf`, the file of `-config`,
//! the environment, the flags. (`-peers-file` comes last; it is read where the peers are needed.)

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::table::{ALIASES, Effect, FLAGS, Flag, Kind, find};
use crate::go_flags::{Known, ReadError, walk};
use crate::go_values;
use crate::{Notice, Severity};

/// Read where it exists.
pub const SYSTEM_FILE: &str = "/etc/etcd/etcd.conf";

/// Why settings can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    #[error(transparent)]
    Flags(#[from] ReadError),
    #[error("invalid value {text:?} for {variable}: {reason}")]
    Variable { variable: String, text: String, reason: String },
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {path} is no valid TOML: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("invalid value for {key:?} in the configuration file {path}: {reason}")]
    FileValue { path: PathBuf, key: String, reason: String },
}

/// Values by flag name, as checked text. What was not given has its default.
#[derive(Clone, Debug, Default)]
pub struct Values {
    given: BTreeMap<&'static str, String>,
    notices: Vec<Notice>,
    older_names: Vec<String>,
}

impl Values {
    /// Gathers all sources.
    pub fn gather(
        arguments: &[String],
        variables: impl IntoIterator<Item = (String, String)>,
        system_file: &Path,
    ) -> Result<Self, ValueError> {
        let mut values = Self::default();
        // Flags come last, but one of them says which file to read.
        let flags = values.flags(arguments)?;
        if matches!(system_file.try_exists(), Ok(true)) {
            values.file(system_file)?;
        }
        if let Some((_, path)) =
            flags.iter().rev().find(|(flag, path)| flag.name == "config" && !path.is_empty())
        {
            values.file(Path::new(path))?;
        }
        values.environment(variables)?;
        values.given.extend(flags.into_iter().map(|(flag, text)| (flag.name, text)));
        values.name_what_has_no_meaning();
        Ok(values)
    }

    /// The values that the text of a configuration file gives; `path` is how errors name it.
    pub fn in_text(text: &str, path: &Path) -> Result<Self, ValueError> {
        let mut values = Self::default();
        values.text_of_file(text, path)?;
        values.name_what_has_no_meaning();
        Ok(values)
    }

    fn flags(&mut self, arguments: &[String]) -> Result<Vec<(&'static Flag, String)>, ValueError> {
        let mut taken = Vec::new();
        let known = |name: &str| match find(name).map(|flag| flag.kind) {
            Some(Kind::Bool) => Known::Bool,
            Some(_) => Known::Valued,
            None => Known::No,
        };
        let older_names = &mut self.older_names;
        walk(arguments, known, |name, text| {
            let flag = find(name).ok_or_else(|| ReadError::Unknown(name.to_owned()))?;
            if let Some((old, now)) = ALIASES.iter().find(|(old, _)| *old == name) {
                older_names.push(format!("[deprecated] use -{now}, not -{old}"));
            }
            let text = checked(flag.kind, &text).map_err(|reason| ReadError::BadValue {
                name: name.to_owned(),
                text,
                reason,
            })?;
            taken.push((flag, text));
            Ok(())
        })?;
        Ok(taken)
    }

    fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ValueError> {
        let variables: BTreeMap<String, String> = variables
            .into_iter()
            .filter(|(name, text)| name.starts_with("ETCD_") && !text.is_empty())
            .collect();
        for flag in FLAGS {
            for variable in flag.variables {
                let Some(text) = variables.get(*variable) else { continue };
                // Of a variable, anything but "0" and "false" is true.
                let text = match flag.kind {
                    Kind::Bool => (!matches!(text.as_str(), "0" | "false")).to_string(),
                    kind => checked(kind, text).map_err(|reason| ValueError::Variable {
                        variable: (*variable).to_owned(),
                        text: text.clone(),
                        reason,
                    })?,
                };
                self.given.insert(flag.name, text);
            }
        }
        let known = |name: &String| FLAGS.iter().any(|flag| flag.variables.contains(&name.as_str()));
        for unknown in variables.keys().filter(|name| !known(name)) {
            self.warn(format!("unrecognized environment variable {unknown}"));
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), ValueError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ValueError::Unreadable { path: path.to_owned(), source })?;
        self.text_of_file(&text, path)
    }

    fn text_of_file(&mut self, text: &str, path: &Path) -> Result<(), ValueError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ValueError::Malformed {
            path: path.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        self.section(path, "", &table)
    }

    fn section(&mut self, path: &Path, prefix: &str, table: &toml::Table) -> Result<(), ValueError> {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            if let toml::Value::Table(inner) = value
                && prefix.is_empty()
                && matches!(name.as_str(), "peer" | "cluster")
            {
                self.section(path, &format!("{name}."), inner)?;
                continue;
            }
            let Some(flag) = FLAGS.iter().find(|flag| !flag.key.is_empty() && flag.key == key) else {
                self.warn(format!("unknown key {key:?} in the configuration file {}", path.display()));
                continue;
            };
            let text = scalar(flag.kind, value).and_then(|text| checked(flag.kind, &text));
            let text = text.map_err(|reason| ValueError::FileValue {
                path: path.to_owned(),
                key: key.clone(),
                reason,
            })?;
            self.given.insert(flag.name, text);
        }
        Ok(())
    }

    fn name_what_has_no_meaning(&mut self) {
        let useless: Vec<String> = FLAGS
            .iter()
            .filter(|flag| self.given.get(flag.name).is_some_and(|text| text != flag.default))
            .filter_map(|flag| match flag.effect {
                Effect::Used => None,
                Effect::Nothing(why) => {
                    Some(format!("-{} is accepted, but has no meaning here: {why}", flag.name))
                }
            })
            .collect();
        useless.into_iter().for_each(|text| self.warn(text));
    }

    pub fn warn(&mut self, text: String) {
        self.notices.push(Notice { severity: Severity::Warning, text });
    }

    /// What etcd 0.4 says on standard error of older names, before there is a log.
    #[must_use]
    pub fn older_names(&self) -> &[String] {
        &self.older_names
    }

    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// The value, or the default.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(text) => text,
            None => find(name).map_or("", |flag| flag.default),
        }
    }

    /// The value, unless it is empty.
    #[must_use]
    pub fn some_text(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        split_list(self.text(name))
    }

    #[must_use]
    pub fn bool(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// A count; one beyond what the machine can count to is the highest.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(u64::MAX)
    }

    #[must_use]
    pub fn seconds(&self, name: &str) -> f64 {
        self.text(name).parse().unwrap_or(0.0)
    }
}

/// The items of a comma-separated list, without the empty ones.
#[must_use]
pub fn split_list(text: &str) -> Vec<String> {
    text.split([',', '\n']).map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// The text of a value in its plain form, or why it can't be one.
fn checked(kind: Kind, text: &str) -> Result<String, String> {
    /// Ten years: more is a mistake, and would overflow clocks.
    const SECONDS_MAX: f64 = 315_360_000.0;
    match kind {
        Kind::Text | Kind::List => Ok(text.to_owned()),
        Kind::Bool => go_values::bool(text).map(|value| value.to_string()),
        Kind::Count => match go_values::int(text)? {
            value if value < 0 => Err("must not be negative".to_owned()),
            value => Ok(value.to_string()),
        },
        Kind::Seconds => match text.parse::<f64>() {
            Ok(value) if (0.0..=SECONDS_MAX).contains(&value) => Ok(value.to_string()),
            Ok(_) => Err(format!("must be a number of seconds from 0 to {SECONDS_MAX}")),
            Err(_) => Err("must be a number of seconds".to_owned()),
        },
    }
}

fn scalar(kind: Kind, value: &toml::Value) -> Result<String, String> {
    match (kind, value) {
        (Kind::Text | Kind::List, toml::Value::String(text)) => Ok(text.clone()),
        (Kind::List, toml::Value::Array(items)) => {
            let items: Result<Vec<&str>, String> = items
                .iter()
                .map(|item| item.as_str().ok_or_else(|| "must be a list of strings".to_owned()))
                .collect();
            Ok(items?.join(","))
        }
        (Kind::Text, _) => Err("must be a string".to_owned()),
        (Kind::List, _) => Err("must be a list of strings".to_owned()),
        (Kind::Bool, toml::Value::Boolean(value)) => Ok(value.to_string()),
        (Kind::Bool, _) => Err("must be true or false".to_owned()),
        (Kind::Count | Kind::Seconds, toml::Value::Integer(value)) => Ok(value.to_string()),
        (Kind::Seconds, toml::Value::Float(value)) => Ok(value.to_string()),
        (Kind::Count, _) => Err("must be a whole number".to_owned()),
        (Kind::Seconds, _) => Err("must be a number of seconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(arguments: &[&str], variables: &[(&str, &str)], files: &[&str]) -> Result<Values, ValueError> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let system = folder.path().join("etcd.conf");
        if let Some(text) = files.first() {
            std::fs::write(&system, text).expect("written");
        }
        if let Some(text) = files.get(1) {
            let own = folder.path().join("own.toml");
            std::fs::write(&own, text).expect("written");
            arguments.extend(["-config".to_owned(), own.display().to_string()]);
        }
        let variables = variables.iter().map(|&(name, text)| (name.to_owned(), text.to_owned()));
        Values::gather(&arguments, variables, &system)
    }

    #[test]
    fn each_source_wins_over_the_one_before() {
        let files = [
            "name = 'system'\naddr = 'system'\ndata_dir = 'system'",
            "addr = 'own'\ndata_dir = 'own'\n[peer]\naddr = 'own'",
        ];
        let values = gather(
            &["-data-dir", "flag"],
            &[("ETCD_DATA_DIR", "variable"), ("ETCD_PEER_ADDR", "variable")],
            &files,
        )
        .expect("fine");
        assert_eq!(values.text("name"), "system");
        assert_eq!(values.text("addr"), "own");
        assert_eq!(values.text("peer-addr"), "variable");
        assert_eq!(values.text("data-dir"), "flag");
        assert_eq!(values.text("peer-election-timeout"), "500", "the default");
        assert!(values.notices().is_empty());
    }

    #[test]
    fn older_names_are_the_same_flags() {
        let values = gather(
            &["-s", "h:1", "-c=h:2", "-C", "a:1, b:2", "-d", "x", "-n", "m", "-maxsize", "3"],
            &[],
            &[],
        )
        .expect("fine");
        assert_eq!((values.text("peer-addr"), values.text("addr"), values.text("name")), ("h:1", "h:2", "m"));
        assert_eq!(values.list("peers"), ["a:1", "b:2"]);
        assert_eq!(values.count("cluster-active-size"), 3);
    }

    #[test]
    fn booleans_of_the_environment_are_false_only_for_two_words() {
        for (text, value) in [("0", false), ("false", false), ("no", true), ("1", true)] {
            let values = gather(&[], &[("ETCD_VERBOSE", text)], &[]).expect("fine");
            assert_eq!(values.bool("v"), value, "{text}");
        }
    }

    #[test]
    fn what_has_no_meaning_and_what_is_unknown_is_named() {
        let values = gather(
            &["-trace=*", "-snapshot=false", "-max-result-buffer", "1024"],
            &[("ETCD_NO_SUCH", "1")],
            &["nmae = 'x'\n[cluster]\nactive_size = 5\n"],
        )
        .expect("fine");
        let texts: Vec<&str> = values.notices().iter().map(|notice| notice.text.as_str()).collect();
        assert!(texts.iter().any(|text| text.starts_with("-trace is accepted, but has no meaning here")));
        assert!(texts.iter().any(|text| text.starts_with("-snapshot is accepted")));
        assert!(texts.contains(&"unrecognized environment variable ETCD_NO_SUCH"));
        assert!(texts.iter().any(|text| text.starts_with("unknown key \"nmae\"")));
        assert_eq!(texts.len(), 4, "a default that is given is no news: {texts:?}");
        assert_eq!(values.count("cluster-active-size"), 5);
    }

    #[test]
    fn mistakes_say_what_is_wrong_and_where() {
        for (arguments, expected) in [
            (&["-no-such"][..], "flag provided but not defined: -no-such"),
            (&["-name"], "flag needs an argument: -name"),
            (
                &["-snapshot-count", "many"],
                "invalid value \"many\" for flag -snapshot-count: must be a whole number",
            ),
            (
                &["-retry-interval=-1"],
                "invalid value \"-1\" for flag -retry-interval: must be a number of seconds from 0 to 315360000",
            ),
            (&["-r", "-2"], "invalid value \"-2\" for flag -r: must not be negative"),
            (&["-snapshot", "true"], "\"true\" is not a valid flag"),
        ] {
            assert_eq!(gather(arguments, &[], &[]).expect_err("refused").to_string(), expected);
        }
        let bad = gather(&[], &[("ETCD_RETRY_INTERVAL", "soon")], &[]).expect_err("refused");
        assert_eq!(
            bad.to_string(),
            "invalid value \"soon\" for ETCD_RETRY_INTERVAL: must be a number of seconds"
        );
        let bad = gather(&[], &[], &["peers = 'a'\nname = 3"]).expect_err("refused").to_string();
        assert!(
            bad.starts_with("invalid value for \"name\" in the configuration file")
                && bad.ends_with("must be a string"),
            "{bad}"
        );
        assert!(matches!(gather(&[], &[], &["name = "]), Err(ValueError::Malformed { .. })));
        let none = gather(&["-config", "/no/such/file"], &[], &[]);
        assert!(matches!(none, Err(ValueError::Unreadable { .. })));
    }
}
