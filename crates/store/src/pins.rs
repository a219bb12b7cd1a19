//! Pins: as long as one lives, no file is unlinked that its holder could have seen.
//!
//! Each file that nobody new can see any more gets the current epoch and moves the epoch on. It may be unlinked once
//! every pin that is left was taken later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
struct Held {
    epoch: u64,
    /// How many pins were taken at an epoch.
    pins: BTreeMap<u64, u64>,
}

#[derive(Default)]
pub(crate) struct Pins(Mutex<Held>);

impl Pins {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pin(self: &Arc<Self>) -> Pin {
        let mut held = self.held();
        let epoch = held.epoch;
        *held.pins.entry(epoch).or_default() += 1;
        Pin { pins: self.clone(), epoch }
    }

    /// The epoch of a file that has just become invisible to everyone who does not hold a pin yet.
    pub(crate) fn obsolete(&self) -> u64 {
        let mut held = self.held();
        let epoch = held.epoch;
        held.epoch += 1;
        epoch
    }

    /// May what became obsolete at `epoch` be unlinked?
    pub(crate) fn free(&self, epoch: u64) -> bool {
        self.held().pins.first_key_value().is_none_or(|(&oldest, _)| oldest > epoch)
    }

    pub(crate) fn is_unpinned(&self) -> bool {
        self.held().pins.is_empty()
    }
}

/// While it lives, every location read since it was taken can be loaded. Bodies that it keeps cost disk space: hold
/// it for a bounded time.
pub struct Pin {
    pins: Arc<Pins>,
    epoch: u64,
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pin").field(&self.epoch).finish()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut held = self.pins.held();
        let count = held.pins.get_mut(&self.epoch).expect("counted when it was taken");
        *count -= 1;
        if *count == 0 {
            held.pins.remove(&self.epoch);
        }
    }
}
