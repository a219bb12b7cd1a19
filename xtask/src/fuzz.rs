//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer, built by the stable compiler.
//!
//! Invariant: all that is built or found lies under the target folder; `fuzz/corpus` is only read.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::command::{cargo, is_there, output, root, target};

/// What tells libFuzzer where a run went; the rest of it is C++, which the crate `libfuzzer-sys` builds with the machine's g++.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
];

/// `cargo xtask fuzz TARGET [options of libFuzzer]`; false where it found something.
pub fn fuzz(words: &[&str]) -> anyhow::Result<bool> {
    let names = targets(&root().join("fuzz/fuzz_targets"))?;
    let [name, options @ ..] = words else {
        anyhow::bail!("fuzz: which target? {}", names.join(", "));
    };
    let name = *name;
    anyhow::ensure!(
        names.iter().any(|known| known == name),
        "fuzz: {name:?} is none of {}",
        names.join(", ")
    );
    anyhow::ensure!(is_there("g++") || is_there("c++"), "fuzz: libFuzzer needs a C++ compiler (g++)");
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let folder = target().join("fuzz");
    let mut build = cargo(&["build", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml"]);
    // With a target named, what runs at build time is not instrumented.
    build.args(["--target", host, "--bin", name, "--target-dir"]).arg(&folder);
    build.env("RUSTFLAGS", COVERAGE.join(" "));
    anyhow::ensure!(build.stdin(Stdio::null()).status()?.success(), "the build failed");
    let (found, artifacts) = (folder.join("corpus").join(name), folder.join("artifacts").join(name));
    for made in [&found, &artifacts] {
        std::fs::create_dir_all(made).with_context(|| made.display().to_string())?;
    }
    let status = Command::new(folder.join(host).join("release").join(name))
        .current_dir(root())
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(options)
        .arg(&found)
        .arg(root().join("fuzz/corpus").join(name))
        .stdin(Stdio::null())
        .status()
        .context("cannot run the fuzzer")?;
    Ok(status.success())
}

fn targets(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}
