//! The transfer stage: snapshots to and from peers, file by file, in chunks that the receiver asks for.
//!
//! Invariants:
//!
//! - What is sent is one durable checkpoint, kept alive until the receiver is done or silent for too long.
//! - A snapshot is reported fetched only after every file is here, verified and synced, under this member's identity.
//! - What came of a snapshot that was given up, and stores of before, are removed sooner or later.
//! - The receiver has a bounded number of chunks under way, so neither side's memory grows with the snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_disk::Disk;
use quorate_ids::{MemberId, Monotonic};
use quorate_store::{
    Chunk, Export, Identity, Incoming, IncomingError, Location, Pace, Store, StoreError, generation_folder,
};

use super::Now;
use super::mending::{self, Mended, Mending, Progress};
use super::reserve::{Reserve, with_room};
use crate::frame::{CHUNK_BYTES_MAX, Frame, SnapshotPoint};

/// Chunks that a receiver has asked for and not got.
const CHUNKS_UNDER_WAY_MAX: usize = 8;
/// A receiver asks again after this long without a chunk.
const ASK_AGAIN_NANOS: u64 = 2_000_000_000;
/// A transfer without any progress for this long is given up by either side.
const SILENCE_NANOS_MAX: u64 = 30_000_000_000;
/// What came of a snapshot that was given up is kept for the next attempt this long.
const PART_KEPT_NANOS: u64 = 40_000_000_000;
/// What could not be removed is tried again after this long.
const REMOVE_AGAIN_NANOS: u64 = 20_000_000_000;
/// A start looks for as many stores before its own; each of those is older than a restart and a pin.
const GENERATIONS_LOOKED_AT_MAX: u64 = 64;
/// Where a snapshot does not fit the disk, its sender is told so only after this long, unless there is space before:
/// it has a newer one then, which may be smaller. Less than what a sender waits for a receiver that says nothing.
const ROOM_AWAITED_NANOS: u64 = 4_000_000_000;

/// What reaches the transfer stage.
#[derive(Debug)]
pub enum TransferInput {
    /// Get the snapshot at `point` from `from`; an earlier fetch is dropped.
    Fetch {
        from: MemberId,
        point: SnapshotPoint,
    },
    Frame {
        from: MemberId,
        frame: Frame,
    },
    /// The receiver is done with the snapshot.
    Close {
        to: MemberId,
        point: SnapshotPoint,
    },
    /// The record there can't be read: peers may have it.
    Mend(Location),
    /// The other members.
    Peers(Vec<MemberId>),
    /// A fetched generation is not needed.
    Discard {
        generation: u64,
    },
    /// The member runs on this generation now; others may go.
    Installed {
        generation: u64,
    },
}

/// What the transfer stage wants done.
#[derive(Debug)]
pub enum TransferOutput {
    Send {
        to: MemberId,
        frame: Frame,
    },
    Fetched {
        from: MemberId,
        point: SnapshotPoint,
        generation: u64,
    },
    GaveUp {
        from: MemberId,
        point: SnapshotPoint,
    },
    /// The snapshot takes `bytes`, and the disk has `room`; [`Self::GaveUp`] follows after a while.
    NoRoom {
        point: SnapshotPoint,
        bytes: u64,
        room: u64,
    },
    /// What became of a damaged record.
    Mended {
        at: Location,
        outcome: Mended,
    },
    /// A file of the checkpoint that was to be sent is damaged; it is being written anew.
    Condemned {
        file: String,
    },
}

struct Sending {
    point: SnapshotPoint,
    export: Export,
    last: Monotonic,
    /// A file was asked for: it may not fit the receiver's disk.
    begun: bool,
}

struct Fetching {
    from: MemberId,
    point: SnapshotPoint,
    incoming: Option<Incoming>,
    under_way: usize,
    progress: Monotonic,
    asked: Monotonic,
}

/// Whether a part of a snapshot may lie on the disk that nobody fetches any more.
#[derive(Clone, Copy)]
enum Part {
    Gone,
    /// From before this start.
    Old,
    Since(Monotonic),
}

/// A snapshot that did not fit the disk.
struct NoRoom {
    from: MemberId,
    point: SnapshotPoint,
    bytes: u64,
    /// It was begun, and something else took the space: it is not begun again at once.
    begun: bool,
    since: Monotonic,
}

/// See the module.
pub struct TransferStage {
    disk: Arc<dyn Disk>,
    store: Store,
    identity: Identity,
    generation: u64,
    sending: BTreeMap<MemberId, Sending>,
    fetching: Option<Fetching>,
    part: Part,
    obsolete: Vec<u64>,
    remove_again_at: Monotonic,
    mending: Mending,
    /// A snapshot may be what empties the disk: it draws on this.
    reserve: Arc<Reserve>,
    no_room: Option<NoRoom>,
    out: Vec<TransferOutput>,
}

