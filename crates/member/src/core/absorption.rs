//! The record by which a member moves to another cluster: the file `joining`.
//!
//! Layout, little-endian (see `docs/formats/entry.md`): magic u32, version u16, length u32, an offer of that length,
//! then CRC32C of all that.
//!
//! The file is written beside, synced, renamed, and its folder synced: from that moment on the member is of the
//! other cluster. Whatever log and store lie beside it are of the past, or of a beginning that a crash cut short;
//! either way nothing was promised in them, so every start that finds the file removes them, begins the log and the
//! store of the new membership, and removes the file last, before anything is promised. A crash at any step therefore
//! repeats the same.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use quorate_disk::{Disk, Mode};
use quorate_store::Store;
use quorate_wal::Wal;

use super::OpenError;
use super::open::{FIRST_GENERATION, Founding};
use crate::handle::Identity;
use crate::joining::{Offer, Reply};

const FILE: &str = "joining";
const FILE_NEW: &str = "joining.new";
const MAGIC: u32 = 0x514a_5245;
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 4 + 2 + 4;
const CRC_BYTES: usize = 4;

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{FILE}: {what}"))
}

/// Makes it durable that this folder's member is what `offer` says. Its log and store are given up by that.
pub fn move_to(disk: &dyn Disk, offer: &Offer) -> io::Result<()> {
    let body = offer.encode();
    let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len() + CRC_BYTES);
    out.put_u32_le(MAGIC);
    out.put_u16_le(VERSION);
    out.put_u32_le(u32::try_from(body.len()).map_err(|_| invalid("the member list is too long"))?);
    out.put_slice(&body);
    out.put_u32_le(crc32c::crc32c(&out));
    let file = disk.open(FILE_NEW, Mode { create: true, ..Mode::default() })?;
    file.truncate(0)?;
    file.write_at(&out, 0)?;
    file.sync_data()?;
    disk.rename(FILE_NEW, FILE)?;
    disk.sync_dir("")
}

/// What to say to whoever offered the membership. After an error the record may be durable all the same, and only a start
/// can tell: a refusal would have the admission undone, and a member that moved would be left without any cluster.
#[must_use]
pub fn reply_to_offer(noted: &io::Result<()>) -> Reply {
    match noted {
        Ok(()) => Reply::Absorbed,
        Err(error) => Reply::Later { reason: format!("its move could not be noted: {error}") },
    }
}

/// The membership that this folder is to begin, if a move is under way.
pub fn pending(disk: &dyn Disk) -> io::Result<Option<Offer>> {
    let file = match disk.open(FILE, Mode { read_only: true, ..Mode::default() }) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = usize::try_from(file.len()?).map_err(|_| invalid("too long"))?;
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, 0)?;
    let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or_else(|| invalid("too short"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) || body.len() < HEADER_BYTES {
        return Err(invalid("its checksum does not match; start this member with --give-up-data"));
    }
    let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes"));
    if word(0) != MAGIC || body[4..6] != VERSION.to_le_bytes() {
        return Err(invalid("not of a version that this program knows"));
    }
    if word(6) as usize != body.len() - HEADER_BYTES {
        return Err(invalid("its length is wrong"));
    }
    let offer = Offer::decode(&body[HEADER_BYTES..]).map_err(|error| invalid(&error.to_string()))?;
    Ok(Some(offer))
}

/// Removes the log and the store that a move has given up; says what is to be begun in their place.
pub(super) fn begin(
    wal_disk: &Arc<dyn Disk>,
    disk: &Arc<dyn Disk>,
    wal: &quorate_wal::Config,
) -> Result<Option<Founding>, OpenError> {
    let Some(offer) = pending(disk.as_ref()).map_err(OpenError::Joining)? else { return Ok(None) };
    Wal::remove(wal_disk.clone(), wal.clone())?;
    Store::erase(disk.as_ref(), FIRST_GENERATION)?;
    let identity = Identity { cluster: offer.cluster, member: offer.member, incarnation: offer.incarnation };
    Ok(Some(Founding::Join { identity, members: offer.members }))
}

/// The new log and store are durable: the move is complete. Also forgets a move on the operator's word.
pub fn complete(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(FILE) {
        Ok(()) => disk.sync_dir(""),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
