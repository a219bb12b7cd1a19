//! The reserve: a file that holds space on the disk, to be given free when the disk is full, so that it can be emptied.
//!
//! The file `reserve`: a block that says how much it holds when it is whole (see `docs/formats/reserve.md`), and as much
//! behind it, allocated and never read. Invariants:
//!
//! - That a part is given free shows in the file's length, so a restart knows it, too.
//! - It is given free a piece at a time, to a stage that found no space; the last piece never to a snapshot: the log needs
//!   it, or the checkpoint that frees the log.
//! - It is taken again as a whole, and only where a quarter of it stays free beside it: puts go on after that.
//! - It is never needed for anything but space: whatever is wrong with it is said, and the member goes on without.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_disk::{Disk, File, Mode};

use crate::frame::Space;

pub(super) const FILE: &str = "reserve";
const MAGIC: &[u8; 8] = b"QUORRSV\0";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 4096;
/// Magic, version, bytes, CRC.
const FIELDS_BYTES: usize = 8 + 4 + 8 + 4;
/// A disk that can't spare the reserve gets a half, a quarter or an eighth of it.
const HALVINGS_MAX: u32 = 3;

/// See the module.
pub struct Reserve {
    disk: Arc<dyn Disk>,
    piece_bytes: u64,
    state: Mutex<State>,
    space: AtomicU8,
}

#[derive(Default)]
struct State {
    file: Option<Arc<dyn File>>,
    /// What is held when nothing was given free; 0: there is no reserve.
    whole_bytes: u64,
    held_bytes: u64,
}

impl Reserve {
    /// Finds the reserve, or takes one: of `bytes`, or of as much as leaves as much free. It is given free in pieces of
    /// `piece_bytes`. 0 bytes: none is wished for.
    #[must_use]
    pub fn open(disk: Arc<dyn Disk>, bytes: u64, piece_bytes: u64) -> Arc<Self> {
        let state = if bytes == 0 { State::default() } else { found(disk.as_ref(), bytes) };
        let this = Self {
            disk,
            piece_bytes: piece_bytes.max(1),
            state: Mutex::new(state),
            space: AtomicU8::new(Space::Enough as u8),
        };
        this.take(&mut this.lock());
        this.look_around(&this.lock());
        if bytes > 0 && this.lock().whole_bytes == 0 {
            tracing::warn!(
                bytes,
                "there is no room for a reserve on the disk; should it get full, it may have to be emptied by hand"
            );
        }
        Arc::new(this)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much space there is, as of the last look.
    #[must_use]
    pub fn space(&self) -> Space {
        Space::from_byte(self.space.load(Ordering::Acquire)).unwrap_or_default()
    }

    /// Gives a piece free; false: there is none to give.
    pub fn give(&self) -> bool {
        self.give_down_to(0)
    }

    /// Gives a piece free, but not the last one.
    pub fn give_but_the_last(&self) -> bool {
        self.give_down_to(self.piece_bytes)
    }

    fn give_down_to(&self, left_min: u64) -> bool {
        let mut state = self.lock();
        let Some(file) = state.file.clone() else { return false };
        let left_min = left_min.min(state.whole_bytes / 2);
        let left = state.held_bytes.saturating_sub(self.piece_bytes).max(left_min);
        if left >= state.held_bytes {
            return false;
        }
        let given = file.truncate(HEADER_BYTES + left).and_then(|()| file.sync_data());
        if let Err(error) = given {
            tracing::warn!(%error, "no part of the reserve could be given free");
            return false;
        }
        state.held_bytes = left;
        self.look_around(&state);
        true
    }

    /// Bytes that can be written to its disk, the last piece of the reserve left alone.
    #[must_use]
    pub fn room(&self) -> u64 {
        let held = self.lock().held_bytes.saturating_sub(self.piece_bytes);
        self.disk.free_bytes().unwrap_or(0).saturating_add(held)
    }

    /// Takes the reserve back, if the disk has space again. To be called now and then.
    pub fn look(&self) {
        let mut state = self.lock();
        self.take(&mut state);
        self.look_around(&state);
    }

    fn take(&self, state: &mut State) {
        let missing = state.whole_bytes - state.held_bytes;
        let Some(file) = state.file.as_ref().filter(|_| missing > 0) else { return };
        let free = self.disk.free_bytes().unwrap_or(0);
        if free < missing.saturating_add(state.whole_bytes / 4) {
            return;
        }
        let taken = file.preallocate(HEADER_BYTES + state.whole_bytes).and_then(|()| file.sync_data());
        match taken {
            Ok(()) => state.held_bytes = state.whole_bytes,
            // Some file systems keep what they found before they ran out; others need it.
            Err(error) => {
                tracing::debug!(%error, "the reserve could not be taken back yet");
                let _ = file.truncate(HEADER_BYTES + state.held_bytes);
            }
        }
    }

    fn look_around(&self, state: &State) {
        let space = if state.held_bytes < state.whole_bytes / 2 {
            Space::Last
        } else if state.held_bytes < state.whole_bytes {
            Space::Short
        } else if state.whole_bytes > 0
            && self.disk.free_bytes().is_ok_and(|free| free < 2 * state.whole_bytes)
        {
            Space::Nearly
        } else {
            Space::Enough
        };
        self.space.store(space as u8, Ordering::Release);
    }
}

/// Tries again and again, as long as all that an attempt lacked was space and `make_room` found some.
pub(super) fn with_room<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_no_space: impl Fn(&E) -> bool,
    mut make_room: impl FnMut() -> bool,
) -> Result<T, E> {
    loop {
        match attempt() {
            Err(error) if is_no_space(&error) && make_room() => {}
            ended => return ended,
        }
    }
}