impl TransferStage {
    #[must_use]
    pub fn new(
        disk: Arc<dyn Disk>,
        store: Store,
        identity: Identity,
        generation: u64,
        reserve: Arc<Reserve>,
    ) -> Self {
        // Readers may have held the one before the last when the last was installed, and the member may have ended since.
        let is_there = |before: &u64| {
            before + 1 == generation
                || !disk.list(&generation_folder(*before)).is_ok_and(|files| files.is_empty())
        };
        let first = generation.saturating_sub(GENERATIONS_LOOKED_AT_MAX).max(1);
        let obsolete = (first..generation).filter(is_there).collect();
        Self {
            disk,
            store,
            identity,
            generation,
            sending: BTreeMap::new(),
            fetching: None,
            part: Part::Old,
            obsolete,
            remove_again_at: Monotonic(0),
            mending: Mending::default(),
            reserve,
            no_room: None,
            out: Vec::new(),
        }
    }

    /// Takes one input in; may read and write the disk.
    pub fn step(&mut self, input: TransferInput, now: Now, pace: &mut dyn Pace) -> Vec<TransferOutput> {
        let now = now.monotonic;
        match input {
            TransferInput::Fetch { from, point } => self.fetch(from, point, now),
            TransferInput::Close { to, point } => {
                if self.sending.get(&to).is_some_and(|sending| sending.point == point) {
                    self.sending.remove(&to);
                }
            }
            TransferInput::Mend(at) => {
                let progress = self.mending.begin(at, &self.store, now);
                self.mended(progress);
            }
            TransferInput::Peers(peers) => self.mending.set_peers(peers),
            TransferInput::Discard { generation } => self.obsolete.push(generation),
            TransferInput::Installed { generation } => {
                self.obsolete.push(self.generation);
                self.generation = generation;
            }
            TransferInput::Frame { from, frame } => self.frame(from, frame, now, pace),
        }
        std::mem::take(&mut self.out)
    }

    /// Looks after timeouts and folders that are not needed any more.
    pub fn tick(&mut self, now: Now) -> Vec<TransferOutput> {
        let now = now.monotonic;
        let progress = self.mending.tick(&self.store, now);
        self.mended(progress);
        self.sending.retain(|_, sending| now.since(sending.last) < SILENCE_NANOS_MAX);
        self.look_for_room(now);
        if let Some(fetching) = &mut self.fetching {
            if now.since(fetching.progress) > SILENCE_NANOS_MAX {
                self.give_up();
            } else if now.since(fetching.asked) > ASK_AGAIN_NANOS {
                fetching.under_way = 0;
                self.ask(now);
            }
        }
        self.look_for_parts(now);
        self.remove_obsolete(now);
        std::mem::take(&mut self.out)
    }

    fn remove_obsolete(&mut self, now: Monotonic) {
        if now < self.remove_again_at {
            return;
        }
        let (current, fetching) = (self.generation, self.fetching.is_some());
        let (store, again_at) = (&self.store, &mut self.remove_again_at);
        self.obsolete.retain(|generation| {
            if *generation == current {
                return false;
            }
            if fetching && *generation == current + 1 {
                return true;
            }
            match store.remove_generation(*generation) {
                Ok(removed) => !removed,
                Err(error) => {
                    tracing::warn!(generation, %error, "an old generation of the store was not removed");
                    *again_at = now.plus(REMOVE_AGAIN_NANOS);
                    true
                }
            }
        });
    }

    fn look_for_parts(&mut self, now: Monotonic) {
        match self.part {
            _ if self.fetching.is_some() => {}
            Part::Old => self.part = Part::Since(now),
            Part::Since(since) if now.since(since) > PART_KEPT_NANOS => {
                self.part = Part::Gone;
                self.obsolete.push(self.generation + 1);
            }
            Part::Since(_) | Part::Gone => {}
        }
    }

    fn mended(&mut self, progress: Progress) {
        let Progress { asks, ended } = progress;
        self.out.extend(asks.into_iter().map(|(to, frame)| TransferOutput::Send { to, frame }));
        self.out.extend(ended.into_iter().map(|(at, outcome)| TransferOutput::Mended { at, outcome }));
    }

    fn send(&mut self, to: MemberId, frame: Frame) {
        self.out.push(TransferOutput::Send { to, frame });
    }

