//! What commands print, and where to.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::bail;
use clap::{Args, ValueEnum};
use quorate::client::KeyValue;
use serde_json::Value;

use super::connection::variable;
use super::table::Table;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines, as etcdctl prints them.
    Simple,
    /// One JSON value for each answer, with etcdctl's names.
    Json,
    /// A table, where there is something to put in rows.
    Table,
}

/// The options for it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Form {
    /// How to print what comes back [default: simple].
    #[arg(short = 'w', long, visible_alias = "write-out", global = true, value_enum, value_name = "FORM")]
    output: Option<Output>,
    /// Print the bytes of keys and values as \xNN; for --output simple.
    #[arg(long, global = true)]
    hex: bool,
}

impl Form {
    /// A printer on standard output, for the options and the environment.
    pub fn printer(
        &self,
        lookup: &dyn Fn(&str) -> Option<String>,
        default: Output,
    ) -> anyhow::Result<Printer> {
        let output = match (self.output, variable(lookup, "OUTPUT", "WRITE_OUT")) {
            (Some(output), _) => output,
            (None, None) => default,
            (None, Some((name, text))) => match Output::from_str(&text, false) {
                Ok(output) => output,
                Err(_) => bail!("{name}={text}: must be one of simple, json, table"),
            },
        };
        if self.hex && output != Output::Simple {
            bail!("--hex is for --output simple");
        }
        Ok(Printer { output, hex: self.hex })
    }
}

/// Writes to standard output; unlike `print!` it does not panic where the reader has gone.
pub fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Prints to standard output. Its errors are those of writing there.
#[derive(Debug)]
pub struct Printer {
    output: Output,
    hex: bool,
}

impl Printer {
    #[must_use]
    pub fn output(&self) -> Output {
        self.output
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        write(bytes)
    }

    /// Writes a line.
    pub fn line(&mut self, line: impl AsRef<str>) -> anyhow::Result<()> {
        self.bytes(format!("{}\n", line.as_ref()).as_bytes())
    }

    /// Writes a JSON value on a line of its own.
    pub fn json(&mut self, value: &Value) -> anyhow::Result<()> {
        self.line(value.to_string())
    }

    /// Writes a table.
    pub fn table(&mut self, table: &Table) -> anyhow::Result<()> {
        self.bytes(table.to_string().as_bytes())
    }

    /// Writes a line for people, or its JSON.
    pub fn either(&mut self, line: impl AsRef<str>, json: &Value) -> anyhow::Result<()> {
        if self.output == Output::Json { self.json(json) } else { self.line(line) }
    }

    /// A key or a value as it is shown, and the end of its line.
    fn field(&self, bytes: &[u8], into: &mut Vec<u8>) {
        if self.hex {
            let mut text = String::with_capacity(bytes.len() * 4);
            for byte in bytes {
                let _ = write!(text, "\\x{byte:02x}");
            }
            into.extend_from_slice(text.as_bytes());
        } else {
            into.extend_from_slice(bytes);
        }
        into.push(b'\n');
    }

    /// Writes a key's line and its value's.
    pub fn key_and_value(&mut self, kv: &KeyValue) -> anyhow::Result<()> {
        let mut text = Vec::with_capacity(kv.key.len() + kv.value.len() + 2);
        self.field(&kv.key, &mut text);
        self.field(&kv.value, &mut text);
        self.bytes(&text)
    }

    /// Writes the line of a value.
    pub fn value(&mut self, kv: &KeyValue) -> anyhow::Result<()> {
        let mut text = Vec::with_capacity(kv.value.len() + 1);
        self.field(&kv.value, &mut text);
        self.bytes(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_comes_from_the_option_then_from_the_environment() {
        let lookup = |name: &str| (name == "ETCDCTL_WRITE_OUT").then(|| "json".to_owned());
        let form = Form { output: None, hex: false };
        assert_eq!(form.printer(&lookup, Output::Simple).expect("fine").output(), Output::Json);
        let form = Form { output: Some(Output::Table), hex: false };
        assert_eq!(form.printer(&lookup, Output::Simple).expect("fine").output(), Output::Table);
        let form = Form { output: None, hex: true };
        assert!(form.printer(&lookup, Output::Simple).is_err(), "hex and JSON");
        assert_eq!(form.printer(&|_| None, Output::Simple).expect("fine").output(), Output::Simple);
    }

    #[test]
    fn bytes_are_shown_as_they_are_or_in_hex() {
        let shown = |hex| {
            let mut text = Vec::new();
            Printer { output: Output::Simple, hex }.field(b"a\xff", &mut text);
            text
        };
        assert_eq!(shown(false), b"a\xff\n");
        assert_eq!(shown(true), b"\\x61\\xff\n");
    }
}
