//! A checkpoint on its way to another member (or into a backup): manifest and whole files.
//!
//! - [`Export`] is a durable checkpoint. A pin keeps its files for as long as the export lives; writes, checkpoints and
//!   rewriting go on.
//! - [`Incoming`] collects one beside the receiver's own store, as a new generation. Files come one after the other;
//!   a complete one survives a restart of the receiver. Nothing of it counts before the manifest is committed, which
//!   happens after everything else was read back, checked and synced.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_disk::{DIRECT_ALIGN_BYTES, Disk, File, Mode};

use crate::checkpoint::remove_if_there;
use crate::config::{PIECE_BYTES, SEGMENT_BLOCK_BYTES, run_name, segment_name};
use crate::manifest::{Manifest, SegmentInfo};
use crate::paced::PacedFile;
use crate::run::{RunInfo, RunReader};
use crate::scan::SegmentScan;
use crate::segment::{SegmentSource, check_header};
use crate::{CheckpointMeta, Identity, OpenError, Pace, Pin, Store, StoreError, generation_folder};

/// A file of an export, and of what a receiver still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportFile {
    pub name: String,
    pub len: u64,
    /// CRC32C of the whole file.
    pub crc: u32,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub offset: u64,
    pub bytes: Bytes,
    /// CRC32C of `bytes`.
    pub crc: u32,
}

#[derive(Clone, Copy)]
enum Kind {
    Run(RunInfo),
    Segment(u32, SegmentInfo),
}

impl Kind {
    fn file(&self) -> ExportFile {
        match *self {
            Self::Run(run) => ExportFile { name: run_name(run.number), len: run.len, crc: run.crc },
            Self::Segment(number, info) => {
                ExportFile { name: segment_name(number), len: info.len.into(), crc: info.crc }
            }
        }
    }
}

/// Every file that a manifest names, in the order in which they are sent.
fn kinds(manifest: &Manifest) -> impl Iterator<Item = Kind> + '_ {
    let runs = manifest.runs.iter().map(|&run| Kind::Run(run));
    runs.chain(manifest.segments.iter().map(|(&number, &info)| Kind::Segment(number, info)))
}

/// A durable checkpoint that is being sent or backed up. Dropping it lets its files go.
pub struct Export {
    disk: Arc<dyn Disk>,
    manifest: Arc<Manifest>,
    /// The file read last: chunks are asked for in order.
    open: Mutex<Option<(String, Arc<dyn File>)>>,
    _pin: Pin,
}

impl Store {
    /// The durable checkpoint as it is now.
    #[must_use]
    pub fn export(&self) -> Export {
        let (manifest, pin) = {
            // Under this lock, so that no file of this manifest becomes obsolete before it is pinned.
            let durable = self.shared.durable.read().unwrap_or_else(PoisonError::into_inner);
            (durable.clone(), self.pin())
        };
        Export { disk: self.shared_disk().clone(), manifest, open: Mutex::new(None), _pin: pin }
    }
}

impl Export {
    #[must_use]
    pub fn meta(&self) -> &CheckpointMeta {
        &self.manifest.meta
    }

    /// The generation of the store that it is a checkpoint of.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.manifest.generation
    }

    /// What [`Incoming::begin`] takes.
    #[must_use]
    pub fn manifest(&self) -> Bytes {
        self.manifest.encode().into()
    }

    #[must_use]
    pub fn files(&self) -> Vec<ExportFile> {
        kinds(&self.manifest).map(|kind| kind.file()).collect()
    }

    /// At most `len_max` bytes of a file from `offset` on; fewer at its end.
    pub fn read_chunk(&self, name: &str, offset: u64, len_max: usize) -> Result<Chunk, StoreError> {
        let file = kinds(&self.manifest).map(|kind| kind.file()).find(|file| file.name == name);
        let Some(file) = file.filter(|file| offset <= file.len) else {
            return Err(StoreError::NoSuchFile { name: name.to_owned() });
        };
        let len = (file.len - offset).min(len_max as u64) as usize;
        let path = format!("{}/{name}", generation_folder(self.manifest.generation));
        let reader = self.reader(&path).map_err(|e| StoreError::io(&path, e))?;
        let mut bytes = vec![0; len];
        reader.read_at(&mut bytes, offset).map_err(|e| StoreError::reading(&path, offset, e))?;
        Ok(Chunk { offset, crc: crc32c::crc32c(&bytes), bytes: bytes.into() })
    }

    /// Reads a whole file and compares it with the manifest: a receiver would refuse a damaged one at its end.
    pub fn verify(&self, name: &str, pace: &mut dyn Pace) -> Result<(), StoreError> {
        let file = kinds(&self.manifest).map(|kind| kind.file()).find(|file| file.name == name);
        let Some(file) = file else { return Err(StoreError::NoSuchFile { name: name.to_owned() }) };
        let path = format!("{}/{name}", generation_folder(self.manifest.generation));
        if crate::mutants::planted!(SkipSnapshotCheck) {
            return Ok(());
        }
        check_whole(self.disk.as_ref(), &path, &file, pace)
    }

    fn reader(&self, path: &str) -> std::io::Result<Arc<dyn File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.as_ref().filter(|(opened, _)| opened == path) {
            return Ok(file.clone());
        }
        let file = self.disk.open(path, Mode { read_only: true, ..Mode::default() })?;
        *open = Some((path.to_owned(), file.clone()));
        Ok(file)
    }
}

