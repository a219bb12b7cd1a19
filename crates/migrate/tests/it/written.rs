//! Writing what an etcd writes: protobuf fields, goraft's log, frames of a write-ahead log.

use std::path::{Path, PathBuf};

pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of a message: a number, or bytes.
pub enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

pub fn message(fields: &[(u64, Field<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, field) in fields {
        match field {
            Field::Number(number) => {
                varint(&mut out, tag << 3);
                varint(&mut out, *number);
            }
            Field::Bytes(bytes) => {
                varint(&mut out, tag << 3 | 2);
                varint(&mut out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
    }
    out
}

/// An entry of goraft's log.
pub fn goraft_entry(index: u64, term: u64, name: &str, command: &str) -> Vec<u8> {
    let data = message(&[
        (1, Field::Number(index)),
        (2, Field::Number(term)),
        (3, Field::Bytes(name.as_bytes())),
        (4, Field::Bytes(command.as_bytes())),
    ]);
    [format!("{:8x}\n", data.len()).as_bytes(), &data].concat()
}

/// A store of nodes that are given as JSON.
pub fn store_json(children: &str, index: u64) -> String {
    format!(
        "{{\"Root\":{},\"WatcherHub\":{{\"EventHistory\":null}},\"CurrentIndex\":{index},\"Stats\":{{}},\
         \"CurrentVersion\":2}}",
        node_json(0, 0, "0001-01-01T00:00:00Z", "", &format!("{{{children}}}"))
    )
}

pub fn node_json(created: u64, modified: u64, expires: &str, value: &str, children: &str) -> String {
    format!(
        "{{\"Path\":\"-\",\"CreatedIndex\":{created},\"ModifiedIndex\":{modified},\"ExpireTime\":\"{expires}\",\
         \"ACL\":\"\",\"Value\":{value:?},\"Children\":{children}}}"
    )
}

pub fn file_json(created: u64, modified: u64, value: &str) -> String {
    node_json(created, modified, "0001-01-01T00:00:00Z", value, "null")
}

/// Files of a write-ahead log, framed and chained.
pub struct Wal {
    folder: PathBuf,
    crc: u32,
    files: u64,
    pub file: Vec<u8>,
    name: String,
}

impl Wal {
    pub fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("made");
        let mut wal =
            Self { folder: folder.to_owned(), crc: 0, files: 0, file: Vec::new(), name: String::new() };
        wal.begin_file(0);
        wal
    }

    pub fn begin_file(&mut self, index: u64) {
        self.end_file(0);
        self.name = format!("{:016x}-{index:016x}.wal", self.files);
        self.files += 1;
        self.record(4, None);
        self.record(1, Some(&message(&[(1, Field::Number(7)), (2, Field::Number(8))])));
    }

    /// Writes the file as it is, with so many unused bytes behind.
    pub fn end_file(&mut self, unused: usize) {
        if !self.name.is_empty() {
            self.file.resize(self.file.len() + unused, 0);
            std::fs::write(self.folder.join(&self.name), &self.file).expect("written");
            self.file.clear();
        }
    }

    pub fn record(&mut self, kind: u64, data: Option<&[u8]>) {
        let mut fields = vec![(1, Field::Number(kind))];
        if let Some(data) = data {
            self.crc = crc32c::crc32c_append(self.crc, data);
        }
        fields.push((2, Field::Number(u64::from(self.crc))));
        if let Some(data) = data {
            fields.push((3, Field::Bytes(data)));
        }
        let record = message(&fields);
        let padding = (8 - record.len() % 8) % 8;
        let mut length = record.len() as u64;
        if padding > 0 {
            length |= (0x80 | padding as u64) << 56;
        }
        self.file.extend_from_slice(&length.to_le_bytes());
        self.file.extend_from_slice(&record);
        self.file.resize(self.file.len() + padding, 0);
    }

    pub fn entry(&mut self, index: u64, term: u64, kind: u64, data: &[u8]) {
        let entry = message(&[
            (1, Field::Number(kind)),
            (2, Field::Number(term)),
            (3, Field::Number(index)),
            (4, Field::Bytes(data)),
        ]);
        self.record(2, Some(&entry));
    }

    pub fn state(&mut self, term: u64, commit: u64) {
        self.record(3, Some(&message(&[(1, Field::Number(term)), (3, Field::Number(commit))])));
    }
}

/// A request of the v2 API.
#[derive(Clone, Copy, Default)]
pub struct Ask<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub value: &'a str,
    pub dir: bool,
    pub previous_value: &'a str,
    pub previous_index: u64,
    pub previous_exist: Option<bool>,
    pub expiration: u64,
    pub recursive: bool,
    pub time: u64,
    pub refresh: bool,
}

impl Ask<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let mut fields = vec![
            (1, Field::Number(77)),
            (2, Field::Bytes(self.method.as_bytes())),
            (3, Field::Bytes(self.path.as_bytes())),
            (4, Field::Bytes(self.value.as_bytes())),
            (5, Field::Number(u64::from(self.dir))),
            (6, Field::Bytes(self.previous_value.as_bytes())),
            (7, Field::Number(self.previous_index)),
        ];
        if let Some(exist) = self.previous_exist {
            fields.push((8, Field::Number(u64::from(exist))));
        }
        fields.push((9, Field::Number(self.expiration)));
        fields.push((12, Field::Number(u64::from(self.recursive))));
        fields.push((15, Field::Number(self.time)));
        if self.refresh {
            fields.push((17, Field::Number(1)));
        }
        message(&fields)
    }
}
