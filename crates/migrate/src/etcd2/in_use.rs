//! A folder is read only while no etcd runs on it: a running one locks the files of its log.

use std::fs::{File, TryLockError};
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use super::wal::files;
use crate::error::Error;

/// An error where an etcd runs on this log.
pub(crate) fn check(wal: &Path) -> Result<(), Error> {
    for (_, _, path) in files(wal)? {
        let in_use = || Error::InUse { file: path.clone() };
        let file = File::open(&path).map_err(Error::io("opening", &path))?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use()),
            // A file system without locks has none that could be held.
            Err(TryLockError::Error(_)) => {}
        }
        // 3.x takes locks of the other kind; closing the file lets both go.
        if let Err(Errno::ACCESS | Errno::AGAIN) = fcntl_lock(&file, FlockOperation::NonBlockingLockShared) {
            return Err(in_use());
        }
    }
    Ok(())
}
