//! Checkpoints: a frozen front becomes durable.
//!
//! The order is what makes a crash at any step safe: bodies, then the run, then the names of both, then the manifest,
//! and only then may anything be forgotten. See `docs/formats/store.md`.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_disk::{AlignedBuf, Disk};
use quorate_ids::LogIndex;

use crate::config::{PIECE_BYTES, SEGMENT_BLOCK_BYTES, generation_folder, run_name, segment_name};
use crate::front::{Extent, Front};
use crate::manifest::{Manifest, SegmentInfo, TableInfo};
use crate::paced::{reserve, write_piece};
use crate::rewrite::Rewriting;
use crate::run::{RunInfo, RunWriter};
use crate::runs::Merging;
use crate::segment::SegmentFile;
use crate::suspects::Reindexing;
use crate::{CheckpointMeta, Pace, Store, StoreError, TableId};

/// A front that takes no more changes, and what else its checkpoint will say.
pub(crate) struct FrozenFront {
    pub(crate) generation: u64,
    pub(crate) meta: CheckpointMeta,
    pub(crate) front: Front,
    /// Hash and number of rows of each table.
    pub(crate) tables: BTreeMap<TableId, (u128, u64)>,
    /// Total and live weight of each segment.
    pub(crate) weights: BTreeMap<u32, (u64, u64)>,
    pub(crate) segment_next: u32,
}

/// A frozen front on its way to the disk: what [`crate::Tables::freeze`] gives and [`Store::checkpoint`] takes.
/// It stays in memory until it is durable, however often a checkpoint fails.
#[derive(Clone)]
pub struct Frozen(pub(crate) Arc<FrozenFront>);

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Frozen").field(&self.0.meta.applied_index).finish()
    }
}

impl Frozen {
    #[must_use]
    pub fn meta(&self) -> &CheckpointMeta {
        &self.0.meta
    }
}

/// A checkpoint that is on disk: the log below its index is not needed for recovery any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    pub meta: CheckpointMeta,
    /// Bytes of bodies and runs that were written.
    pub written_bytes: u64,
}

/// What the one background writer of a store holds. Its lock is taken before that of the tables.
pub(crate) struct Keeper {
    pub(crate) generation: u64,
    pub(crate) run_next: u64,
    /// A write failed and what is durable is not known: nothing more is written.
    pub(crate) failed: bool,
    pub(crate) merging: Option<Merging>,
    /// Files that no durable manifest names any more, with the epoch at which they became so.
    pub(crate) obsolete: Vec<(u64, Obsolete)>,
    pub(crate) rewriting: Option<Rewriting>,
    pub(crate) reindexing: Option<Reindexing>,
}

pub(crate) enum Obsolete {
    Segment(u32),
    Run(u64),
}

impl Keeper {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        Self {
            generation: manifest.generation,
            run_next: manifest.run_next,
            failed: false,
            merging: None,
            obsolete: Vec::new(),
            rewriting: None,
            reindexing: None,
        }
    }

    /// Does background work, unless some before it failed for good; notes it if this does.
    pub(crate) fn work<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.failed {
            return Err(StoreError::Stopped);
        }
        let result = work(self);
        self.failed = matches!(result, Err(StoreError::Io { .. }));
        result
    }
}

impl Store {
    /// Writes a frozen front and commits it. Blocks for as long as the disk (and the pace) takes, and holds no lock
    /// that readers or the apply stage need meanwhile. After [`StoreError::NoSpace`] call it again with the same front.
    pub fn checkpoint(&self, frozen: &Frozen, pace: &mut dyn Pace) -> Result<Durable, StoreError> {
        let mut keeper = self.keeper();
        let frozen = &frozen.0;
        if frozen.generation != keeper.generation {
            return Err(StoreError::Superseded { asked: frozen.generation, current: keeper.generation });
        }
        if !self.read().frozen.as_ref().is_some_and(|pending| Arc::ptr_eq(pending, frozen)) {
            return Err(StoreError::NotPending);
        }
        keeper.work(|keeper| match self.write_checkpoint(frozen, keeper, pace) {
            Err(StoreError::NoSpace { .. }) if self.give_back_reserved(frozen) => {
                self.write_checkpoint(frozen, keeper, pace)
            }
            written => written,
        })
    }

