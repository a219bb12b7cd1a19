//! The world in which disks get full, and do not empty by themselves: clients fill them, then delete everything and
//! compact, and then put again, without a restart.
//!
//! Invariants: a disk that is full stays so until its own member frees something; once nothing is left to be deleted,
//! every member has space again, and puts are taken.

use quorate_ids::{LogIndex, Revision};
use quorate_models::keys::{Command, DeleteRange, RangeEnd};

use super::{Settings, World};
use crate::rng::Rng;
use crate::workload::Mix;

const MIB: u64 = 1 << 20;
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Filling,
    Emptying {
        /// At this index everything was deleted: whoever applied it needs no snapshot that is larger than that.
        empty_at: Option<LogIndex>,
    },
    /// And now puts must go on.
    Emptied,
}

pub(super) struct Filled {
    phase: Phase,
    puts_afterwards: u64,
}

impl Filled {
    pub fn new() -> Self {
        Self { phase: Phase::Filling, puts_afterwards: 0 }
    }

    pub fn puts_again(&self) -> bool {
        self.puts_afterwards > 0
    }
}

/// Small files, so that a few MiB are a disk.
pub(super) fn settings(rng: &mut Rng, drawn: Settings) -> Settings {
    Settings {
        checkpoint_entries: *rng.pick(&[60, 400, 4_000]),
        front_bytes_max: MIB,
        segment_bytes_max: *rng.pick(&[MIB as u32, 4 * MIB as u32]),
        log_retained_bytes: *rng.pick(&[0, 64 << 10, MIB as usize]),
        wal_segment_bytes: MIB,
        think_nanos: 5 * super::MILLI,
        ..drawn
    }
}

/// Many puts of large values, and nobody who compacts.
pub(super) fn mix(drawn: Mix) -> Mix {
    Mix { put: 60, delete: drawn.delete.min(1), compact: 0, keys: 200, value_bytes_max: 120_000, ..drawn }
}

/// What each disk holds: all about the same, or all but one more than is ever written.
pub(super) fn capacities(rng: &mut Rng, settings: &Settings, members: usize) -> Vec<u64> {
    let room = settings.reserve_bytes() + rng.between(8, 20) * MIB;
    let alone = (rng.one_in(3)).then(|| rng.below(members as u64) as usize);
    (0..members)
        .map(|member| match alone {
            Some(small) if small != member => u64::MAX,
            _ => room + rng.below(2 * MIB),
        })
        .collect()
}

impl World {
    pub(super) fn begin_emptying(&mut self) {
        if let Some(filled) = &mut self.filled {
            filled.phase = Phase::Emptying { empty_at: None };
        }
    }

    /// What a client asks for instead of its wish, while the disks are to be emptied.
    pub(super) fn wish_to_empty(&mut self) -> Option<Command> {
        let everything = Command::DeleteRange(DeleteRange {
            key: bytes::Bytes::from_static(b"\0"),
            end: RangeEnd::Unbounded,
            prev_kv: false,
        });
        let filled = self.filled.as_mut()?;
        let Phase::Emptying { empty_at } = &mut filled.phase else { return None };
        let reference = self.oracle.reference();
        let revision = reference.revision();
        // A member that is behind needs a snapshot beside what it has: it gets one while that is small.
        let committed = self.oracle.committed_index();
        *empty_at = reference.is_empty().then(|| empty_at.unwrap_or(committed));
        let index = *empty_at;
        let roomy = self.machines.iter().all(|machine| {
            let running = machine.running.as_ref().map(|running| &running.status);
            running
                .is_some_and(|status| !status.no_space && index.is_some_and(|index| status.applied >= index))
        });
        if roomy {
            filled.phase = Phase::Emptied;
            self.trace(|| "all members have space again".to_owned());
            return None;
        }
        let compact = self.rng.one_in(2);
        Some(if compact { Command::Compact { revision: Revision(revision) } } else { everything })
    }

    pub(super) fn refused_for_space(&mut self) {
        self.count("space: write refused");
    }

    pub(super) fn put_answered(&mut self) {
        if let Some(filled) = self.filled.as_mut().filter(|filled| filled.phase == Phase::Emptied) {
            filled.puts_afterwards += 1;
        }
    }
}
