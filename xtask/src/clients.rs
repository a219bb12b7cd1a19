//! Third-party clients, fetched from the registries that this machine's own tools are set up for.
//!
//! Invariants: everything lands under the target folder; a client is missing only where its toolchain is. Where the
//! toolchain is there, a client that can't be had is an error in CI, and elsewhere too: a skipped test must be visible.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::command::{is_there, output, root, run};

pub enum Client {
    At(PathBuf),
    /// The machine lacks what the client needs.
    NoToolchain(String),
}

/// Debian's etcdctl.
pub fn etcdctl(scratch: &Path) -> anyhow::Result<Client> {
    let folder = scratch.join("etcdctl");
    let program = folder.join("usr/bin/etcdctl");
    if program.is_file() {
        return Ok(Client::At(program));
    }
    if !is_there("apt-get") || !is_there("dpkg-deb") {
        return Ok(Client::NoToolchain("etcdctl: this is no Debian (no apt-get)".to_owned()));
    }
    let packages = scratch.join("packages");
    std::fs::create_dir_all(&packages)?;
    std::fs::create_dir_all(&folder)?;
    if download(&packages, &[]).is_err() {
        // The machine has no package lists: fetch them into a folder of our own.
        let private = private_lists(&scratch.join("apt"))?;
        run(Command::new("apt-get").args(&private).arg("update"))?;
        download(&packages, &private)?;
    }
    let package = std::fs::read_dir(&packages)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&folder))?;
    Ok(Client::At(program))
}

fn download(into: &Path, options: &[String]) -> anyhow::Result<()> {
    run(Command::new("apt-get").current_dir(into).args(options).args(["download", "etcd-client"]))
}

/// Options that keep apt's lists and caches in `folder`.
fn private_lists(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut options = Vec::new();
    for (option, name) in [("Dir::State::lists", "lists"), ("Dir::Cache", "cache")] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.join("partial"))?;
        std::fs::create_dir_all(path.join("archives/partial"))?;
        options.extend(["-o".to_owned(), format!("{option}={}", path.display())]);
    }
    Ok(options)
}

/// A Python interpreter with `etcd3` and the protobuf that it needs.
pub fn python(scratch: &Path) -> anyhow::Result<Client> {
    if !is_there("python3") {
        return Ok(Client::NoToolchain("python etcd3: no python3".to_owned()));
    }
    let folder = scratch.join("python");
    let interpreter = folder.join("bin/python3");
    let usable = |interpreter: &Path| output(Command::new(interpreter).args(["-c", "import etcd3"])).is_ok();
    if interpreter.exists() && usable(&interpreter) {
        return Ok(Client::At(interpreter));
    }
    if output(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_err() {
        return Ok(Client::NoToolchain("python etcd3: python3 has no venv".to_owned()));
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let requirements = root().join("interop/python/requirements.txt");
    run(Command::new(&interpreter).args(["-m", "pip", "install", "-q", "-r"]).arg(requirements))?;
    anyhow::ensure!(usable(&interpreter), "etcd3 was installed but can't be imported");
    Ok(Client::At(interpreter))
}

/// The program of `interop/go`, which uses etcd's own Go client.
pub fn go(scratch: &Path) -> anyhow::Result<Client> {
    if !is_there("go") {
        return Ok(Client::NoToolchain("go clientv3: no go".to_owned()));
    }
    let folder = scratch.join("go");
    let program = folder.join("client");
    let mut command = Command::new("go");
    command
        .current_dir(root().join("interop/go"))
        .env("GOPATH", folder.join("path"))
        .env("GOCACHE", folder.join("cache"))
        .env("GOFLAGS", "-mod=readonly -modcacherw")
        .env("GOTOOLCHAIN", "local")
        .args(["build", "-o"])
        .arg(&program)
        .arg(".");
    run(&mut command)?;
    Ok(Client::At(program))
}
