//! Flipped bits in the files of real members: mended, repaired, or a refusal with file and cure; never served.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use quorate_interop::{Cluster, wait_until};

use super::{binary, scratch};

const WAIT_MAX: Duration = Duration::from_secs(60);

/// Members that write a checkpoint every few entries.
fn members(folder: &Path, size: usize) -> Cluster {
    let mut cluster = Cluster::plan(binary(), folder, size, &["--snapshot-count=5"]).expect("a plan");
    cluster.start_all().expect("members");
    cluster
}

fn ctl(endpoint: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(binary());
    command.arg("ctl").args(arguments).env_clear().env("QUORATE_ENDPOINTS", endpoint);
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Writes one key three times, and enough others that checkpoints hold it.
fn fill(cluster: &Cluster) {
    for value in ["the-first-value", "the-second-value", "the-third-value"] {
        ctl(&cluster.endpoints(), &["put", "key", value]);
    }
    for n in 0..20 {
        ctl(&cluster.endpoints(), &["put", &format!("other/{n}"), "x"]);
    }
}

/// Files of a member's store whose names start so.
fn files(data_dir: &Path, start: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![data_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Flips a bit of the byte that `place` finds, in every file where it finds one; how many those are.
fn flip(files: &[PathBuf], place: impl Fn(&[u8]) -> Option<usize>) -> usize {
    let mut flipped = 0;
    for file in files {
        let mut bytes = std::fs::read(file).expect("readable");
        if let Some(at) = place(&bytes) {
            bytes[at] ^= 0x10;
            std::fs::write(file, bytes).expect("written");
            flipped += 1;
        }
    }
    flipped
}

fn place_of(text: &str) -> impl Fn(&[u8]) -> Option<usize> {
    move |bytes| bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

fn last_written(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte != 0)
}

#[test]
fn damaged_values_are_mended_from_the_other_members() {
    let (_guard, folder) = scratch();
    let mut cluster = members(&folder, 3);
    fill(&cluster);
    cluster.terminate().expect("all stop");
    let segments = files(&cluster.members[0].data_dir, "segment-");
    for value in ["the-first-value", "the-third-value"] {
        assert!(flip(&segments, place_of(value)) > 0, "{value} is in no segment");
    }
    cluster.start_all().expect("a damaged value keeps no member from starting");
    let endpoint = cluster.members[0].client.clone();
    assert_eq!(ctl(&endpoint, &["get", "key", "--print-value-only"]).trim(), "the-third-value");
    assert_eq!(ctl(&endpoint, &["get", "key", "--rev=2", "--print-value-only"]).trim(), "the-first-value");
    let mended = || cluster.members[0].metric("quorate_store_records_mended_total");
    assert_eq!(mended(), Some(2.0));
    assert_eq!(cluster.members[0].metric("quorate_store_records_lost_total"), Some(0.0));
}

#[test]
fn a_damaged_value_that_nobody_else_has_is_an_error_and_never_served() {
    let (_guard, folder) = scratch();
    let mut cluster = members(&folder, 1);
    fill(&cluster);
    cluster.terminate().expect("it stops");
    assert!(flip(&files(&cluster.members[0].data_dir, "segment-"), place_of("the-third-value")) > 0);
    cluster.start_all().expect("it starts");
    let mut command = Command::new(binary());
    command.args(["ctl", "get", "key"]).env_clear().env("QUORATE_ENDPOINTS", cluster.endpoints());
    let output = command.output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("segment") && said.contains("checksum"), "{said}");
    assert_eq!(ctl(&cluster.endpoints(), &["get", "other/3", "--print-value-only"]).trim(), "x");
    wait_until("the loss is counted", || {
        cluster.members[0].metric("quorate_store_records_lost_total").is_some_and(|lost| lost >= 1.0)
    })
    .expect("counted");
}

#[test]
fn a_damaged_manifest_is_repaired_from_its_copy_and_with_both_damaged_the_start_is_refused() {
    let (_guard, folder) = scratch();
    let mut cluster = members(&folder, 1);
    fill(&cluster);
    cluster.terminate().expect("it stops");
    let data_dir = cluster.members[0].data_dir.clone();
    let manifests = files(&data_dir, "manifest");
    assert_eq!(manifests.len(), 2, "{manifests:?}");
    assert_eq!(flip(&manifests[..1], |_| Some(60)), 1);
    cluster.start_all().expect("it repairs itself");
    let said = cluster.members[0].process().output();
    assert!(said.contains("its copy was sound"), "{said}");
    assert_eq!(ctl(&cluster.endpoints(), &["get", "key", "--print-value-only"]).trim(), "the-third-value");
    cluster.terminate().expect("it stops");
    assert_eq!(flip(&files(&data_dir, "manifest"), |_| Some(60)), 2);
    refused(&mut cluster, "manifest");
}

#[test]
fn a_damaged_footer_of_the_index_stops_the_start_with_file_offset_and_cure() {
    let (_guard, folder) = scratch();
    let mut cluster = members(&folder, 1);
    fill(&cluster);
    cluster.terminate().expect("it stops");
    let runs = files(&cluster.members[0].data_dir, "run-");
    assert!(flip(&runs[..1], last_written) > 0);
    refused(&mut cluster, "run-");
}

/// The member does not start, and names a file, an offset and what to do.
fn refused(cluster: &mut Cluster, file: &str) {
    let process = cluster.members[0].start().expect("started");
    let status = process.wait(WAIT_MAX).expect("it ends");
    let said = process.output();
    assert_eq!(status.code(), Some(1), "{said}");
    for part in [file, "offset", "--give-up-data"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    cluster.members[0].kill();
}
