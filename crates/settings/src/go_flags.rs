//! Reads a command line in the syntax of Go's `flag` package.
//!
//! `-x` and `--x` are the same; a value follows after `=` or as the next argument; a boolean stands alone or has
//! `=value`; the last of repeated flags wins; reading stops at the first argument that is no flag, and at `--`.

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
