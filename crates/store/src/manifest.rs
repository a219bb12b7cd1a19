//! The manifest: one small file that says what a store is. The layout is in `docs/formats/store.md`.
//!
//! It is replaced whole (written beside, synced, renamed, folder synced), so whatever is found under its name was
//! complete once: a manifest that does not match its checksum is damage, never a torn write. A copy of it, replaced
//! right before it, then stands in for it: the copy is never older.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_disk::{Disk, Mode};
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};

use crate::config::{EXTRA_BYTES_MAX, SEGMENT_BLOCK_BYTES};
use crate::fields::{Fields, put_bytes};
use crate::run::RunInfo;
use crate::{CheckpointMeta, Identity, OpenError, StoreError, TableId, generation_folder};

pub(crate) const MANIFEST_NAME: &str = "manifest";
pub(crate) const COPY_NAME: &str = "manifest.copy";
const MANIFEST_MAGIC: &[u8; 8] = b"QUORMAN\0";
pub(crate) const MANIFEST_VERSION: u32 = 1;
/// Magic, version, length of the rest, checksum of the rest.
const PREFIX_BYTES: usize = 8 + 4 + 4 + 4;
/// A million segments are 64 TB.
const MANIFEST_BYTES_MAX: u64 = 128 << 20;

/// What a manifest says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentInfo {
    pub(crate) salt: u32,
    /// What is durable, a multiple of [`SEGMENT_BLOCK_BYTES`].
    pub(crate) len: u32,
    pub(crate) crc: u32,
    pub(crate) records: u32,
    pub(crate) weight_total: u64,
    pub(crate) weight_live: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableInfo {
    pub(crate) hash: u128,
    pub(crate) rows: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) identity: Identity,
    pub(crate) generation: u64,
    /// Counts the commits of this generation.
    pub(crate) counter: u64,
    pub(crate) meta: CheckpointMeta,
    pub(crate) segment_next: u32,
    pub(crate) run_next: u64,
    pub(crate) tables: BTreeMap<TableId, TableInfo>,
    /// From the oldest to the newest.
    pub(crate) runs: Vec<RunInfo>,
    pub(crate) segments: BTreeMap<u32, SegmentInfo>,
}

