//! The leaf pages, by u32 handle, in chunks of 2 MiB.
//!
//! Handles are dense: pages `0..len` are all in use. Whoever frees a page moves the last one into its place, so that
//! memory goes back a chunk at a time however the deletes were spread.

use super::page::{PAGE_BYTES, Page};

const CHUNK_PAGES: usize = 1024;
/// By so many pages the last chunk grows at most; at most half as many again are free in it.
const GROWTH_PAGES_MAX: usize = CHUNK_PAGES / 16;

/// All chunks but the last are full.
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
        if self.len.is_multiple_of(CHUNK_PAGES) {
            self.chunks.push(Vec::new());
        }
        let chunk = self.chunks.last_mut().expect("there is a last chunk");
        if chunk.len() == chunk.capacity() {
            chunk.reserve_exact(growth_pages(chunk.len()));
        }
        chunk.push(Page::EMPTY);
        self.len += 1;
        handle
    }

    /// Moves the last page into the place of `hole` and drops the last place.
    pub(super) fn swap_remove(&mut self, hole: u32) {
        let chunk = self.chunks.last_mut().expect("a hole is a page");
        let page = chunk.pop().expect("no chunk is empty");
        let spare = growth_pages(chunk.len());
        if chunk.is_empty() {
            self.chunks.pop();
        } else if chunk.capacity() > chunk.len() + spare + spare / 2 {
            chunk.shrink_to(chunk.len() + spare / 2);
        }
        self.len -= 1;
        if hole as usize != self.len {
            *self.get_mut(hole) = page;
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.capacity() * PAGE_BYTES).sum()
    }
}

/// Small tables double; larger ones take a fixed step.
fn growth_pages(len: usize) -> usize {
    len.clamp(1, GROWTH_PAGES_MAX)
}
