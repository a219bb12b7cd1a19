//! Folders as an etcd leaves them, written here from the formats' own description, and read back.

mod etcd04;
mod etcd2;
mod written;

use std::path::Path;

use quorate_migrate::{Error, Fault, Node, Source, read};

fn node(path: &str, value: Option<&str>, created: u64, modified: u64) -> Node {
    Node {
        path: path.into(),
        value: value.map(|value| value.as_bytes().to_vec()),
        created,
        modified,
        expires: None,
    }
}

fn good(folder: &Path) -> Source {
    read(folder, None).expect("readable")
}

/// File name, offset and fault of a damaged folder.
fn damage(folder: &Path) -> (String, u64, Fault) {
    match read(folder, None) {
        Err(Error::Damaged { file, offset, fault }) => {
            (file.file_name().expect("a name").to_string_lossy().into_owned(), offset, fault)
        }
        other => panic!("not damaged: {other:?}"),
    }
}

#[test]
fn a_folder_of_nobody_or_of_quorate_is_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(matches!(read(folder.path(), None), Err(Error::NoData { .. })));
    std::fs::write(folder.path().join("protocol"), "protocol etcd2\n").expect("written");
    assert!(matches!(read(folder.path(), None), Err(Error::OwnFolder { .. })));
}