    /// Cuts off what was reserved behind the bodies of `frozen`: the run and the manifest may need it. False: nothing was.
    fn give_back_reserved(&self, frozen: &FrozenFront) -> bool {
        let cut = |extent: &Extent| -> std::io::Result<bool> {
            let file = self.segment_of(extent).writer().map_err(std::io::Error::other)?;
            let end = u64::from(extent.padded_end());
            let reserved = file.len()? > end;
            if reserved {
                file.truncate(end)?;
            }
            Ok(reserved)
        };
        let mut given = false;
        // Where that fails the disk is as full as it was.
        frozen.front.extents.iter().for_each(|extent| given |= cut(extent).unwrap_or(false));
        given
    }

    fn segment_of(&self, extent: &Extent) -> Arc<SegmentFile> {
        self.read().segments.get(&extent.segment).expect("a segment with an extent is known").file.clone()
    }

    fn write_checkpoint(
        &self,
        frozen: &FrozenFront,
        keeper: &mut Keeper,
        pace: &mut dyn Pace,
    ) -> Result<Durable, StoreError> {
        let mut next = self.durable().as_ref().clone();
        let mut written_bytes = self.write_bodies(frozen, &mut next, pace)?;
        let run = self.write_changes(frozen, keeper.run_next, pace)?;
        next.run_next = keeper.run_next + u64::from(run.is_some());
        written_bytes += run.map_or(0, |run| run.len);
        let gone_runs = forget_runs(frozen, &mut next);
        next.runs.extend(run);
        describe(frozen, &mut next);
        next.commit(self.disk())?;

        keeper.run_next = next.run_next;
        let gone = frozen.front.vacated.iter().map(|&segment| Obsolete::Segment(segment));
        let gone = gone.chain(gone_runs).collect();
        self.suspects().condemned.retain(|segment| !frozen.front.vacated.contains(segment));
        let done = {
            let mut tables = self.write();
            for (number, info) in &next.segments {
                let segment = tables.segments.get_mut(number).expect("a durable segment is known");
                (segment.durable_bytes, segment.durable_records) = (info.len, info.records);
            }
            frozen.front.extents.iter().for_each(|extent| tables.cache.add(extent));
            tables.frozen.take()
        };
        drop(done);
        let meta = next.meta.clone();
        self.publish(next, gone, keeper);
        self.sweep(keeper)?;
        Ok(Durable { meta, written_bytes })
    }

    fn write_bodies(
        &self,
        frozen: &FrozenFront,
        next: &mut Manifest,
        pace: &mut dyn Pace,
    ) -> Result<u64, StoreError> {
        let mut written = 0;
        for extent in &frozen.front.extents {
            let file = self.segment_of(extent);
            let header = self.read().source.header(extent.segment);
            let info = write_extent(extent, &file, &header, next.segments.get(&extent.segment), pace)?;
            written += u64::from(extent.padded_end() - extent.start);
            next.segments.insert(extent.segment, info);
        }
        Ok(written)
    }

    fn write_changes(
        &self,
        frozen: &FrozenFront,
        number: u64,
        pace: &mut dyn Pace,
    ) -> Result<Option<RunInfo>, StoreError> {
        if frozen.front.changes.is_empty() {
            return Ok(None);
        }
        let path = format!("{}/{}", generation_folder(frozen.generation), run_name(number));
        let mut run = RunWriter::create(self.disk(), &path, number)?;
        for change in frozen.front.changes.sorted() {
            run.push(change, pace)?;
        }
        run.finish(pace).map(Some)
    }

    /// Makes a committed manifest the one that exports take, and notes what it does not name any more.
    pub(crate) fn publish(&self, next: Manifest, gone: Vec<Obsolete>, keeper: &mut Keeper) {
        let mut durable = self.durable_mut();
        *durable = Arc::new(next);
        if !gone.is_empty() {
            // An export pins under the same lock: it is older than this epoch, or its manifest is the new one.
            let epoch = self.pins().obsolete();
            keeper.obsolete.extend(gone.into_iter().map(|file| (epoch, file)));
        }
    }

