//! The file `protocol` of a data folder: which system's ways the member in it follows, and what its next start has to
//! know beside its data. Text, one `key value` a line:
//!
//! ```text
//! protocol etcd2
//! peers http://127.0.0.1:7001,http://127.0.0.1:7003
//! ```
//!
//! `peers` are the URLs at which the other members were last known, to be asked about what happened in the meantime.

use std::io;
use std::path::{Path, PathBuf};

pub(super) const FILE: &str = "protocol";
const FILE_NEW: &str = "protocol.new";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// `etcd2` for this module's machines.
    pub protocol: String,
    /// Where the other members were last known.
    pub peers: Vec<String>,
}

/// A marker that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} can't be understood; it says which system the folder is of")]
    Malformed { path: PathBuf },
}

impl Marker {
    /// A member that follows this system's ways.
    #[must_use]
    pub fn new(protocol: impl Into<String>) -> Self {
        Self { protocol: protocol.into(), peers: Vec::new() }
    }

    /// The marker of a data folder; `None` where there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>, MarkerError> {
        let path = folder.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map(Some).ok_or(MarkerError::Malformed { path }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(source) => Err(MarkerError::Io { path, source }),
        }
    }

    /// Writes the marker, durably and as a whole. Makes the folder where it lacks.
    pub fn write(&self, folder: &Path) -> Result<(), MarkerError> {
        let path = folder.join(FILE);
        let written = (|| {
            std::fs::create_dir_all(folder)?;
            let beside = folder.join(FILE_NEW);
            let mut file = std::fs::File::create(&beside)?;
            io::Write::write_all(&mut file, self.text().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)?;
            std::fs::File::open(folder)?.sync_all()
        })();
        written.map_err(|source| MarkerError::Io { path, source })
    }

    fn text(&self) -> String {
        format!("protocol {}\npeers {}\n", self.protocol, self.peers.join(","))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let protocol = lines.next()?.strip_prefix("protocol ")?;
        if protocol.is_empty() || !protocol.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let mut marker = Self::new(protocol);
        for line in lines {
            let urls = line.strip_prefix("peers")?.trim();
            marker.peers = urls.split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect();
        }
        Some(marker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("machines/machine1");
        assert_eq!(Marker::read(&inner).expect("readable"), None);
        for peers in [Vec::new(), vec!["http://a:1".to_owned(), "http://b:2".to_owned()]] {
            let marker = Marker { peers, ..Marker::new("etcd2") };
            marker.write(&inner).expect("written");
            assert_eq!(Marker::read(&inner).expect("readable"), Some(marker));
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in ["", "etcd2\n", "protocol \n", "protocol etcd2\nmore\n"] {
            std::fs::write(folder.path().join(FILE), text).expect("written");
            assert!(matches!(Marker::read(folder.path()), Err(MarkerError::Malformed { .. })), "{text:?}");
        }
    }
}
