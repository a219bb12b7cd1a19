//! The binary from outside: real processes, started, stopped, misused.

mod bad_input;
mod balsa;
mod command_line;
mod ctl;
mod damaged_disk;
mod etcd2;
mod full_disk;
mod lifecycle;
mod many_clients;
mod migrate;
mod snet;
mod standbys;
mod tls;
mod wall_clock;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary under test.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_quorate"))
}

/// Runs `quorate` to its end.
fn quorate(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(binary())
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the binary runs")
}

/// A folder under the target folder, removed with the guard.
fn scratch() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = folder.path().to_owned();
    (folder, path)
}