    /// Unlinks what nobody can see any more.
    pub(crate) fn sweep(&self, keeper: &mut Keeper) -> Result<(), StoreError> {
        let pins = self.pins();
        let free: Vec<_> = keeper.obsolete.extract_if(.., |(epoch, _)| pins.free(*epoch)).collect();
        if free.is_empty() {
            return Ok(());
        }
        {
            let mut tables = self.write();
            for (_, file) in &free {
                if let Obsolete::Segment(number) = file {
                    tables.segments.remove(number);
                    tables.moved.retain(|from, _| from.segment != *number);
                }
            }
        }
        let folder = generation_folder(keeper.generation);
        for (_, file) in free {
            let name = match file {
                Obsolete::Segment(_) if crate::mutants::planted!(KeepSegments) => continue,
                Obsolete::Segment(number) => segment_name(number),
                Obsolete::Run(number) => run_name(number),
            };
            let path = format!("{folder}/{name}");
            // A crash before this leaves the file to the next open; nothing refers to it.
            remove_if_there(self.disk(), &path)?;
        }
        Ok(())
    }

    /// Unlinks files that only a pin kept. The background stage calls it now and then.
    pub fn collect(&self) -> Result<(), StoreError> {
        self.keeper().work(|keeper| self.sweep(keeper))
    }

    /// The index that the durable checkpoint covers.
    #[must_use]
    pub fn durable_index(&self) -> LogIndex {
        self.durable().meta.applied_index
    }
}

pub(crate) fn remove_if_there(disk: &dyn Disk, path: &str) -> Result<(), StoreError> {
    match disk.remove(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::io(path, e)),
    }
}

/// Where the index was written anew, the runs from before that go.
fn forget_runs(frozen: &FrozenFront, next: &mut Manifest) -> Vec<Obsolete> {
    let Some(first) = frozen.front.runs_from else { return Vec::new() };
    next.runs.extract_if(.., |run| run.number < first).map(|run| Obsolete::Run(run.number)).collect()
}

/// Writes what the frozen front knew into the manifest-to-be.
fn describe(frozen: &FrozenFront, next: &mut Manifest) {
    next.counter += 1;
    next.meta = frozen.meta.clone();
    next.segment_next = frozen.segment_next;
    next.tables = frozen.tables.iter().map(|(&t, &(hash, rows))| (t, TableInfo { hash, rows })).collect();
    for segment in &frozen.front.vacated {
        next.segments.remove(segment);
    }
    for (number, info) in &mut next.segments {
        let weights = frozen.weights.get(number).expect("a durable segment is known");
        (info.weight_total, info.weight_live) = *weights;
    }
}

/// Writes one extent; what the manifest is to say of its segment. Writing the same extent again changes nothing.
fn write_extent(
    extent: &Extent,
    file: &SegmentFile,
    header: &[u8],
    durable: Option<&SegmentInfo>,
    pace: &mut dyn Pace,
) -> Result<SegmentInfo, StoreError> {
    let writer = file.writer()?;
    let end = extent.padded_end();
    reserve(writer.as_ref(), &file.path, end.into())?;
    let (mut crc, records) = match durable {
        Some(info) => {
            assert_eq!(info.len, extent.start, "an extent starts where its segment ends");
            (info.crc, info.records)
        }
        None => {
            assert_eq!(extent.start, SEGMENT_BLOCK_BYTES, "a new segment starts with its header");
            let mut block = AlignedBuf::zeroed(SEGMENT_BLOCK_BYTES as usize);
            block[..header.len()].copy_from_slice(header);
            write_piece(writer.as_ref(), &file.path, &block, 0, pace)?;
            (crc32c::crc32c(&block), 0)
        }
    };
    for chunk in &extent.chunks {
        assert!(chunk.blocks().len() <= PIECE_BYTES);
        write_piece(writer.as_ref(), &file.path, chunk.blocks(), chunk.start.into(), pace)?;
        crc = crc32c::crc32c_append(crc, chunk.blocks());
    }
    let records = records + extent.records;
    Ok(SegmentInfo { salt: file.salt(), len: end, crc, records, weight_total: 0, weight_live: 0 })
}
