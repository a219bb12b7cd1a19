//! Which incarnation each peer first had. A member that comes back with an empty folder is a new incarnation: it may
//! have forgotten its votes, so it is refused until it is removed from the cluster and added again.
//!
//! Invariant: what was noted first stays. A peer is noted when it is met, or when a committed member list names its
//! incarnation, whichever comes first; a member that never met a peer's first incarnation so refuses the second.
//!
//! The file `peers`: magic u32, version u16, count u32, then member u64 and incarnation u64 each, then CRC32C of all
//! that; little-endian. It is replaced as a whole: written beside, synced, renamed, folder synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_disk::{Disk, Mode};
use quorate_ids::{Incarnation, MemberId};

use super::mutants::planted;
use crate::membership::MemberList;

const FILE: &str = "peers";
const FILE_NEW: &str = "peers.new";
const MAGIC: u32 = 0x5142_4f4f;
const VERSION: u16 = 1;

/// See the module.
pub struct PeerBook {
    disk: Arc<dyn Disk>,
    known: Mutex<BTreeMap<MemberId, Incarnation>>,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{FILE}: {what}"))
}

impl PeerBook {
    /// Reads the book, or starts an empty one.
    pub fn open(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let read_only = Mode { read_only: true, ..Mode::default() };
        let known = match disk.open(FILE, read_only) {
            Ok(file) => {
                let len = usize::try_from(file.len()?).map_err(|_| invalid("too long"))?;
                let mut bytes = vec![0; len];
                file.read_at(&mut bytes, 0)?;
                decode(&bytes)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { disk, known: Mutex::new(known) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MemberId, Incarnation>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every peer that is known, with its first incarnation.
    #[must_use]
    pub fn all(&self) -> Vec<(MemberId, Incarnation)> {
        self.lock().iter().map(|(member, incarnation)| (*member, *incarnation)).collect()
    }

    /// The first incarnation of `member`, if it is known.
    #[must_use]
    pub fn known(&self, member: MemberId) -> Option<Incarnation> {
        self.lock().get(&member).copied()
    }

    /// True if `member` may speak as `incarnation`. A first meeting is made durable before this returns.
    pub fn admit(&self, member: MemberId, incarnation: Incarnation) -> io::Result<bool> {
        let mut known = self.lock();
        if let Some(first) = known.get(&member) {
            return Ok(*first == incarnation || planted!(CountAWipedVote));
        }
        let mut longer = known.clone();
        longer.insert(member, incarnation);
        self.keep(&longer)?;
        *known = longer;
        Ok(true)
    }

    /// Notes what a member list says of members that were not met yet; durable when this returns.
    pub fn learn(&self, list: &MemberList) -> io::Result<()> {
        let mut known = self.lock();
        let news: Vec<_> = list
            .iter()
            .filter(|member| member.incarnation != Incarnation::ZERO && !known.contains_key(&member.id))
            .map(|member| (member.id, member.incarnation))
            .collect();
        if news.is_empty() {
            return Ok(());
        }
        let mut longer = known.clone();
        longer.extend(news);
        self.keep(&longer)?;
        *known = longer;
        Ok(())
    }

    fn keep(&self, known: &BTreeMap<MemberId, Incarnation>) -> io::Result<()> {
        let bytes = encode(known);
        let file = self.disk.open(FILE_NEW, Mode { create: true, ..Mode::default() })?;
        file.truncate(0)?;
        file.write_at(&bytes, 0)?;
        file.sync_data()?;
        self.disk.rename(FILE_NEW, FILE)?;
        self.disk.sync_dir("")
    }
}

fn encode(known: &BTreeMap<MemberId, Incarnation>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC.to_le_bytes());
    out.extend(VERSION.to_le_bytes());
    out.extend((known.len() as u32).to_le_bytes());
    for (member, incarnation) in known {
        out.extend(member.0.to_le_bytes());
        out.extend(incarnation.0.to_le_bytes());
    }
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> io::Result<BTreeMap<MemberId, Incarnation>> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| invalid("too short"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(invalid(
            "its checksum does not match; remove it only if this member is rebuilt from its peers",
        ));
    }
    let (magic, rest) = body.split_first_chunk::<4>().ok_or_else(|| invalid("too short"))?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(|| invalid("too short"))?;
    if u32::from_le_bytes(*magic) != MAGIC || u16::from_le_bytes(*version) != VERSION {
        return Err(invalid("not a peer book of a version that this program knows"));
    }
    let (_, entries) = rest.split_first_chunk::<4>().ok_or_else(|| invalid("too short"))?;
    let pairs = entries.chunks_exact(16).map(|pair| {
        let word = |at: usize| u64::from_le_bytes(pair[at..at + 8].try_into().expect("eight bytes"));
        (MemberId(word(0)), Incarnation(word(8)))
    });
    Ok(pairs.collect())
}

#[cfg(test)]
mod tests {
    use quorate_disk::MemoryDisk;

    use super::*;
    use crate::membership::Member;

    #[test]
    fn a_wiped_member_is_refused_even_after_a_restart_of_the_one_that_noted_it() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let book = PeerBook::open(disk.clone()).expect("an empty book");
        assert!(book.admit(MemberId(1), Incarnation(10)).expect("noted"));
        assert!(book.admit(MemberId(2), Incarnation(20)).expect("noted"));
        let book = PeerBook::open(disk).expect("the book");
        assert!(book.admit(MemberId(1), Incarnation(10)).expect("known"));
        assert!(!book.admit(MemberId(1), Incarnation(11)).expect("known"));
    }

    #[test]
    fn a_member_that_never_met_a_wiped_peer_refuses_it_by_what_the_list_says() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let book = PeerBook::open(disk.clone()).expect("an empty book");
        let met = Member { id: MemberId(2), incarnation: Incarnation(20), ..Member::default() };
        let unmet = Member { id: MemberId(3), ..Member::default() };
        book.learn(&MemberList::founded_by([met, unmet])).expect("noted");
        let book = PeerBook::open(disk).expect("the book");
        assert!(!book.admit(MemberId(2), Incarnation(21)).expect("known"));
        assert!(book.admit(MemberId(2), Incarnation(20)).expect("known"));
        assert_eq!(book.known(MemberId(3)), None);
    }

    #[test]
    fn a_damaged_book_is_an_error() {
        let mut bytes = encode(&BTreeMap::from([(MemberId(1), Incarnation(2))]));
        bytes[12] ^= 1;
        assert!(decode(&bytes).is_err());
        assert!(decode(&bytes[..3]).is_err());
    }
}
