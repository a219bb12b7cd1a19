//! A record: a body, who owns it, and which command wrote it. The layout is in `docs/formats/store.md`.
//!
//! The header has a checksum of its own, seeded with the segment's salt and the record's offset: a record read from
//! the wrong place fails it. The body's checksum is apart, so that a damaged body leaves an owner and a stamp that can
//! be trusted, and says what the mended body must be.

use bytes::Bytes;
use quorate_ids::LogIndex;

use crate::fields::Fields;
use crate::{BODY_BYTES_MAX, KEY_BYTES_MAX, Location, Owners, Stamp, TableId};

pub(crate) const RECORD_HEADER_BYTES: usize = 36;
const KIND_ONE_OWNER: u8 = 0xa1;
const KIND_TWO_OWNERS: u8 = 0xa2;

/// What a record counts for when a segment's live share is taken: what a location alone can tell.
pub(crate) fn weight(at: Location) -> u64 {
    RECORD_HEADER_BYTES as u64 + u64::from(at.len)
}

pub(crate) fn record_bytes(owners: &Owners<'_>, body_len: usize) -> usize {
    RECORD_HEADER_BYTES + owners.first.1.len() + owners.second.map_or(0, |(_, key)| key.len()) + body_len
}

/// The bytes before the body: header and keys.
pub(crate) fn encode_head(
    out: &mut Vec<u8>,
    place: (u32, u32),
    stamp: Stamp,
    owners: &Owners<'_>,
    body_len: usize,
    body_crc: u32,
) {
    let (salt, offset) = place;
    let (second_table, second_key) = owners.second.map_or((0, &b""[..]), |(table, key)| (table.0, key));
    let kind = if owners.second.is_some() { KIND_TWO_OWNERS } else { KIND_ONE_OWNER };
    out.clear();
    out.extend_from_slice(&[kind, owners.first.0.0, second_table, 0]);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&body_crc.to_le_bytes());
    out.extend_from_slice(&u32::try_from(body_len).expect("bounded by BODY_BYTES_MAX").to_le_bytes());
    out.extend_from_slice(&stamp.index.0.to_le_bytes());
    out.extend_from_slice(&stamp.place.to_le_bytes());
    out.extend_from_slice(&(owners.first.1.len() as u32).to_le_bytes());
    out.extend_from_slice(&(second_key.len() as u32).to_le_bytes());
    assert_eq!(out.len(), RECORD_HEADER_BYTES);
    out.extend_from_slice(owners.first.1);
    out.extend_from_slice(second_key);
    let crc = head_crc(salt, offset, out);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Over salt, offset and all of the head but the checksum itself.
fn head_crc(salt: u32, offset: u32, head: &[u8]) -> u32 {
    let mut first = [0u8; 12];
    first[..4].copy_from_slice(&salt.to_le_bytes());
    first[4..8].copy_from_slice(&offset.to_le_bytes());
    first[8..].copy_from_slice(&head[..4]);
    crc32c::crc32c_append(crc32c::crc32c(&first), &head[8..])
}

/// The lengths in a header, not yet checked by its checksum but by their bounds.
pub(crate) struct Lengths {
    pub(crate) head: usize,
    pub(crate) body: usize,
}

/// How long the record says it is; `None` where no record can start like this.
pub(crate) fn lengths(header: &[u8]) -> Option<Lengths> {
    let mut fields = Fields::new(header);
    let kind = fields.u8()?;
    fields.take(11)?;
    let body = fields.u32()? as usize;
    fields.take(12)?;
    let (first, second) = (fields.u32()? as usize, fields.u32()? as usize);
    let owners = kind == KIND_TWO_OWNERS || (kind == KIND_ONE_OWNER && second == 0);
    let bounded = body <= BODY_BYTES_MAX && first <= KEY_BYTES_MAX && second <= KEY_BYTES_MAX;
    (owners && bounded).then_some(Lengths { head: RECORD_HEADER_BYTES + first + second, body })
}

/// A header and its keys, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) owners: Owners<'a>,
    pub(crate) stamp: Stamp,
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
}

/// Reads and checks `head` (exactly header and keys) of the record at `offset` of the segment with `salt`.
pub(crate) fn decode_head(head: &[u8], salt: u32, offset: u32) -> Option<Head<'_>> {
    let lengths = lengths(head)?;
    if head.len() != lengths.head || head[3] != 0 {
        return None;
    }
    let mut fields = Fields::new(head);
    let kind = fields.u8()?;
    let (first_table, second_table) = (TableId(fields.u8()?), TableId(fields.u8()?));
    fields.u8()?;
    if fields.u32()? != head_crc(salt, offset, head) {
        return None;
    }
    let (body_crc, body_len) = (fields.u32()?, fields.u32()?);
    let stamp = Stamp { index: LogIndex(fields.u64()?), place: fields.u32()? };
    let (first_len, second_len) = (fields.u32()? as usize, fields.u32()? as usize);
    let first = (first_table, fields.take(first_len)?);
    let second_key = fields.take(second_len)?;
    let second = (kind == KIND_TWO_OWNERS).then_some((second_table, second_key));
    Some(Head { owners: Owners { first, second }, stamp, body_len, body_crc })
}

impl Head<'_> {
    /// Is `body` the one that was written?
    pub(crate) fn fits(&self, body: &[u8]) -> bool {
        let checked = crate::mutants::planted!(SkipBodyCheck) || crc32c::crc32c(body) == self.body_crc;
        body.len() == self.body_len as usize && checked
    }
}

/// A record as one member hands it to another that has lost it: [`crate::Store::record`], [`crate::Store::mend`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedRecord {
    pub stamp: Stamp,
    pub first: (TableId, Vec<u8>),
    pub second: Option<(TableId, Vec<u8>)>,
    /// The row of the owner that was asked for: both members must hold the same.
    pub row: Vec<u8>,
    pub body: Bytes,
}

impl FetchedRecord {
    pub(crate) fn owners(&self) -> Owners<'_> {
        Owners {
            first: (self.first.0, &self.first.1),
            second: self.second.as_ref().map(|(table, key)| (*table, key.as_slice())),
        }
    }

    pub(crate) fn is_owned_by(&self, table: TableId, key: &[u8]) -> bool {
        let owners = self.owners();
        owners.first == (table, key) || owners.second == Some((table, key))
    }
}
