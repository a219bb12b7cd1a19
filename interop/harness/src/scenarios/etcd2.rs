//! What etcd 0.4's users type, against processes of ours.

use std::path::Path;
use std::process::{Command, Stdio};

use quorate_interop::free_port;

use crate::tools::{self, Tools};

/// Whether this machine can run shell scripts that use curl.
pub(super) fn has_curl(_: &Tools) -> bool {
    ["bash", "curl"].into_iter().all(|program| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// The clustering guide, line by line.
pub(super) fn clustering_guide(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    /// Three machines, and one that moves.
    const PORTS: usize = 8;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../curl/etcd2-clustering.sh");
    let mut command = Command::new("bash");
    command.arg(script).arg(tools.binary.canonicalize()?).arg(scratch);
    command.args((0..PORTS).map(|_| free_port().to_string()));
    let answers = tools::output(&mut command)?;
    println!("         {}", answers.lines().last().unwrap_or_default());
    Ok(())
}