    fn frame(&mut self, from: MemberId, frame: Frame, now: Monotonic, pace: &mut dyn Pace) {
        match frame {
            Frame::SnapshotOpen { point } => self.open(from, point, now),
            Frame::ChunkRequest { point, file, offset, len } => {
                self.serve(from, point, file, (offset, len), now, pace)
            }
            Frame::SnapshotManifest { point, manifest } if self.awaits(from, point) => {
                self.begin(&manifest, now, pace)
            }
            Frame::Chunk { point, file, offset, bytes } if self.awaits(from, point) => {
                self.take_chunk(&file, offset, bytes, now, pace);
            }
            Frame::RecordRequest { request, table, key, index, place } => {
                let answer = mending::answer(&self.store, request, table, &key, index, place);
                self.send(from, answer);
            }
            Frame::Record { request, record } => {
                let progress = self.mending.answered(from, request, record.as_ref(), &self.store, now);
                self.mended(progress);
            }
            Frame::SnapshotGone { point } if self.awaits(from, point) => self.give_up(),
            other => {
                tracing::debug!(peer = %from, frame = ?std::mem::discriminant(&other), "a late frame was dropped")
            }
        }
    }

    // ---- sending ----

    fn open(&mut self, to: MemberId, point: SnapshotPoint, now: Monotonic) {
        let known = self.sending.get(&to).is_some_and(|sending| sending.point == point);
        if !known {
            let export = self.store.export();
            let meta = export.meta();
            if (meta.applied_index, meta.applied_term) != (point.index, point.term) {
                self.send(to, Frame::SnapshotGone { point });
                return;
            }
            self.sending.insert(to, Sending { point, export, last: now, begun: false });
        }
        let sending = self.sending.get_mut(&to).expect("just inserted");
        sending.last = now;
        let manifest = sending.export.manifest();
        self.send(to, Frame::SnapshotManifest { point, manifest });
    }

    fn serve(
        &mut self,
        to: MemberId,
        point: SnapshotPoint,
        file: String,
        (offset, len): (u64, u32),
        now: Monotonic,
        pace: &mut dyn Pace,
    ) {
        let Some(sending) = self.sending.get_mut(&to).filter(|sending| sending.point == point) else {
            self.send(to, Frame::SnapshotGone { point });
            return;
        };
        sending.last = now;
        if !std::mem::replace(&mut sending.begun, true) {
            tracing::info!(%to, index = %point.index, "sending a snapshot");
        }
        let len = (len as usize).min(CHUNK_BYTES_MAX);
        // A damaged file would be refused at its end, after all of it was sent. What is read here is in the page cache
        // when its chunks are asked for.
        let sound = if offset == 0 { sending.export.verify(&file, pace) } else { Ok(()) };
        match sound.and_then(|()| sending.export.read_chunk(&file, offset, len)) {
            Ok(chunk) => self.send(to, Frame::Chunk { point, file, offset, bytes: chunk.bytes }),
            Err(error) => {
                tracing::warn!(%to, file, offset, %error, "a snapshot's file can't be read; the transfer ends");
                self.sending.remove(&to);
                if matches!(error, StoreError::Corrupt { .. }) && self.store.condemn(&file) {
                    self.out.push(TransferOutput::Condemned { file });
                }
                self.send(to, Frame::SnapshotGone { point });
            }
        }
    }

    // ---- receiving ----

    fn awaits(&self, from: MemberId, point: SnapshotPoint) -> bool {
        self.fetching.as_ref().is_some_and(|fetching| fetching.from == from && fetching.point == point)
    }

    fn fetch(&mut self, from: MemberId, point: SnapshotPoint, now: Monotonic) {
        self.no_room = None;
        self.part = Part::Old;
        self.fetching =
            Some(Fetching { from, point, incoming: None, under_way: 0, progress: now, asked: now });
        self.send(from, Frame::SnapshotOpen { point });
    }