/// Why a transfer did not go on.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    #[error("the snapshot belongs to cluster {found:x}, this member to {expected:x}; it was refused")]
    OtherCluster { found: u64, expected: u64 },
    #[error("a chunk of {name} at offset {offset} does not match its checksum; send it again")]
    DamagedChunk { name: String, offset: u64 },
    #[error("a chunk of {name} at offset {offset} came, {expected} at offset {expected_offset} is next")]
    OutOfOrder { name: String, offset: u64, expected: String, expected_offset: u64 },
    #[error("{name} is not what its manifest says ({what}); it was dropped, send it again")]
    DamagedFile { name: String, what: String },
    #[error("{files} files are missing still; fetch them first")]
    Incomplete { files: usize },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IncomingError {
    /// The disk is full. What was being written is missing again; everything else is as it was.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Store(StoreError::NoSpace { .. }))
    }
}

/// A checkpoint that is being received.
pub struct Incoming {
    disk: Arc<dyn Disk>,
    manifest: Manifest,
    folder: String,
    /// Not complete yet, in the order in which they are wanted.
    missing: Vec<Kind>,
    /// The first of `missing`, as far as it has come.
    receiving: Option<(PacedFile, u64)>,
}

fn complete_len(file: &ExportFile) -> u64 {
    file.len.next_multiple_of(DIRECT_ALIGN_BYTES as u64)
}

impl Incoming {
    /// Starts or resumes receiving into `generation`, which must hold no store. `manifest` is the sender's; what is
    /// installed names `identity` instead. Whole files of an attempt before are kept where they are still wanted.
    pub fn begin(
        disk: Arc<dyn Disk>,
        identity: Identity,
        generation: u64,
        manifest: &[u8],
    ) -> Result<Self, IncomingError> {
        let sent = Manifest::decode(manifest, "the manifest received")?;
        let (found, expected) = (sent.identity.cluster.0, identity.cluster.0);
        if found != expected {
            return Err(IncomingError::OtherCluster { found, expected });
        }
        let folder = generation_folder(generation);
        if Manifest::read(disk.as_ref(), generation)?.is_some() {
            return Err(OpenError::Exists { folder }.into());
        }
        let manifest = Manifest { identity, generation, ..sent };
        let wanted: BTreeMap<String, Kind> =
            kinds(&manifest).map(|kind| (format!("{folder}/{}", kind.file().name), kind)).collect();
        let mut complete = std::collections::BTreeSet::new();
        for listed in disk.list(&folder).map_err(|e| StoreError::io(&folder, e))? {
            match wanted.get(&listed.path) {
                Some(kind) if complete_len(&kind.file()) == listed.len => {
                    complete.insert(listed.path);
                }
                _ => remove_if_there(disk.as_ref(), &listed.path)?,
            }
        }
        let is_missing = |kind: &Kind| !complete.contains(&format!("{folder}/{}", kind.file().name));
        let missing = kinds(&manifest).filter(is_missing).collect();
        Ok(Self { disk, manifest, folder, missing, receiving: None })
    }

    #[must_use]
    pub fn meta(&self) -> &CheckpointMeta {
        &self.manifest.meta
    }

    /// Files that are not complete yet, and from which offset on the first of them is wanted. In this order.
    #[must_use]
    pub fn missing(&self) -> (u64, Vec<ExportFile>) {
        let offset = self.receiving.as_ref().map_or(0, |(_, offset)| *offset);
        (offset, self.missing.iter().map(Kind::file).collect())
    }

    /// Takes the next chunk of the first missing file. A file whose checksum turns out wrong is dropped and missing
    /// again.
    pub fn write_chunk(
        &mut self,
        name: &str,
        chunk: &Chunk,
        pace: &mut dyn Pace,
    ) -> Result<(), IncomingError> {
        if crc32c::crc32c(&chunk.bytes) != chunk.crc {
            return Err(IncomingError::DamagedChunk { name: name.to_owned(), offset: chunk.offset });
        }
        let expected_offset = self.receiving.as_ref().map_or(0, |(_, offset)| *offset);
        let expected = self.missing.first().map(Kind::file);
        let Some(file) = expected.as_ref().filter(|file| {
            let end = chunk.offset.checked_add(chunk.bytes.len() as u64);
            file.name == name && chunk.offset == expected_offset && end.is_some_and(|end| end <= file.len)
        }) else {
            let expected = expected.map_or_else(|| "nothing".to_owned(), |file| file.name);
            let (name, offset) = (name.to_owned(), chunk.offset);
            return Err(IncomingError::OutOfOrder { name, offset, expected, expected_offset });
        };
        let part = format!("{}/{name}.part", self.folder);
        let (mut out, offset) = match self.receiving.take() {
            Some(receiving) => receiving,
            None => (PacedFile::create(self.disk.as_ref(), &part)?, 0),
        };
        // On an error `receiving` stays empty: the file starts anew.
        out.push(&chunk.bytes, pace)?;
        let offset = offset + chunk.bytes.len() as u64;
        if offset < file.len {
            self.receiving = Some((out, offset));
            return Ok(());
        }
        let (_, crc) = out.finish(pace)?;
        if crc != file.crc && !crate::mutants::planted!(SkipSnapshotCheck) {
            remove_if_there(self.disk.as_ref(), &part)?;
            let what = "its checksum does not match".to_owned();
            return Err(IncomingError::DamagedFile { name: name.to_owned(), what });
        }
        let path = format!("{}/{name}", self.folder);
        self.disk.rename(&part, &path).map_err(|e| StoreError::io(&path, e))?;
        self.disk.sync_dir(&self.folder).map_err(|e| StoreError::io(&self.folder, e))?;
        self.missing.remove(0);
        Ok(())
    }

