//! One table's rows: an ordered map from key to *value*, where a value is the location of the body (if any) followed
//! by the row's own bytes. Run files hold the same value bytes.

use std::ops::ControlFlow;

use crate::fields::{Fields, put_varint};
use crate::hash::row_hash;
use crate::ordered::{Builder, Ordered};
use crate::{Location, ROW_BYTES_MAX};

const NO_BODY: u8 = 0;
const WITH_BODY: u8 = 1;
/// The longest prefix before a row: a flags byte and three varints.
pub(crate) const PREFIX_BYTES_MAX: usize = 1 + 3 * 5;

/// Writes a value over whatever `out` held. The segment is the file's number, not the outward one.
pub(crate) fn encode_value(out: &mut Vec<u8>, body: Option<Location>, row: &[u8]) {
    out.clear();
    match body {
        None => out.push(NO_BODY),
        Some(at) => {
            out.push(WITH_BODY);
            put_varint(out, at.segment);
            put_varint(out, at.offset);
            put_varint(out, at.len);
        }
    }
    out.extend_from_slice(row);
}

/// Location and row of a value; `None` where the bytes are no value.
pub(crate) fn decode_value(value: &[u8]) -> Option<(Option<Location>, &[u8])> {
    let mut fields = Fields::new(value);
    let body = match fields.u8()? {
        NO_BODY => None,
        WITH_BODY => {
            Some(Location { segment: fields.varint()?, offset: fields.varint()?, len: fields.varint()? })
        }
        _ => return None,
    };
    (fields.rest().len() <= ROW_BYTES_MAX).then_some((body, fields.rest()))
}

/// Values that are in memory were written by [`encode_value`] or checked when they were read.
pub(crate) fn known(value: &[u8]) -> (Option<Location>, &[u8]) {
    decode_value(value).expect("a value in memory is well formed")
}

type Visit<'a> = dyn FnMut(&[u8], Option<Location>, &[u8]) -> ControlFlow<()> + 'a;

#[derive(Default)]
pub(crate) struct Rows {
    index: Ordered,
}

impl Rows {
    pub(crate) fn len(&self) -> u64 {
        self.index.len() as u64
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<(Option<Location>, &[u8])> {
        self.index.get(key).map(known)
    }

    /// Sets a value. The value before, if there was one, is in `old`.
    pub(crate) fn insert(&mut self, key: &[u8], value: &[u8], old: &mut Vec<u8>) -> bool {
        self.index.insert(key, value, old)
    }

    /// Removes a value, which is then in `old`; false if there was none.
    pub(crate) fn remove(&mut self, key: &[u8], old: &mut Vec<u8>) -> bool {
        self.index.remove(key, old)
    }

    pub(crate) fn count(&self, from: &[u8], to: Option<&[u8]>) -> u64 {
        self.index.count(from, to) as u64
    }

    pub(crate) fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: &mut Visit<'_>) {
        self.index.scan(from, to, &mut |key, value| {
            let (body, row) = known(value);
            visit(key, body, row)
        });
    }

    pub(crate) fn scan_reverse(&self, from: &[u8], to: Option<&[u8]>, visit: &mut Visit<'_>) {
        self.index.scan_reverse(from, to, &mut |key, value| {
            let (body, row) = known(value);
            visit(key, body, row)
        });
    }
}

/// Builds [`Rows`] in bulk from ascending keys.
#[derive(Default)]
pub(crate) struct RowsBuilder {
    index: Builder,
    rows: u64,
    hash: u128,
}

impl RowsBuilder {
    /// Keys must come in strictly ascending order; `None` where this one does not, or where `value` is no value.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (_, row) = decode_value(value)?;
        self.hash = self.hash.wrapping_add(row_hash(key, row));
        self.rows += 1;
        self.index.push(key, value).ok()
    }

    /// The rows, how many they are, and their hash.
    pub(crate) fn finish(self) -> (Rows, u64, u128) {
        (Rows { index: self.index.finish() }, self.rows, self.hash)
    }
}
