//! `cargo xtask bench`: builds what is compared, fetches Debian's etcd, and hands over to `quorate-bench`.
//!
//! Invariant: all that is fetched or built lies under the target folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::command::{cargo, is_there, output, root, target};

/// `cargo xtask bench compare [--profile PROFILE] [options of quorate-bench compare]`; whether it succeeded.
pub fn bench(words: &[&str]) -> anyhow::Result<bool> {
    let ["compare", options @ ..] = words else {
        anyhow::bail!("bench: the one thing to do is 'compare', not {:?}", words.first().unwrap_or(&""));
    };
    let (profile, options) = match options {
        ["--profile", profile, rest @ ..] => (*profile, rest),
        all => ("release", all),
    };
    let mut build = cargo(&["build", "--profile", profile, "-pquorate-cli", "-pquorate-bench"]);
    anyhow::ensure!(build.stdin(Stdio::null()).status()?.success(), "the build failed");
    let binaries = target().join(if profile == "dev" { "debug" } else { profile });
    let folder = target().join("bench");
    let etcd = debian_etcd(&folder)?;
    let status = Command::new(binaries.join("quorate-bench"))
        .current_dir(root())
        .arg("compare")
        .arg("--quorate")
        .arg(binaries.join("quorate"))
        .arg("--etcd")
        .arg(etcd)
        .arg("--folder")
        .arg(&folder)
        .args(options)
        .stdin(Stdio::null())
        .status()
        .context("cannot run quorate-bench")?;
    Ok(status.success())
}

fn debian_etcd(folder: &Path) -> anyhow::Result<PathBuf> {
    let unpacked = folder.join("etcd");
    let program = unpacked.join("usr/bin/etcd");
    if program.is_file() {
        return Ok(program);
    }
    for tool in ["apt-get", "dpkg-deb"] {
        anyhow::ensure!(
            is_there(tool),
            "no {tool}: run 'quorate-bench compare' with --etcd and an etcd of your own"
        );
    }
    let packages = folder.join("packages");
    std::fs::create_dir_all(&packages)?;
    std::fs::create_dir_all(&unpacked)?;
    output(Command::new("apt-get").current_dir(&packages).args(["download", "etcd-server"]))
        .context("etcd-server cannot be fetched; 'apt-get update' may be needed")?;
    let package = std::fs::read_dir(&packages)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    output(Command::new("dpkg-deb").arg("-x").arg(package).arg(&unpacked))?;
    Ok(program)
}
