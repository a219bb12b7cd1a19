//! A log: one line an event, as JSON or as text, to the outputs that it is given.
//!
//! Nothing here is global. A server's threads log to where the thread that started it did, so [`dispatch`] and
//! `tracing::dispatcher::with_default` give a server a log of its own; a process may install one for all of it.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::log_file::LogFile;
pub use crate::log_file::{Rotation, RotationError};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Console,
}

/// What is logged, how, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub level: LevelFilter,
    pub format: Format,
    /// `default`, `stderr`, `stdout`, or the path of a file that is appended to.
    pub outputs: Vec<String>,
    /// Of the one output that is a file.
    pub rotation: Option<Rotation>,
}

/// An output that can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log-outputs: cannot open {path}: {source}")]
    Output { path: PathBuf, source: io::Error },
}

/// A log that is not installed anywhere yet.
pub fn dispatch(settings: &Settings) -> Result<Dispatch, LogError> {
    let outputs = Outputs::open(&settings.outputs, settings.rotation)?;
    let layer = tracing_subscriber::fmt::layer().event_format(Lines(settings.format)).with_writer(outputs);
    // Libraries speak up from warnings on; their details are not ours to explain.
    let filter = Targets::new()
        .with_default(settings.level.min(LevelFilter::WARN))
        .with_target("quorate", settings.level);
    Ok(Dispatch::new(tracing_subscriber::registry().with(filter).with(layer)))
}

/// All outputs of the log; a line goes to each.
#[derive(Clone)]
struct Outputs(Arc<Mutex<Vec<Output>>>);

enum Output {
    Stderr,
    Stdout,
    File(LogFile),
}

impl Outputs {
    fn open(names: &[String], rotation: Option<Rotation>) -> Result<Self, LogError> {
        let mut outputs = Vec::new();
        for name in names {
            outputs.push(match name.as_str() {
                "default" | "stderr" => Output::Stderr,
                "stdout" => Output::Stdout,
                path => {
                    let file = LogFile::open(path.as_ref(), rotation);
                    Output::File(file.map_err(|source| LogError::Output { path: path.into(), source })?)
                }
            });
        }
        Ok(Self(Arc::new(Mutex::new(outputs))))
    }
}

impl Write for &Outputs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for output in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            // A log that can't be written must not stop the member; the other outputs get the line all the same.
            let _ = match output {
                Output::Stderr => io::stderr().write_all(line),
                Output::Stdout => io::stdout().write_all(line),
                Output::File(file) => file.write_line(line),
            };
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

struct Lines(Format);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let target = event.metadata().target();
        match self.0 {
            Format::Json => {
                let head =
                    [("level", level), ("ts", time), ("logger", target.to_owned()), ("msg", fields.message)];
                let mut line = Map::new();
                line.extend(head.map(|(name, value)| (name.to_owned(), Value::String(value))));
                line.extend(fields.others.into_iter().filter(|(name, _)| !HEAD.contains(&name.as_str())));
                writeln!(out, "{}", Value::Object(line))
            }
            Format::Console => {
                write!(out, "{time} {level:<5} {target}: {}", fields.message)?;
                for (name, value) in &fields.others {
                    write!(out, " {name}={value}")?;
                }
                writeln!(out)
            }
        }
    }
}

/// Names at the head of a line, which no field may take.
const HEAD: [&str; 4] = ["level", "ts", "logger", "msg"];

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.others.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::String(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(format: Format) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let outputs = Outputs::open(&[path.display().to_string()], None).expect("opens");
        let layer = tracing_subscriber::fmt::layer().event_format(Lines(format)).with_writer(outputs);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(target: "quorate_test", size_bytes = 7_u64, path = %"/a\"b", msg = "not the message", "all is {}", "well");
        });
        std::fs::read_to_string(path).expect("readable")
    }

    #[test]
    fn a_json_line_parses_and_keeps_its_head() {
        let line: Value = serde_json::from_str(&logged(Format::Json)).expect("one JSON object");
        assert_eq!(line["level"], "warn");
        assert_eq!(line["msg"], "all is well");
        assert_eq!(line["logger"], "quorate_test");
        assert_eq!(line["size_bytes"], 7);
        assert_eq!(line["path"], "/a\"b");
        assert!(line["ts"].as_str().is_some_and(|time| time.ends_with('Z')));
    }

    #[test]
    fn a_console_line_is_one_line() {
        let line = logged(Format::Console);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.contains("warn  quorate_test: all is well"), "{line}");
        assert!(line.contains("size_bytes=7"), "{line}");
    }

    #[test]
    fn an_output_that_cannot_be_opened_is_named() {
        let error =
            Outputs::open(&["/no/such/folder/log".to_owned()], None).err().expect("refused").to_string();
        assert!(error.starts_with("log-outputs: cannot open /no/such/folder/log: "), "{error}");
    }
}