/// The reserve that is there, or an empty one where there is none yet.
fn found(disk: &dyn Disk, wanted_bytes: u64) -> State {
    let opened = open_file(disk).and_then(|file| {
        let len = file.len()?;
        Ok((read_header(file.as_ref(), len), file, len))
    });
    let (known, file, len) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::warn!(%error, "the reserve on the disk can't be used");
            return State::default();
        }
    };
    let held_bytes = known.map_or(0, |whole| len.saturating_sub(HEADER_BYTES).min(whole));
    let free = disk.free_bytes().unwrap_or(0).saturating_add(held_bytes);
    let fits = (0..=HALVINGS_MAX).map(|halvings| wanted_bytes >> halvings).find(|bytes| free / 2 >= *bytes);
    let whole_bytes = match known {
        // A disk that is full does not make the reserve smaller: that would let puts in again.
        Some(whole) if whole <= wanted_bytes && held_bytes < whole => whole,
        Some(whole) => fits.unwrap_or(0).max(whole.min(wanted_bytes)),
        None => fits.unwrap_or(0),
    };
    if whole_bytes == 0 {
        // No file says so: an empty name would only be in the way of the next start.
        drop(file);
        let _ = disk.remove(FILE);
        return State::default();
    }
    let held_bytes = held_bytes.min(whole_bytes);
    if known != Some(whole_bytes) {
        let written = file
            .truncate(HEADER_BYTES + held_bytes)
            .and_then(|()| file.write_at(&header(whole_bytes), 0))
            .and_then(|()| file.sync_data())
            .and_then(|()| disk.sync_dir(""));
        if let Err(error) = written {
            tracing::warn!(%error, "the reserve on the disk can't be written");
            return State::default();
        }
    }
    // What a file system lists as the file's length need not be allocated: a copy may have holes.
    let held_bytes = match file.preallocate(HEADER_BYTES + held_bytes) {
        Ok(()) => held_bytes,
        Err(_) => file.truncate(HEADER_BYTES).map_or(held_bytes, |()| 0),
    };
    State { file: Some(file), whole_bytes, held_bytes }
}

fn open_file(disk: &dyn Disk) -> io::Result<Arc<dyn File>> {
    disk.open(FILE, Mode { create: true, ..Mode::default() })
}

/// `None`: nothing that makes sense.
fn read_header(file: &dyn File, len: u64) -> Option<u64> {
    let mut bytes = [0; FIELDS_BYTES];
    if len < HEADER_BYTES || file.read_at(&mut bytes, 0).is_err() {
        return None;
    }
    let whole = u64::from_le_bytes(bytes[12..20].try_into().expect("eight bytes"));
    (bytes[..] == header(whole)[..FIELDS_BYTES] && whole > 0).then_some(whole)
}

fn header(whole_bytes: u64) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend(whole_bytes.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out.resize(HEADER_BYTES as usize, 0);
    out
}

#[cfg(test)]
pub(super) fn no_reserve() -> Arc<Reserve> {
    Reserve::open(Arc::new(quorate_disk::MemoryDisk::new()), 0, 1)
}

#[cfg(test)]
mod tests {
    use quorate_disk::{Listed, MemoryDisk};

    use super::*;

    /// A disk in memory that holds so many bytes.
    #[derive(Clone)]
    struct SmallDisk {
        files: MemoryDisk,
        capacity: Arc<Mutex<u64>>,
    }

    struct SmallFile(Arc<dyn File>, SmallDisk);

    impl SmallDisk {
        fn new(capacity: u64) -> Self {
            Self { files: MemoryDisk::new(), capacity: Arc::new(Mutex::new(capacity)) }
        }

        fn set(&self, capacity: u64) {
            *self.capacity.lock().expect("a lock") = capacity;
        }

        fn reserve(&self, bytes: u64, piece: u64) -> Arc<Reserve> {
            Reserve::open(Arc::new(self.clone()), bytes, piece)
        }

        fn len(&self) -> Option<u64> {
            self.list("").expect("a list").first().map(|file| file.len)
        }
    }

