//! Text for standard output that ends a command.
//!
//! Whoever reads may stop in the middle, as `head` does: that is no failure, and nothing panics.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

/// Prints `text` as it is.
pub fn text(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("quorate: can't write to standard output: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints `line` and a line's end.
pub fn line(line: &str) -> ExitCode {
    text(&format!("{line}\n"))
}