    fn begin(&mut self, manifest: &[u8], now: Monotonic, pace: &mut dyn Pace) {
        let generation = self.generation + 1;
        if self.fetching.as_ref().is_none_or(|fetching| fetching.incoming.is_some()) {
            return;
        }
        self.obsolete.retain(|obsolete| *obsolete != generation);
        match Incoming::begin(self.disk.clone(), self.identity, generation, manifest) {
            Ok(incoming) => {
                let bytes = missing_bytes(&incoming);
                if bytes > self.reserve.room() {
                    // Not even begun: it would take the space of what makes some.
                    self.wait_for_room(bytes, false, now);
                    return;
                }
                let Some(fetching) = &mut self.fetching else { return };
                tracing::info!(from = %fetching.from, index = %fetching.point.index, bytes, "fetching a snapshot");
                let complete = incoming.missing().1.is_empty();
                fetching.incoming = Some(incoming);
                fetching.progress = now;
                if complete {
                    self.finish(now, pace);
                } else {
                    self.ask(now);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a snapshot can't be received");
                self.obsolete.push(generation);
                self.give_up();
            }
        }
    }

    /// The snapshot that is being fetched takes `bytes`, and the disk does not have them.
    fn wait_for_room(&mut self, bytes: u64, begun: bool, now: Monotonic) {
        let Some(Fetching { from, point, .. }) = self.fetching.take() else { return };
        self.no_room = Some(NoRoom { from, point, bytes, begun, since: now });
        self.out.push(TransferOutput::NoRoom { point, bytes, room: self.reserve.room() });
    }

    fn look_for_room(&mut self, now: Monotonic) {
        let fits = |wanted: &NoRoom| !wanted.begun && wanted.bytes <= self.reserve.room();
        let ended = |wanted: &mut NoRoom| fits(wanted) || now.since(wanted.since) >= ROOM_AWAITED_NANOS;
        if let Some(NoRoom { from, point, .. }) = self.no_room.take_if(ended) {
            self.out.push(TransferOutput::GaveUp { from, point });
        }
    }

    /// Asks for what is missing, as much as may be under way.
    fn ask(&mut self, now: Monotonic) {
        let Some(fetching) = &mut self.fetching else { return };
        fetching.asked = now;
        let (from, point) = (fetching.from, fetching.point);
        let Some(incoming) = &mut fetching.incoming else {
            self.send(from, Frame::SnapshotOpen { point });
            return;
        };
        let (mut offset, missing) = incoming.missing();
        let mut requests = Vec::new();
        for file in missing {
            while offset < file.len && requests.len() < CHUNKS_UNDER_WAY_MAX {
                let len = (file.len - offset).min(CHUNK_BYTES_MAX as u64) as u32;
                requests.push(Frame::ChunkRequest { point, file: file.name.clone(), offset, len });
                offset += u64::from(len);
            }
            offset = 0;
        }
        fetching.under_way = requests.len();
        for request in requests {
            self.send(from, request);
        }
    }

    fn take_chunk(&mut self, file: &str, offset: u64, bytes: Bytes, now: Monotonic, pace: &mut dyn Pace) {
        let Some(fetching) = &mut self.fetching else { return };
        let Some(incoming) = &mut fetching.incoming else { return };
        let (wanted_offset, missing) = incoming.missing();
        if missing.first().is_none_or(|first| first.name != file) || wanted_offset != offset {
            // What was asked for twice, or follows a chunk that was lost: the next asking sorts it out.
            return;
        }
        let crc = crc32c::crc32c(&bytes);
        let written = incoming.write_chunk(file, &Chunk { offset, bytes, crc }, pace);
        if written.as_ref().is_err_and(IncomingError::is_no_space) && self.reserve.give_but_the_last() {
            self.ask(now);
            return;
        }
        if let Err(error) = written {
            if error.is_no_space() {
                let bytes = missing_bytes(incoming);
                self.ran_out_of_room(bytes, now);
            } else {
                tracing::warn!(file, offset, %error, "a snapshot's chunk was refused");
                self.give_up();
            }
            return;
        }
        fetching.progress = now;
        fetching.under_way = fetching.under_way.saturating_sub(1);
        if incoming.missing().1.is_empty() {
            self.finish(now, pace);
        } else if fetching.under_way == 0 {
            self.ask(now);
        }
    }

    /// Something else took the space meanwhile. What came of the snapshot is only in the way of what would make some.
    fn ran_out_of_room(&mut self, bytes: u64, now: Monotonic) {
        self.obsolete.push(self.generation + 1);
        self.wait_for_room(bytes, true, now);
    }

    fn finish(&mut self, now: Monotonic, pace: &mut dyn Pace) {
        let Some(fetching) = &mut self.fetching else { return };
        let (from, point) = (fetching.from, fetching.point);
        let generation = self.generation + 1;
        let verified = fetching.incoming.as_mut().map(|incoming| {
            let give = || self.reserve.give_but_the_last();
            with_room(|| incoming.finish(pace), IncomingError::is_no_space, give)
        });
        if matches!(&verified, Some(Err(error)) if error.is_no_space()) {
            self.ran_out_of_room(0, now);
            return;
        }
        self.fetching = None;
        match verified {
            Some(Ok(())) => {
                // Whoever installs it, or not, says so.
                self.part = Part::Gone;
                self.out.push(TransferOutput::Fetched { from, point, generation });
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "a snapshot did not verify; it is thrown away");
                self.obsolete.push(generation);
                self.out.push(TransferOutput::GaveUp { from, point });
            }
            None => self.out.push(TransferOutput::GaveUp { from, point }),
        }
    }

    fn give_up(&mut self) {
        if let Some(fetching) = self.fetching.take() {
            self.out.push(TransferOutput::GaveUp { from: fetching.from, point: fetching.point });
        }
    }
}

fn missing_bytes(incoming: &Incoming) -> u64 {
    incoming.missing().1.iter().map(|file| file.len).sum()
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
