//! Reading bodies: from memory where they are there, else from their segment, checked.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::record::{Head, Lengths, RECORD_HEADER_BYTES, decode_head, lengths};
use crate::segment::SegmentFile;
use crate::{BodyError, Location, RecordName, Store, Tables};

/// Keys of up to this many bytes are read along with header and body at once.
const KEY_BYTES_GUESS: usize = 192;

/// Where a body is.
pub(crate) enum Found {
    Here(Bytes),
    OnDisk(RecordAt),
    Gone,
}

/// A record on disk; reading it needs no lock.
pub(crate) struct RecordAt {
    pub(crate) file: Arc<SegmentFile>,
    /// Within the folder.
    pub(crate) at: Location,
    /// What is durable of the segment.
    pub(crate) end: u32,
    /// The segment's number as the reader knows it, for messages.
    pub(crate) outward_segment: u32,
}

/// A record's bytes, checked: head and then body.
pub(crate) struct ReadRecord {
    bytes: Bytes,
    head_len: usize,
    salt: u32,
    offset: u32,
}

impl ReadRecord {
    pub(crate) fn head(&self) -> Head<'_> {
        decode_head(&self.bytes[..self.head_len], self.salt, self.offset).expect("checked when it was read")
    }

    pub(crate) fn body(&self) -> Bytes {
        self.bytes.slice(self.head_len..)
    }
}

/// Reads bytes at an offset; false if that would have to wait.
type ReadAt<'a> = &'a dyn Fn(&mut [u8], u64) -> io::Result<bool>;

impl RecordAt {
    fn corrupt(&self, what: &'static str, name: Option<Box<RecordName>>) -> BodyError {
        BodyError::Corrupt { segment: self.outward_segment, offset: self.at.offset, what, name }
    }

    fn failed(&self, error: io::Error) -> BodyError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt("the segment ends too early", None),
            io::ErrorKind::NotFound => self.corrupt("the segment file is missing", None),
            _ => BodyError::Io {
                segment: self.outward_segment,
                offset: self.at.offset,
                error: Arc::new(error),
            },
        }
    }

    /// Waits for the disk.
    pub(crate) fn read(&self) -> Result<ReadRecord, BodyError> {
        let file = self.file.reader().map_err(|e| self.failed(e))?;
        let read = |buf: &mut [u8], offset: u64| file.read_at(buf, offset).map(|()| true);
        Ok(self.read_with(&read)?.expect("a read that waits has its bytes"))
    }

    /// `None` if it would have to wait.
    fn try_read(&self) -> Result<Option<ReadRecord>, BodyError> {
        let file = self.file.reader().map_err(|e| self.failed(e))?;
        self.read_with(&|buf, offset| file.try_read_at(buf, offset))
    }

    fn read_with(&self, read: ReadAt<'_>) -> Result<Option<ReadRecord>, BodyError> {
        let room = self.end.saturating_sub(self.at.offset) as usize;
        let least = RECORD_HEADER_BYTES + self.at.len as usize;
        if room < least {
            return Err(self.corrupt("no record can lie there, so close to the segment's end", None));
        }
        let mut bytes = vec![0; room.min(least + KEY_BYTES_GUESS)];
        if !read(&mut bytes, self.at.offset.into()).map_err(|e| self.failed(e))? {
            return Ok(None);
        }
        let header_damaged = || self.corrupt("the record's header does not match its checksum", None);
        let Lengths { head, body } = lengths(&bytes).ok_or_else(header_damaged)?;
        if body != self.at.len as usize {
            return Err(self.corrupt("the record there has another length than the index says", None));
        }
        let have = bytes.len();
        if head + body > room {
            return Err(header_damaged());
        }
        bytes.resize(head + body, 0);
        if head + body > have {
            let from = u64::from(self.at.offset) + have as u64;
            if !read(&mut bytes[have..], from).map_err(|e| self.failed(e))? {
                return Ok(None);
            }
        }
        let salt = self.file.salt();
        let decoded = decode_head(&bytes[..head], salt, self.at.offset).ok_or_else(header_damaged)?;
        if !decoded.fits(&bytes[head..]) {
            let (table, key) = decoded.owners.first;
            let name = RecordName { table, key: key.to_vec(), stamp: decoded.stamp };
            return Err(self.corrupt("the record's body does not match its checksum", Some(Box::new(name))));
        }
        Ok(Some(ReadRecord { bytes: Bytes::from(bytes), head_len: head, salt, offset: self.at.offset }))
    }

    /// The head alone, if it is intact.
    pub(crate) fn read_head(&self) -> Option<Vec<u8>> {
        let file = self.file.reader().ok()?;
        let mut head = vec![0; RECORD_HEADER_BYTES];
        file.read_at(&mut head, self.at.offset.into()).ok()?;
        let len = lengths(&head)?.head;
        head.resize(len, 0);
        file.read_at(&mut head, self.at.offset.into()).ok()?;
        decode_head(&head, self.file.salt(), self.at.offset)?;
        Some(head)
    }
}

impl Tables {
    pub(crate) fn find(&self, at: Location) -> Found {
        let outward_segment = at.segment;
        let Some(at) = self.place(at) else { return Found::Gone };
        if let Some(body) = self.resident_body(at) {
            return Found::Here(body);
        }
        match self.segments.get(&at.segment) {
            None => Found::Gone,
            Some(segment) => Found::OnDisk(RecordAt {
                file: segment.file.clone(),
                at,
                end: segment.durable_bytes,
                outward_segment,
            }),
        }
    }
}

impl Store {
    /// Reads a body, waiting for the disk where it must. Never call it with a lock of [`Self::read`] held.
    pub fn load(&self, at: Location) -> Result<Bytes, BodyError> {
        let found = self.read().find(at);
        match found {
            Found::Here(body) => Ok(body),
            Found::OnDisk(record) => record.read().map(|record| record.body()),
            Found::Gone => Err(BodyError::Gone { segment: at.segment }),
        }
    }

    /// As [`Self::load`], without waiting for the disk: `None` where that would be needed.
    pub fn try_load(&self, at: Location) -> Result<Option<Bytes>, BodyError> {
        let found = self.read().find(at);
        match found {
            Found::Here(body) => Ok(Some(body)),
            Found::OnDisk(record) => Ok(record.try_read()?.map(|record| record.body())),
            Found::Gone => Err(BodyError::Gone { segment: at.segment }),
        }
    }
}
