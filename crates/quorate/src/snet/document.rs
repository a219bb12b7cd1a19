//! A JSON document whose keys do not tell upper from lower case, read field by field.
//!
//! Invariants: whatever is wrong is noted with its field and the reading goes on, so that all of it is told at once; a
//! field of a section that nobody reads is told as unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::duration;

/// A setting that can't be used: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub field: String,
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// All settings that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if place == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

/// What a reading has found out besides the settings.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub problems: Vec<Problem>,
    /// What is worth a line in the log and stops nothing.
    pub notices: Vec<String>,
}

impl Findings {
    /// What was found, where that is anything.
    pub fn problems(self) -> Result<(), SettingsError> {
        let Self { problems, .. } = self;
        if problems.is_empty() { Ok(()) } else { Err(SettingsError { problems }) }
    }

    pub fn problem(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        let problem = Problem { field: field.into(), reason: reason.into() };
        // The client's and the server's checks may find the same.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// Some JSON, with all keys in lower case.
pub(super) fn parse(what: &str, text: &str, findings: &mut Findings) -> BTreeMap<String, Value> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(map)) => lower(what, map, findings),
        Ok(_) => {
            findings.problem(what, "it is no JSON object: it has to begin with {");
            BTreeMap::new()
        }
        Err(error) => {
            findings.problem(what, format!("it is no JSON: {error}"));
            BTreeMap::new()
        }
    }
}

fn lower(
    what: &str,
    map: serde_json::Map<String, Value>,
    findings: &mut Findings,
) -> BTreeMap<String, Value> {
    let mut lowered = BTreeMap::new();
    for (key, value) in map {
        let key = key.to_lowercase();
        if lowered.contains_key(&key) {
            findings.problem(
                what,
                format!("the key {key:?} is given twice, in upper and in lower case: keep one"),
            );
            continue;
        }
        lowered.insert(key, value);
    }
    lowered
}

/// A section: its fields, and what the environment says instead of them.
pub(super) struct Section<'a> {
    path: String,
    fields: BTreeMap<String, Value>,
    variables: &'a BTreeMap<String, String>,
    read: BTreeSet<String>,
}

impl<'a> Section<'a> {
    /// The whole document. `variables` are those whose names begin with `SNET_`.
    pub fn root(fields: BTreeMap<String, Value>, variables: &'a BTreeMap<String, String>) -> Self {
        Self { path: String::new(), fields, variables, read: BTreeSet::new() }
    }

    /// A document that no variable changes.
    pub fn apart(path: impl Into<String>, fields: BTreeMap<String, Value>) -> Section<'static> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        Section { path: path.into(), fields, variables: &NONE, read: BTreeSet::new() }
    }

    /// A section of this one, and whether the document has it.
    pub fn section(&mut self, name: &str, findings: &mut Findings) -> (Self, bool) {
        let path = self.name_of(name);
        self.read.insert(name.to_owned());
        let (fields, there) = match self.fields.get(name) {
            None | Some(Value::Null) => (BTreeMap::new(), false),
            Some(Value::Object(map)) => (lower(&path, map.clone(), findings), true),
            Some(other) => {
                findings.problem(&path, format!("{other} is no section: write it in braces"));
                (BTreeMap::new(), true)
            }
        };
        (Self { path, fields, variables: self.variables, read: BTreeSet::new() }, there)
    }

    /// The field's full name.
    pub fn name_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The field, from the environment if that has it.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.read.insert(name.to_owned());
        let path = self.name_of(name).to_uppercase();
        let variable = |path: &str| self.variables.get(&format!("SNET_{path}"));
        if let Some(text) = variable(&path).or_else(|| variable(&path.replace('.', "_"))) {
            return Some(Value::String(text.clone()));
        }
        self.fields.get(name).filter(|value| !value.is_null()).cloned()
    }

    /// A text; the empty one counts as not given.
    pub fn text(&mut self, name: &str, findings: &mut Findings) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Value::Number(number) => Some(number.to_string()),
            other => {
                findings.problem(self.name_of(name), format!("{other} is no text: write it in quotes"));
                None
            }
        }
    }

    pub fn flag(&mut self, name: &str, findings: &mut Findings) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(flag) => Some(flag),
            Value::String(text) if matches!(text.to_lowercase().as_str(), "true" | "t" | "1") => Some(true),
            Value::String(text) if matches!(text.to_lowercase().as_str(), "false" | "f" | "0") => Some(false),
            other => {
                findings.problem(self.name_of(name), format!("{other} is neither true nor false"));
                None
            }
        }
    }

    pub fn port(&mut self, name: &str, findings: &mut Findings) -> Option<u16> {
        let value = self.take(name)?;
        let port = match &value {
            Value::Number(number) => number.as_u64().and_then(|port| u16::try_from(port).ok()),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        if port.is_none() {
            findings
                .problem(self.name_of(name), format!("{value} is no port: write a number from 0 to 65535"));
        }
        port
    }

    /// A length of time; zero counts as not given, as the daemon has it.
    pub fn duration(&mut self, name: &str, findings: &mut Findings) -> Option<Duration> {
        let value = self.take(name)?;
        let parsed = match &value {
            Value::String(text) => duration::parse(text),
            Value::Number(number) if number.as_u64() == Some(0) => Ok(Duration::ZERO),
            _ => Err("a length of time is a text with a unit, such as \"5s\""),
        };
        match parsed {
            Ok(duration) => Some(duration).filter(|duration| !duration.is_zero()),
            Err(why) => {
                findings.problem(self.name_of(name), format!("{value} is no length of time: {why}"));
                None
            }
        }
    }

    /// A list, or a text that stands for one; empty counts as not given.
    pub fn list(&mut self, name: &str, findings: &mut Findings) -> Option<Vec<String>> {
        let value = self.take(name)?;
        let items: Option<Vec<String>> = match &value {
            Value::String(text) => {
                let split = text.split(|c: char| c == ',' || c.is_whitespace());
                Some(split.filter(|item| !item.is_empty()).map(str::to_owned).collect())
            }
            Value::Array(items) => {
                items.iter().map(|item| item.as_str().map(|item| item.trim().to_owned())).collect()
            }
            _ => None,
        };
        if items.is_none() {
            findings.problem(
                self.name_of(name),
                format!("{value} is no list of texts: write [\"...\", \"...\"]"),
            );
        }
        items.filter(|items| !items.is_empty())
    }

    /// Notes the fields that nobody has read; of the whole document those that `ours` says are meant for us.
    pub fn report_unknown(&self, findings: &mut Findings, ours: impl Fn(&str) -> bool) {
        for name in self.fields.keys().filter(|name| !self.read.contains(*name) && ours(name)) {
            let known = self.read.iter().min_by_key(|known| distance(known, name));
            let hint = known.filter(|known| distance(known, name) <= TYPO_LETTERS_MAX);
            let hint = hint.map(|known| format!("; is {known} meant?")).unwrap_or_default();
            findings
                .notices
                .push(format!("{}: this key is not known and has no effect{hint}", self.name_of(name)));
        }
    }
}

/// Letters by which a misspelt name may differ.
pub(super) const TYPO_LETTERS_MAX: usize = 2;

/// How many letters have to be put in, taken out or changed to make one word the other.
pub(super) fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, wanted) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *wanted);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}