impl Manifest {
    pub(crate) fn empty(identity: Identity, generation: u64) -> Self {
        Self {
            identity,
            generation,
            counter: 0,
            meta: CheckpointMeta::default(),
            segment_next: 0,
            run_next: 0,
            tables: BTreeMap::new(),
            runs: Vec::new(),
            segments: BTreeMap::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; PREFIX_BYTES];
        for number in [
            self.identity.cluster.0,
            self.identity.member.0,
            self.identity.incarnation.0,
            self.generation,
            self.counter,
            self.meta.applied_index.0,
            self.meta.applied_term.0,
            self.run_next,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.segment_next.to_le_bytes());
        put_bytes(&mut out, &self.meta.extra);
        out.extend_from_slice(&(self.tables.len() as u32).to_le_bytes());
        for (table, info) in &self.tables {
            out.push(table.0);
            out.extend_from_slice(&info.hash.to_le_bytes());
            out.extend_from_slice(&info.rows.to_le_bytes());
        }
        out.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        for run in &self.runs {
            for number in [run.number, run.len, run.entries, run.tombstones] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&run.crc.to_le_bytes());
        }
        out.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        for (number, segment) in &self.segments {
            for field in [*number, segment.salt, segment.len, segment.crc, segment.records] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            out.extend_from_slice(&segment.weight_total.to_le_bytes());
            out.extend_from_slice(&segment.weight_live.to_le_bytes());
        }
        let (prefix, rest) = out.split_at_mut(PREFIX_BYTES);
        prefix[..8].copy_from_slice(MANIFEST_MAGIC);
        prefix[8..12].copy_from_slice(&MANIFEST_VERSION.to_le_bytes());
        prefix[12..16].copy_from_slice(&(rest.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&prefix[..16]), rest);
        prefix[16..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks a manifest; `path` is for messages.
    pub(crate) fn decode(bytes: &[u8], path: &str) -> Result<Self, OpenError> {
        let damaged = |what| OpenError::Store(StoreError::corrupt(path, 0, what));
        let Some((prefix, rest)) = bytes.split_at_checked(PREFIX_BYTES) else {
            return Err(damaged("the manifest is cut off"));
        };
        if &prefix[..8] != MANIFEST_MAGIC {
            return Err(damaged("not a manifest"));
        }
        let mut fields = Fields::new(&prefix[8..]);
        let mut field = || fields.u32().expect("the prefix is long enough");
        let (version, len, crc) = (field(), field(), field());
        if version > MANIFEST_VERSION {
            return Err(OpenError::Version {
                path: path.to_owned(),
                found: version,
                known: MANIFEST_VERSION,
            });
        }
        if len as usize != rest.len() || crc32c::crc32c_append(crc32c::crc32c(&prefix[..16]), rest) != crc {
            return Err(damaged("the manifest does not match its checksum"));
        }
        if version != MANIFEST_VERSION {
            return Err(damaged("no manifest has such a version"));
        }
        let manifest = Self::decode_rest(rest).ok_or_else(|| damaged("the manifest is malformed"))?;
        manifest.is_sound().then_some(manifest).ok_or_else(|| damaged("the manifest contradicts itself"))
    }

    fn decode_rest(rest: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(rest);
        let identity = Identity {
            cluster: ClusterId(fields.u64()?),
            member: MemberId(fields.u64()?),
            incarnation: Incarnation(fields.u64()?),
        };
        let (generation, counter) = (fields.u64()?, fields.u64()?);
        let (applied_index, applied_term) = (LogIndex(fields.u64()?), Term(fields.u64()?));
        let (run_next, segment_next) = (fields.u64()?, fields.u32()?);
        let extra = Bytes::copy_from_slice(fields.bytes()?);
        let mut tables = BTreeMap::new();
        for _ in 0..fields.u32()? {
            tables.insert(TableId(fields.u8()?), TableInfo { hash: fields.u128()?, rows: fields.u64()? });
        }
        let mut runs = Vec::new();
        for _ in 0..fields.u32()? {
            runs.push(RunInfo {
                number: fields.u64()?,
                len: fields.u64()?,
                entries: fields.u64()?,
                tombstones: fields.u64()?,
                crc: fields.u32()?,
            });
        }
        let mut segments = BTreeMap::new();
        for _ in 0..fields.u32()? {
            let number = fields.u32()?;
            let segment = SegmentInfo {
                salt: fields.u32()?,
                len: fields.u32()?,
                crc: fields.u32()?,
                records: fields.u32()?,
                weight_total: fields.u64()?,
                weight_live: fields.u64()?,
            };
            segments.insert(number, segment);
        }
        let meta = CheckpointMeta { applied_index, applied_term, extra };
        fields.rest().is_empty().then_some(Self {
            identity,
            generation,
            counter,
            meta,
            segment_next,
            run_next,
            tables,
            runs,
            segments,
        })
    }

    fn is_sound(&self) -> bool {
        let run_numbers: std::collections::BTreeSet<u64> = self.runs.iter().map(|run| run.number).collect();
        let segment_len = |len: u32| len >= SEGMENT_BLOCK_BYTES && len.is_multiple_of(SEGMENT_BLOCK_BYTES);
        self.meta.extra.len() <= EXTRA_BYTES_MAX
            && run_numbers.len() == self.runs.len()
            && self.runs.iter().all(|run| run.number < self.run_next)
            && self.segments.iter().all(|(&number, s)| number < self.segment_next && segment_len(s.len))
    }

    pub(crate) fn path(generation: u64) -> String {
        format!("{}/{MANIFEST_NAME}", generation_folder(generation))
    }

    /// Makes this the store's manifest. Once it returned, it is what an open finds; before, the one before is or this
    /// one. All files that it names must be durable, and their names synced.
    pub(crate) fn commit(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        let folder = generation_folder(self.generation);
        let bytes = self.encode();
        assert!(bytes.len() as u64 <= MANIFEST_BYTES_MAX, "a manifest that could not be read again");
        let names = [COPY_NAME, MANIFEST_NAME];
        for name in names {
            write_beside(disk, &format!("{folder}/{name}.new"), &bytes)?;
        }
        // The name of a new one must not reach the disk before the names of the files that it lists.
        let synced = |e| StoreError::io(&folder, e);
        disk.sync_dir(&folder).map_err(synced)?;
        // From here on either manifest may be the durable one: no failure can be tried again, a full disk neither.
        for name in names {
            let path = format!("{folder}/{name}");
            let renamed = disk.rename(&format!("{path}.new"), &path);
            renamed.map_err(|error| StoreError::Io { path, error })?;
            disk.sync_dir(&folder).map_err(|error| StoreError::Io { path: folder.clone(), error })?;
        }
        Ok(())
    }

    /// Reads the manifest of a generation; `None` where there is none. Where it is damaged its copy is taken.
    pub(crate) fn read(disk: &dyn Disk, generation: u64) -> Result<Option<Found>, OpenError> {
        match Self::read_named(disk, generation, MANIFEST_NAME) {
            Ok(found) => Ok(found.map(|manifest| Found { manifest, damaged: None })),
            Err(error @ (OpenError::Version { .. } | OpenError::Store(StoreError::Corrupt { .. }))) => {
                match Self::read_named(disk, generation, COPY_NAME) {
                    Ok(Some(manifest)) => Ok(Some(Found { manifest, damaged: Some(error.to_string()) })),
                    // What is wrong with the copy says less than what is wrong with the manifest.
                    Ok(None) | Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn read_named(disk: &dyn Disk, generation: u64, name: &str) -> Result<Option<Self>, OpenError> {
        let path = format!("{}/{name}", generation_folder(generation));
        let failed = |e| OpenError::Store(StoreError::reading(&path, 0, e));
        let file = match disk.open(&path, Mode { read_only: true, ..Mode::default() }) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let len = file.len().map_err(failed)?;
        if len > MANIFEST_BYTES_MAX {
            return Err(StoreError::corrupt(&path, 0, "longer than a manifest can be").into());
        }
        let mut bytes = vec![0; len as usize];
        file.read_at(&mut bytes, 0).map_err(failed)?;
        let manifest = Self::decode(&bytes, &path)?;
        if manifest.generation != generation {
            return Err(StoreError::corrupt(&path, 0, "the manifest is another generation's").into());
        }
        Ok(Some(manifest))
    }
}

/// A manifest that was read.
pub(crate) struct Found {
    pub(crate) manifest: Manifest,
    /// What is wrong with the manifest that the copy stands in for.
    pub(crate) damaged: Option<String>,
}

fn write_beside(disk: &dyn Disk, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |e| StoreError::io(path, e);
    let file = disk.open(path, Mode { create: true, ..Mode::default() }).map_err(failed)?;
    file.truncate(0).map_err(failed)?;
    file.write_at(bytes, 0).map_err(failed)?;
    file.sync_data().map_err(failed)
}
