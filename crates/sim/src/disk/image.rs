//! A file's bytes, in shared pages: a copy costs a pointer a page, and pages that were never written cost nothing.

use std::sync::Arc;

const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

/// The contents of one file at one moment. A missing page reads as zeros.
#[derive(Clone, Default)]
pub(super) struct Image {
    pages: Vec<Option<Arc<Page>>>,
    len: u64,
}

impl Image {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buf` from `offset`; bytes beyond the end read as zeros (the caller checks the length).
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) {
        for (at, in_page, in_buf) in pieces(offset, buf.len()) {
            match self.pages.get(at).and_then(Option::as_ref) {
                Some(page) => buf[in_buf].copy_from_slice(&page[in_page]),
                None => buf[in_buf].fill(0),
            }
        }
    }

    /// Writes `data` at `offset`, growing the file where needed.
    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let end = offset + data.len() as u64;
        self.len = self.len.max(end);
        let pages =
            usize::try_from(self.len.div_ceil(PAGE_BYTES as u64)).expect("a simulated file fits in memory");
        if self.pages.len() < pages {
            self.pages.resize(pages, None);
        }
        for (at, in_page, in_buf) in pieces(offset, data.len()) {
            let page = self.pages[at].get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[in_page].copy_from_slice(&data[in_buf]);
        }
    }

    /// Cuts or grows (with zeros) to `len`.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let keep =
                usize::try_from(len.div_ceil(PAGE_BYTES as u64)).expect("a simulated file fits in memory");
            self.pages.truncate(keep);
            let cut = (len % PAGE_BYTES as u64) as usize;
            if cut > 0
                && let Some(Some(page)) = self.pages.get_mut(keep - 1)
            {
                Arc::make_mut(page)[cut..].fill(0);
            }
        }
        self.len = len;
    }

    /// The place of a byte that is not zero, drawn with `below`.
    pub(super) fn written(&self, below: &mut dyn FnMut(u64) -> u64) -> Option<u64> {
        let holds = |page: &&Arc<Page>| page.iter().any(|byte| *byte != 0);
        let pages: Vec<usize> =
            (0..self.pages.len()).filter(|&at| self.pages[at].as_ref().filter(holds).is_some()).collect();
        let mut pick = |count: usize| (count > 0).then(|| below(count as u64) as usize);
        let at = pages[pick(pages.len())?];
        let page = self.pages[at].as_ref().expect("chosen because it holds something");
        let bytes: Vec<usize> = (0..PAGE_BYTES).filter(|&byte| page[byte] != 0).collect();
        Some((at * PAGE_BYTES + bytes[pick(bytes.len())?]) as u64).filter(|offset| *offset < self.len)
    }

    /// Flips one bit; false where the place was never written.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        let at = (offset / PAGE_BYTES as u64) as usize;
        let Some(Some(page)) = self.pages.get_mut(at) else { return false };
        Arc::make_mut(page)[(offset % PAGE_BYTES as u64) as usize] ^= 1 << bit;
        true
    }
}

/// Cuts `[offset, offset + len)` at page ends: page number, range in that page, range in the buffer.
fn pieces(
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (usize, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % PAGE_BYTES as u64) as usize;
        let take = (PAGE_BYTES - start).min(len - done);
        let piece = ((at / PAGE_BYTES as u64) as usize, start..start + take, done..done + take);
        done += take;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_over_page_ends_read_back_and_a_cut_tail_reads_as_zeros_after_growing_again() {
        let mut image = Image::default();
        let data: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        image.write(&data, 4000);
        assert_eq!(image.len(), 14_000);
        let mut back = vec![1; 14_000];
        image.read(&mut back, 0);
        assert!(back[..4000].iter().all(|b| *b == 0));
        assert_eq!(&back[4000..], &data[..]);
        image.set_len(5000);
        image.set_len(14_000);
        image.read(&mut back, 0);
        assert_eq!(&back[4000..5000], &data[..1000]);
        assert!(back[5000..].iter().all(|b| *b == 0));
    }
}
