//! Segment files: where bodies lie on disk.
//!
//! A segment's number is never used twice within a generation. Its first block says whose it is; the checksum of that
//! block is the *salt* of every record in it, so that a record of another segment, member or generation never passes.

use std::sync::{Arc, OnceLock};

use quorate_disk::{Disk, File, Mode};

use crate::config::{Identity, SEGMENT_BLOCK_BYTES, segment_name};
use crate::{StoreError, generation_folder};

const SEGMENT_MAGIC: &[u8; 8] = b"QUORSEG\0";
const SEGMENT_VERSION: u32 = 1;
const SEGMENT_HEADER_BYTES: usize = 56;

/// Makes the segments of one generation.
#[derive(Clone)]
pub(crate) struct SegmentSource {
    disk: Arc<dyn Disk>,
    identity: Identity,
    generation: u64,
}

impl SegmentSource {
    pub(crate) fn new(disk: Arc<dyn Disk>, identity: Identity, generation: u64) -> Self {
        Self { disk, identity, generation }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The first bytes of a segment made by this member; the salt is their last four.
    pub(crate) fn header(&self, number: u32) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut header = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        header.extend_from_slice(SEGMENT_MAGIC);
        header.extend_from_slice(&SEGMENT_VERSION.to_le_bytes());
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(&self.identity.cluster.0.to_le_bytes());
        header.extend_from_slice(&self.identity.member.0.to_le_bytes());
        header.extend_from_slice(&self.identity.incarnation.0.to_le_bytes());
        header.extend_from_slice(&self.generation.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        header.try_into().expect("the fields add up to SEGMENT_HEADER_BYTES")
    }

    /// A new segment of this member's own.
    pub(crate) fn segment(&self, number: u32) -> Arc<SegmentFile> {
        let header = self.header(number);
        self.existing(
            number,
            u32::from_le_bytes(header[SEGMENT_HEADER_BYTES - 4..].try_into().expect("four bytes")),
        )
    }

    /// A segment that the manifest names, whoever made it.
    pub(crate) fn existing(&self, number: u32, salt: u32) -> Arc<SegmentFile> {
        let path = format!("{}/{}", generation_folder(self.generation), segment_name(number));
        Arc::new(SegmentFile { disk: self.disk.clone(), path, salt, reader: OnceLock::new() })
    }
}

/// Checks a segment's first block against what the manifest says of it.
pub(crate) fn check_header(block: &[u8], number: u32, salt: u32) -> Result<(), &'static str> {
    let Some((header, rest)) = block.split_at_checked(SEGMENT_HEADER_BYTES) else {
        return Err("the segment header is cut off");
    };
    if &header[..8] != SEGMENT_MAGIC || header[8..12] != SEGMENT_VERSION.to_le_bytes() {
        return Err("not a segment of a version that this program reads");
    }
    if header[12..16] != number.to_le_bytes() {
        return Err("the segment header names another segment");
    }
    let crc = crc32c::crc32c(&header[..SEGMENT_HEADER_BYTES - 4]);
    if crc.to_le_bytes() != header[SEGMENT_HEADER_BYTES - 4..] || crc != salt {
        return Err("the segment header's checksum does not match");
    }
    if rest.iter().any(|&byte| byte != 0) {
        return Err("the block of the segment header is not zero behind it");
    }
    Ok(())
}

pub(crate) struct SegmentFile {
    disk: Arc<dyn Disk>,
    pub(crate) path: String,
    salt: u32,
    reader: OnceLock<Arc<dyn File>>,
}

impl SegmentFile {
    pub(crate) fn salt(&self) -> u32 {
        self.salt
    }

    /// For reading; opened when it is first needed.
    pub(crate) fn reader(&self) -> std::io::Result<&Arc<dyn File>> {
        if let Some(reader) = self.reader.get() {
            return Ok(reader);
        }
        let opened = self.disk.open(&self.path, Mode { read_only: true, ..Mode::default() })?;
        Ok(self.reader.get_or_init(|| opened))
    }

    /// For a checkpoint to write to.
    pub(crate) fn writer(&self) -> Result<Arc<dyn File>, StoreError> {
        let mode = Mode { create: true, direct: true, ..Mode::default() };
        self.disk.open(&self.path, mode).map_err(|e| StoreError::io(&self.path, e))
    }
}

/// What the tables know of a segment.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) file: Arc<SegmentFile>,
    /// Weights of all records, and of those that are not retired; see [`crate::record::weight`].
    pub(crate) weight_total: u64,
    pub(crate) weight_live: u64,
    /// What is durable of it; 0 before its first checkpoint.
    pub(crate) durable_bytes: u32,
    pub(crate) durable_records: u32,
    /// All live records were moved away; it goes with a coming checkpoint, and once no pin is older.
    pub(crate) vacated: bool,
}

impl Segment {
    pub(crate) fn new(file: Arc<SegmentFile>) -> Self {
        Self { file, weight_total: 0, weight_live: 0, durable_bytes: 0, durable_records: 0, vacated: false }
    }
}

const _: () = assert!(SEGMENT_HEADER_BYTES <= SEGMENT_BLOCK_BYTES as usize);
