//! A value made from files, made again when they change.
//!
//! Invariant: a value that was made once is replaced only by one that could be made as well.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::TlsError;

/// Between two looks at the files.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What tells a changed file from an unchanged one. `None`: it is not there.
type Stamp = Option<(SystemTime, u64, u64)>;

type Make<T> = Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>;

pub(crate) struct Reloading<T> {
    files: Vec<PathBuf>,
    make: Make<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    current: Arc<T>,
    /// The files as of just before `current` was made.
    stamps: Vec<Stamp>,
    looked: Instant,
    /// What was logged about the files as they are now; the same is not logged twice.
    complained: Option<TlsError>,
}

impl<T> Reloading<T> {
    pub(crate) fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        // Stamps before contents: a change in between is seen at the next look.
        let stamps = stamps(&files);
        let current = Arc::new(make()?);
        let state = State { current, stamps, looked: Instant::now(), complained: None };
        Ok(Self { files, make: Box::new(make), state: Mutex::new(state) })
    }

    /// The value as of the files' last good state, at most [`LOOK_INTERVAL`] old. It may read the files.
    pub(crate) fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.files.is_empty() || state.looked.elapsed() < LOOK_INTERVAL {
            return Arc::clone(&state.current);
        }
        state.looked = Instant::now();
        let found = stamps(&self.files);
        if found == state.stamps {
            return Arc::clone(&state.current);
        }
        match (self.make)() {
            Ok(new) => {
                tracing::info!(files = ?self.files, "certificates were read again");
                state.current = Arc::new(new);
                state.stamps = found;
                state.complained = None;
            }
            // Tried again at the next look: what failed may be the reading, not the file.
            Err(error) => {
                if state.complained.as_ref() != Some(&error) {
                    tracing::error!(%error, "changed certificates can't be used; those read before stay in use");
                    state.complained = Some(error);
                }
            }
        }
        Arc::clone(&state.current)
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    files
        .iter()
        .map(|file| {
            let meta = std::fs::metadata(file).ok()?;
            #[cfg(unix)]
            let inode = std::os::unix::fs::MetadataExt::ino(&meta);
            #[cfg(not(unix))]
            let inode = 0;
            Some((meta.modified().ok()?, meta.len(), inode))
        })
        .collect()
}
