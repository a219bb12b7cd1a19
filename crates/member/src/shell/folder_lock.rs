//! One process at a time may use a data folder.

use super::start::StartError;

/// Keeps a second process out of a data folder, for as long as it lives.
pub struct FolderLock {
    _file: std::fs::File,
}

impl FolderLock {
    pub fn take(folder: &std::path::Path) -> Result<Self, StartError> {
        let path = folder.join("lock");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| StartError::Io { what: path.display().to_string(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse),
            Err(std::fs::TryLockError::Error(source)) => {
                Err(StartError::Io { what: path.display().to_string(), source })
            }
        }
    }
}