    impl Disk for SmallDisk {
        fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
            Ok(Arc::new(SmallFile(self.files.open(path, mode)?, self.clone())))
        }
        fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
            self.files.list(folder)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.files.rename(from, to)
        }
        fn remove(&self, path: &str) -> io::Result<()> {
            self.files.remove(path)
        }
        fn sync_dir(&self, _: &str) -> io::Result<()> {
            Ok(())
        }
        fn free_bytes(&self) -> io::Result<u64> {
            let used: u64 = self.files.list("")?.iter().map(|file| file.len).sum();
            Ok(self.capacity.lock().expect("a lock").saturating_sub(used))
        }
    }

    impl File for SmallFile {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.read_at(buf, offset)
        }
        fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
            self.0.try_read_at(buf, offset)
        }
        fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
            self.0.write_at(data, offset)
        }
        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn preallocate(&self, len: u64) -> io::Result<()> {
            let free = self.1.free_bytes()?;
            let more = len.saturating_sub(self.0.len()?);
            // As some file systems, it keeps what it found.
            self.0.preallocate(self.0.len()? + more.min(free))?;
            if more > free { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
        fn truncate(&self, len: u64) -> io::Result<()> {
            self.0.truncate(len)
        }
        fn is_direct(&self) -> bool {
            false
        }
    }

    const PIECE: u64 = 16 << 10;
    const WHOLE: u64 = 5 * PIECE;

    #[test]
    fn it_is_given_free_piece_by_piece_and_taken_back_as_a_whole() {
        let disk = SmallDisk::new(1 << 20);
        let reserve = disk.reserve(WHOLE, PIECE);
        assert_eq!((reserve.space(), disk.len()), (Space::Enough, Some(HEADER_BYTES + WHOLE)));
        disk.set(HEADER_BYTES + WHOLE);
        assert!(reserve.give_but_the_last());
        assert_eq!((reserve.space(), disk.len()), (Space::Short, Some(HEADER_BYTES + 4 * PIECE)));
        (0..3).for_each(|_| assert!(reserve.give_but_the_last()));
        assert!(!reserve.give_but_the_last());
        assert!(reserve.give() && !reserve.give());
        assert_eq!((reserve.space(), reserve.room()), (Space::Last, WHOLE));
        reserve.look();
        assert_eq!(reserve.space(), Space::Last, "nothing would stay free beside it");
        disk.set(HEADER_BYTES + WHOLE + WHOLE / 4);
        reserve.look();
        assert_eq!((reserve.space(), disk.len()), (Space::Nearly, Some(HEADER_BYTES + WHOLE)));
        disk.set(1 << 20);
        reserve.look();
        assert_eq!(reserve.space(), Space::Enough);
    }

    #[test]
    fn a_restart_knows_that_the_disk_was_full() {
        let disk = SmallDisk::new(1 << 20);
        let reserve = disk.reserve(WHOLE, PIECE);
        disk.set(HEADER_BYTES + WHOLE);
        assert!(reserve.give());
        disk.set(HEADER_BYTES + 4 * PIECE);
        drop(reserve);
        let reserve = disk.reserve(WHOLE, PIECE);
        assert_eq!((reserve.space(), disk.len()), (Space::Short, Some(HEADER_BYTES + 4 * PIECE)));
        assert!(reserve.give());
        disk.set(1 << 20);
        assert_eq!(disk.reserve(WHOLE, PIECE).space(), Space::Enough);
    }

    #[test]
    fn a_small_disk_gets_a_small_one_and_a_full_one_none() {
        let disk = SmallDisk::new(HEADER_BYTES + WHOLE);
        assert_eq!(disk.reserve(WHOLE, PIECE).space(), Space::Nearly);
        assert_eq!(disk.len(), Some(HEADER_BYTES + WHOLE / 2));
        disk.set(1 << 20);
        assert_eq!(disk.reserve(WHOLE, PIECE).space(), Space::Enough);
        assert_eq!(disk.len(), Some(HEADER_BYTES + WHOLE), "it grows with the disk");

        let full = SmallDisk::new(WHOLE / 8);
        let reserve = full.reserve(WHOLE, PIECE);
        assert_eq!((reserve.space(), full.len()), (Space::Enough, None));
        assert!(!reserve.give());
    }

    #[test]
    fn a_file_that_makes_no_sense_is_written_anew() {
        let disk = SmallDisk::new(1 << 20);
        let file = disk.open(FILE, Mode { create: true, ..Mode::default() }).expect("a file");
        file.write_at(&[7; 9000], 0).expect("a write");
        assert_eq!(disk.reserve(WHOLE, PIECE).space(), Space::Enough);
        assert_eq!(disk.len(), Some(HEADER_BYTES + WHOLE));
        let known = disk.open(FILE, Mode::default()).expect("the file");
        assert_eq!(read_header(known.as_ref(), HEADER_BYTES), Some(WHOLE));
    }
}
