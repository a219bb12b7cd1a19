//! Going through a segment file from its first record to its end.
//!
//! Records follow each other without a gap, up to the padding that each checkpoint ends with. A header is trusted only
//! after its checksum: where one is damaged, what follows cannot be found from here, and the scan says so.

use std::sync::Arc;

use crate::StoreError;
use crate::config::padded;
use crate::record::{Head, RECORD_HEADER_BYTES, decode_head, lengths};
use crate::segment::SegmentFile;

/// A segment that is scanned: its file and how much of it is durable.
pub(crate) struct SegmentScan {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) end: u32,
}

impl SegmentScan {
    /// Reads from `offset` on and finds the whole records in it: at least one, or the end of the segment.
    pub(crate) fn read_window(&self, offset: u32, budget: usize) -> Result<Window, StoreError> {
        let mut window = Window { bytes: Vec::new(), records: Vec::new(), used: 0, lost: false };
        let mut want = budget;
        loop {
            let len = want.min((self.end - offset) as usize);
            let have = window.bytes.len();
            window.bytes.resize(len, 0);
            let from = u64::from(offset) + have as u64;
            let path = &self.file.path;
            let reader = self.file.reader().map_err(|e| StoreError::io(path, e))?;
            reader
                .read_at(&mut window.bytes[have..], from)
                .map_err(|e| StoreError::reading(path, from, e))?;
            let need = window.parse(offset, self.file.salt(), len == (self.end - offset) as usize);
            match need {
                Some(need) if window.records.is_empty() && window.used == 0 => want = need,
                _ => return Ok(window),
            }
        }
    }
}

/// What was found in a window of the file.
pub(crate) struct Window {
    pub(crate) bytes: Vec<u8>,
    /// Start of each whole record within `bytes`, and how long head and body are.
    pub(crate) records: Vec<(usize, usize, usize)>,
    /// Bytes that are done with.
    pub(crate) used: usize,
    /// A header is damaged: what follows cannot be found from here.
    pub(crate) lost: bool,
}

impl Window {
    /// Head and body of a record of this window, which starts at `offset` of the segment.
    pub(crate) fn record(
        &self,
        record: (usize, usize, usize),
        offset: u32,
        salt: u32,
    ) -> (u32, Head<'_>, &[u8]) {
        let (start, head_len, body_len) = record;
        let at = offset + start as u32;
        let (head, body) = self.bytes[start..start + head_len + body_len].split_at(head_len);
        (at, decode_head(head, salt, at).expect("checked when it was found"), body)
    }

    /// Finds records from `used` on. How many bytes of the window are needed to see the next one, where it is cut off.
    fn parse(&mut self, offset: u32, salt: u32, is_last: bool) -> Option<usize> {
        while self.used < self.bytes.len() {
            let rest = &self.bytes[self.used..];
            let position = offset + self.used as u32;
            if rest[0] == 0 {
                // Padding goes up to the next block, and is zero.
                let padding = (padded(position + 1) - position) as usize;
                if rest.len() < padding && !is_last {
                    return Some(self.used + padding);
                }
                self.lost = rest.len() < padding || rest[..padding].iter().any(|&byte| byte != 0);
                if self.lost {
                    return None;
                }
                self.used += padding;
                continue;
            }
            let known = (rest.len() >= RECORD_HEADER_BYTES).then(|| lengths(rest));
            let need = match known {
                Some(None) => {
                    self.lost = true;
                    return None;
                }
                Some(Some(lengths)) => lengths.head + lengths.body,
                None => RECORD_HEADER_BYTES,
            };
            if need > rest.len() {
                self.lost = is_last;
                return (!is_last).then_some(self.used + need);
            }
            let lengths = lengths(rest).expect("looked at above");
            if decode_head(&rest[..lengths.head], salt, position).is_none() {
                self.lost = true;
                return None;
            }
            self.records.push((self.used, lengths.head, lengths.body));
            self.used += need;
        }
        None
    }
}
