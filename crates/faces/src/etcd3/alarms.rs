//! Which alarms are raised and how much data is live, looked up seldom enough that it costs a call nothing.
//!
//! Invariant: an alarm that this face was told to raise or clear holds for the next call; one raised elsewhere after
//! at most [`LOOK_EVERY`].

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quorate_member::Handle;
use quorate_models::keys;

use super::errors::{CORRUPT, NO_SPACE, Status};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The numbers that alarms have in the log.
pub const ALARM_NO_SPACE: u8 = 1;
pub const ALARM_CORRUPT: u8 = 2;

#[derive(Default)]
pub struct Alarms {
    known: Mutex<Known>,
}

#[derive(Clone, Copy, Default)]
struct Known {
    looked: Option<Instant>,
    no_space: bool,
    corrupt: bool,
    live_bytes: u64,
}

impl Alarms {
    /// The next call looks.
    pub fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).looked = None;
    }

    fn known(&self, handle: &Handle) -> Known {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            let tables = handle.store().read();
            let raised = keys::alarms(&tables);
            let (_, live_bytes) = keys::data_bytes(&tables);
            drop(tables);
            let any = |kind| raised.iter().any(|(_, alarm)| *alarm == kind);
            *known = Known {
                looked: Some(Instant::now()),
                no_space: any(ALARM_NO_SPACE),
                corrupt: any(ALARM_CORRUPT),
                live_bytes,
            };
        }
        *known
    }

    /// Bytes of the data that something still needs, as of the last look.
    pub fn live_bytes(&self, handle: &Handle) -> u64 {
        self.known(handle).live_bytes
    }

    /// Refuses everything about keys while members disagree.
    pub fn check(&self, handle: &Handle) -> Result<(), Status> {
        if self.known(handle).corrupt { Err(CORRUPT) } else { Ok(()) }
    }

    /// Refuses what takes space while there is none.
    pub fn check_space(&self, handle: &Handle) -> Result<(), Status> {
        let known = self.known(handle);
        match known {
            Known { corrupt: true, .. } => Err(CORRUPT),
            Known { no_space: true, .. } => Err(NO_SPACE),
            _ => Ok(()),
        }
    }
}
