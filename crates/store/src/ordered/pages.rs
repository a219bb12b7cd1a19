//! The leaf pages, by u32 handle, in chunks of 2 MiB.
//!
//! Handles are dense: pages `0..len` are all in use. Whoever frees a page moves the last one into its place, so that
//! memory goes back a chunk at a time however the deletes were spread.

use super::page::{PAGE_BYTES, Page};

const CHUNK_PAGES: usize = 1024;
/// The last chunk, once empty, is kept until the one before it has this many free pages.
const SPARE_PAGES: usize = CHUNK_PAGES / 4;

/// Every chunk has its capacity from the start; the first one grows, as most tables are small.
#[derive(Default)]
pub(super) struct Pages {
    chunks: Vec<Vec<Page>>,
    len: usize,
}

impl Pages {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, handle: u32) -> &Page {
        let handle = handle as usize;
        &self.chunks[handle / CHUNK_PAGES][handle % CHUNK_PAGES]
    }

    pub(super) fn get_mut(&mut self, handle: u32) -> &mut Page {
        let handle = handle as usize;
        &mut self.chunks[handle / CHUNK_PAGES][handle % CHUNK_PAGES]
    }

    /// Adds an empty page.
    pub(super) fn add(&mut self) -> u32 {
        let handle = u32::try_from(self.len).expect("fewer than 2^32 pages fit in memory");
        let chunk = self.len / CHUNK_PAGES;
        if chunk == self.chunks.len() {
            self.chunks.push(if chunk == 0 { Vec::new() } else { Vec::with_capacity(CHUNK_PAGES) });
        }
        self.chunks[chunk].push(Page::EMPTY);
        self.len += 1;
        handle
    }

    /// Moves the last page into the place of `hole` and drops the last place.
    pub(super) fn swap_remove(&mut self, hole: u32) {
        let last = self.len - 1;
        let page = self.chunks[last / CHUNK_PAGES].pop().expect("pages are dense");
        self.len = last;
        if hole as usize != last {
            *self.get_mut(hole) = page;
        }
        let chunks = self.chunks.len();
        if chunks > 1 && self.len + SPARE_PAGES <= (chunks - 1) * CHUNK_PAGES {
            self.chunks.pop();
        }
        if let [first] = &mut self.chunks[..]
            && first.len() * 4 < first.capacity()
        {
            first.shrink_to(first.len() * 2);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.capacity() * PAGE_BYTES).sum()
    }
}
