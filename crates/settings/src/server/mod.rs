//! The flags of `quorate server`: one table, read from the command line, the environment and the configuration file.
//!
//! Invariants:
//!
//! - Every flag that etcd 3.6 or 3.7 accepts is in the table exactly once, with etcd's default; nothing given by a
//!   user is dropped in silence: it takes effect, is refused, or a notice says that it has no meaning here.
//! - A value is parsed in one place ([`Kind::parse`]), whatever source it came from.

mod auto_compaction;
mod config_file;
mod environment;
mod help;
mod member;
mod reader;
mod table;
mod values;

pub use auto_compaction::RetentionError;
pub use config_file::FileError;
pub use environment::{BadVariable, COMMAND_VARIABLES};
pub use help::{INTRODUCTION, USAGE_HINT, page, text_of};
pub use member::{Settings, SettingsError};
pub use reader::{Reading, read};
pub use table::all;
pub use values::{NotSupportedYet, Source, Values};

use crate::go_values;

/// Where `--help` shows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Member,
    Clustering,
    Security,
    Auth,
    Logging,
    Observability,
    Limits,
    Features,
    Unsafe,
    Discovery,
    Quorate,
    Legacy,
}

impl Group {
    /// In the order of the help page.
    pub const ALL: [Self; 12] = [
        Self::Member,
        Self::Clustering,
        Self::Logging,
        Self::Limits,
        Self::Quorate,
        Self::Security,
        Self::Auth,
        Self::Observability,
        Self::Features,
        Self::Discovery,
        Self::Unsafe,
        Self::Legacy,
    ];

    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Member => "Member",
            Self::Clustering => "Clustering",
            Self::Security => "Transport security",
            Self::Auth => "Users and tokens",
            Self::Logging => "Logging",
            Self::Observability => "Metrics, profiles and traces",
            Self::Limits => "Limits and timeouts",
            Self::Features => "Compaction, checks and feature gates",
            Self::Unsafe => "Unsafe",
            Self::Discovery => "Discovery",
            Self::Quorate => "Quorate's own (environment: QUORATE_...)",
            Self::Legacy => "Older flags",
        }
    }
}

/// What a flag does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does what its help says.
    Supported,
    /// Known, and to come: any value but the default is refused.
    NotYet,
    /// Accepted; a notice says that it has no meaning here, for this reason.
    Ignored(&'static str),
    /// An older name of a flag; its value goes there, and a notice says so.
    Renamed(&'static str),
}

/// What a flag's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    /// A signed 64-bit number.
    Int,
    /// An unsigned 64-bit number.
    Uint,
    /// A length of time in Go's notation: `100ms`, `1h30m`. In a configuration file: integer nanoseconds.
    Duration,
    Text,
    /// Comma-separated; in a configuration file also a list.
    List,
    Choice(&'static [&'static str]),
}

/// A parsed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    /// Nanoseconds; negative lengths are legal in Go's notation.
    Duration(i64),
    Text(String),
}

impl Kind {
    /// Parses `text` as Go's flag package would.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Bool => go_values::bool(text).map(Value::Bool),
            Self::Int => go_values::int(text).map(Value::Int),
            Self::Uint => go_values::uint(text).map(Value::Uint),
            Self::Duration => go_values::duration(text).map(Value::Duration),
            Self::Text | Self::List => Ok(Value::Text(text.to_owned())),
            Self::Choice(choices) if choices.contains(&text) => Ok(Value::Text(text.to_owned())),
            Self::Choice(choices) => Err(format!("must be one of: {}", choices.join(", "))),
        }
    }

    /// What stands for a value on the help page.
    #[must_use]
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Bool => "",
            Self::Int | Self::Uint => " N",
            Self::Duration => " DURATION",
            Self::Text => " TEXT",
            Self::List => " A,B,...",
            Self::Choice(_) => " CHOICE",
        }
    }
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub group: Group,
    pub name: &'static str,
    pub kind: Kind,
    /// In the flag's own notation; the empty string also stands for "nothing".
    pub default: &'static str,
    pub status: Status,
    pub help: &'static str,
}

impl Flag {
    const fn new(
        group: Group,
        name: &'static str,
        kind: Kind,
        default: &'static str,
        status: Status,
        help: &'static str,
    ) -> Self {
        Self { group, name, kind, default, status, help }
    }

    /// The environment variable of this flag: `ETCD_...`, or `QUORATE_...` for our own.
    #[must_use]
    pub fn variable(&self) -> String {
        let prefix = if self.group == Group::Quorate { "QUORATE_" } else { "ETCD_" };
        format!("{prefix}{}", self.name.to_uppercase().replace(['-', '.'], "_"))
    }

    /// The default, parsed.
    ///
    /// # Panics
    /// Never: a test parses every default of the table.
    #[must_use]
    pub fn default_value(&self) -> Value {
        match (self.kind, self.default) {
            (Kind::Choice(_), "") => Value::Text(String::new()),
            (kind, default) => kind.parse(default).expect("a default of the table parses"),
        }
    }
}

/// Finds a flag by name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}
