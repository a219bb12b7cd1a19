//! A folder of files as one input: for each file the name's length (one byte), the name, the file's length, the length
//! of what follows (four bytes each, little-endian), and the file's first bytes; the rest of it is zeros.

use quorate_disk::{Disk, MemoryDisk, Mode};

/// A file is at most this long, whatever the input says: what is looked for is memory that the code takes, not this.
const FILE_BYTES_MAX: usize = 64 * 1024;
const FILES_MAX: usize = 16;

/// A file's name and bytes.
pub type File = (String, Vec<u8>);

/// Reads a folder; `None` where the bytes are none.
pub fn read(mut input: &[u8]) -> Option<Vec<File>> {
    let mut files = Vec::new();
    while !input.is_empty() {
        let (name_len, rest) = input.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*name_len))?;
        let (lengths, rest) = rest.split_at_checked(8)?;
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| lengths[at + byte])) as usize;
        let (len, stored) = (number(0), number(4));
        let (stored, rest) = rest.split_at_checked(stored)?;
        if len > FILE_BYTES_MAX || stored.len() > len || files.len() == FILES_MAX {
            return None;
        }
        let mut bytes = stored.to_vec();
        bytes.resize(len, 0);
        files.push((std::str::from_utf8(name).ok()?.to_owned(), bytes));
        input = rest;
    }
    Some(files)
}

/// The files as bytes that [`read`] reads.
pub fn write(files: &[File]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        let stored = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        out.push(u8::try_from(name.len()).expect("a short name"));
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&(stored as u32).to_le_bytes());
        out.extend_from_slice(&bytes[..stored]);
    }
    out
}

/// A disk that holds the files.
pub fn on_disk(files: &[File]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for (name, bytes) in files {
        let file = disk.open(name, Mode { create: true, ..Mode::default() }).expect("memory takes any name");
        file.write_at(bytes, 0).expect("memory takes any bytes");
    }
    disk
}

/// The files of a folder of the disk.
pub fn of_disk(disk: &MemoryDisk, folder: &str) -> Vec<File> {
    let listed = disk.list(folder).expect("a folder in memory");
    let read = |path: &str, len: u64| {
        let file = disk.open(path, Mode { read_only: true, ..Mode::default() }).expect("a listed file");
        let mut bytes = vec![0; len as usize];
        file.read_at(&mut bytes, 0).expect("a file in memory");
        bytes
    };
    listed.into_iter().map(|listed| (listed.path.clone(), read(&listed.path, listed.len))).collect()
}