    /// Reads everything back, checks it, and makes it a store: [`Store::replace_with`] can take it from then on.
    /// A damaged file is dropped and missing again.
    pub fn finish(&mut self, pace: &mut dyn Pace) -> Result<(), IncomingError> {
        if !self.missing.is_empty() {
            return Err(IncomingError::Incomplete { files: self.missing.len() });
        }
        for kind in kinds(&self.manifest).filter(|_| !crate::mutants::planted!(SkipSnapshotCheck)) {
            let file = kind.file();
            let path = format!("{}/{}", self.folder, file.name);
            let checked = check_whole(self.disk.as_ref(), &path, &file, pace).and_then(|()| match kind {
                Kind::Run(info) => check_run(self.disk.as_ref(), &path, info),
                Kind::Segment(number, info) => self.check_segment(number, info, pace),
            });
            match checked {
                Ok(()) => {}
                Err(StoreError::Corrupt { what, offset, .. }) => {
                    remove_if_there(self.disk.as_ref(), &path)?;
                    self.missing.push(kind);
                    let what = format!("at offset {offset}: {what}");
                    return Err(IncomingError::DamagedFile { name: file.name, what });
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.manifest.commit(self.disk.as_ref())?;
        self.disk.sync_dir("").map_err(|e| StoreError::io(".", e))?;
        Ok(())
    }

    fn check_segment(&self, number: u32, info: SegmentInfo, pace: &mut dyn Pace) -> Result<(), StoreError> {
        let source = SegmentSource::new(self.disk.clone(), self.manifest.identity, self.manifest.generation);
        let file = source.existing(number, info.salt);
        let damaged = |offset: u32, what| StoreError::corrupt(&file.path, offset.into(), what);
        let mut block = vec![0; SEGMENT_BLOCK_BYTES as usize];
        let reader = file.reader().map_err(|e| StoreError::io(&file.path, e))?;
        reader.read_at(&mut block, 0).map_err(|e| StoreError::reading(&file.path, 0, e))?;
        check_header(&block, number, info.salt).map_err(|what| damaged(0, what))?;

        let scan = SegmentScan { file: file.clone(), end: info.len };
        let (mut offset, mut records) = (SEGMENT_BLOCK_BYTES, 0);
        while offset < info.len {
            let window = scan.read_window(offset, PIECE_BYTES)?;
            pace.read(window.bytes.len());
            for &record in &window.records {
                let (at, head, body) = window.record(record, offset, info.salt);
                if !head.fits(body) {
                    return Err(damaged(at, "a record's body does not match its checksum"));
                }
            }
            if window.lost {
                return Err(damaged(
                    offset + window.used as u32,
                    "a record's header does not match its checksum",
                ));
            }
            offset += window.used as u32;
            records += window.records.len() as u32;
        }
        if records != info.records {
            return Err(damaged(offset, "the segment has fewer records than its manifest says"));
        }
        Ok(())
    }
}

/// The file has the checksum that the manifest says.
fn check_whole(
    disk: &dyn Disk,
    path: &str,
    file: &ExportFile,
    pace: &mut dyn Pace,
) -> Result<(), StoreError> {
    let reader =
        disk.open(path, Mode { read_only: true, ..Mode::default() }).map_err(|e| StoreError::io(path, e))?;
    let mut piece = vec![0; PIECE_BYTES];
    let (mut offset, mut crc) = (0, 0);
    while offset < file.len {
        let len = ((file.len - offset) as usize).min(PIECE_BYTES);
        reader.read_at(&mut piece[..len], offset).map_err(|e| StoreError::reading(path, offset, e))?;
        crc = crc32c::crc32c_append(crc, &piece[..len]);
        pace.read(len);
        offset += len as u64;
    }
    if crc != file.crc {
        return Err(StoreError::corrupt(path, 0, "the file does not match its checksum"));
    }
    Ok(())
}

/// Every block and entry of a run is sound.
fn check_run(disk: &dyn Disk, path: &str, info: RunInfo) -> Result<(), StoreError> {
    let mut reader = RunReader::open(disk, path, info)?;
    while reader.advance()? {}
    Ok(())
}
