//! Founding a member's data, and finding it again after a restart.
//!
//! The order of a founding: the log (it names the store's generation), an empty store, a first checkpoint that holds
//! the founding members. A crash in between leaves a log without entries; the next start goes on from there, with the
//! incarnation that the log noted.

use std::sync::Arc;

use quorate_consensus::{Consensus, Entry, HardState, Membership, Restored};
use quorate_disk::Disk;
use quorate_ids::{Incarnation, LogIndex, MemberId, Term};
use quorate_models::Feeds;
use quorate_store::{CheckpointMeta, Store, StoreConfig, Unpaced};
use quorate_wal::{Record, Recovered, Wal};

use super::apply::CheckpointRule;
use super::checkpoint::CheckpointStage;
use super::extra::Extra;
use super::log_writer::entry_of;
use super::reserve::Reserve;
use super::transfer::TransferStage;
use super::{ApplyStage, LogLoop, LogLoopConfig, LogWriter, Now};
use crate::frame::SnapshotPoint;
use crate::handle::Identity;
use crate::membership::MemberList;

/// The generation of a store that was founded, not installed.
pub(super) const FIRST_GENERATION: u64 = 1;
/// The log index that a founding stands for.
pub(super) const FOUNDING_INDEX: LogIndex = LogIndex(1);

/// What an empty data folder becomes.
#[derive(Clone, Debug)]
pub enum Founding {
    /// A member of a new cluster, whose voters are these.
    Found { identity: Identity, members: MemberList },
    /// A member that a running cluster has added; these are its members, itself among them.
    Join { identity: Identity, members: MemberList },
}

impl Founding {
    #[must_use]
    pub fn identity(&self) -> Identity {
        match self {
            Self::Found { identity, .. } | Self::Join { identity, .. } => *identity,
        }
    }

    /// This founding, as the one that the log of `owner` was made for: each start draws a new one, and a crash may have
    /// come after the log was made.
    fn under(&self, owner: quorate_wal::Identity) -> Self {
        match self {
            Self::Found { identity, members } if identity.member == owner.member => {
                let incarnation = owner.incarnation;
                let members = members.iter().cloned().map(|mut member| {
                    if member.id == owner.member && member.incarnation != Incarnation::ZERO {
                        member.incarnation = incarnation;
                    }
                    member
                });
                Self::Found {
                    identity: Identity { incarnation, ..*identity },
                    members: MemberList::founded_by(members),
                }
            }
            other => other.clone(),
        }
    }

    /// The members before any log entry, who of them takes part in consensus, and the log index that this stands for.
    fn start(&self) -> (Extra, SnapshotPoint) {
        match self {
            Self::Found { members, .. } => {
                let voters = members.iter().filter(|member| !member.is_learner).map(|member| member.id);
                let learners = members.iter().filter(|member| member.is_learner).map(|member| member.id);
                let membership =
                    Membership::new(voters, learners).expect("a founding list names each member once");
                let point = SnapshotPoint { index: FOUNDING_INDEX, term: Term(1) };
                (Extra { members: members.clone(), membership, ..Extra::default() }, point)
            }
            Self::Join { members, .. } => {
                (Extra { members: members.clone(), ..Extra::default() }, SnapshotPoint::default())
            }
        }
    }
}

/// Everything that opening needs to know besides the disk.
#[derive(Clone, Debug)]
pub struct OpenConfig {
    pub wal: quorate_wal::Config,
    pub store: StoreConfig,
    /// Its `id` is replaced by the folder's own.
    pub consensus: quorate_consensus::Config,
    /// Its `identity` is replaced by the folder's own.
    pub log_loop: LogLoopConfig,
    pub checkpoint: CheckpointRule,
    /// Held on the disk of the store, to be given free when it is full. 0: nothing is.
    pub reserve_bytes: u64,
}

/// Why a member's data can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the log can't be used: {0}")]
    Wal(#[from] quorate_wal::WalError),
    #[error("the store can't be used: {0}{cure}", cure = cure(.0))]
    Store(#[from] quorate_store::OpenError),
    #[error("the store can't be written: {0}")]
    StoreWrite(#[from] quorate_store::StoreError),
    #[error("the log and the store do not fit each other: {0}")]
    Consensus(#[from] quorate_consensus::StartError),
    #[error("log entry {0} was written by a newer version of Quorate; start that version")]
    Entry(LogIndex),
    #[error(transparent)]
    Extra(#[from] super::extra::ExtraError),
    #[error(
        "the store of this log is missing, and the log does not hold everything from the start; restore the member from its peers with --give-up-data"
    )]
    StoreMissing,
    #[error("the record of a move to another cluster can't be used: {0}")]
    Joining(std::io::Error),
    #[error("the data folder is empty, and nothing says which cluster to found or join")]
    Empty,
}

/// A member's stages, ready to run.
pub struct Stages {
    pub identity: Identity,
    pub log_loop: LogLoop,
    pub log_writer: LogWriter,
    pub apply: ApplyStage,
    pub checkpoint: CheckpointStage,
    pub transfer: TransferStage,
    pub store: Store,
    pub members: MemberList,
    /// What recovery cut off the log's end, for the log.
    pub cut_tail: Option<String>,
}

fn wal_identity(identity: Identity) -> quorate_wal::Identity {
    quorate_wal::Identity {
        cluster: identity.cluster,
        member: identity.member,
        incarnation: identity.incarnation,
    }
}

fn store_identity(identity: Identity) -> quorate_store::Identity {
    quorate_store::Identity {
        cluster: identity.cluster,
        member: identity.member,
        incarnation: identity.incarnation,
    }
}

/// Opens the data on `disk` (the log on `wal_disk`), or founds it. `founding` is asked only where there is no log yet,
/// or one whose founding a crash cut short. A move to another cluster that is noted there is carried out first.
pub fn open(
    wal_disk: &Arc<dyn Disk>,
    disk: &Arc<dyn Disk>,
    mut config: OpenConfig,
    founding: Option<&Founding>,
    feeds: Feeds,
    now: Now,
) -> Result<Stages, OpenError> {
    let moved = super::absorption::begin(wal_disk, disk, &config.wal)?;
    let founding = moved.as_ref().or(founding);
    let exists = Wal::exists(wal_disk.as_ref(), &config.wal).map_err(|source| quorate_wal::WalError::Io {
        file: config.wal.folder.clone(),
        action: "listing",
        source,
    })?;
    if !exists {
        let founding = founding.ok_or(OpenError::Empty)?;
        found_log(wal_disk, &config, founding)?;
    }
    let (mut wal, mut recovered) = Wal::open(wal_disk.clone(), config.wal.clone(), None)?;
    let founding = founding.map(|founding| founding.under(recovered.identity));
    let founding = founding.as_ref();
    if let Some(founding) = founding {
        go_on_founding(&mut wal, &mut recovered, founding)?;
    }
    let identity = Identity {
        cluster: recovered.identity.cluster,
        member: recovered.identity.member,
        incarnation: recovered.identity.incarnation,
    };
    let (store, meta) = open_store(disk, &config, identity, &recovered, founding)?;
    if moved.is_some() {
        super::absorption::complete(disk.as_ref()).map_err(OpenError::Joining)?;
    }
    let extra = Extra::decode(&meta.extra)?;
    let point = SnapshotPoint { index: meta.applied_index, term: meta.applied_term };
    let restored = restored(&recovered, &extra, point)?;
    // What the log holds beyond may still lose its place there.
    let stamps = (extra.cluster_time, extra.wall_time);
    config.consensus.id = identity.member;
    config.log_loop.identity = identity;
    let start = config.log_loop.start;
    let mut consensus = Consensus::new(config.consensus, restored)?;
    if point.index > LogIndex::ZERO {
        let offered = quorate_consensus::SnapshotPoint {
            index: point.index,
            term: point.term,
            membership: extra.membership.clone(),
        };
        // Where entries before the checkpoint are gone this is what a lagging follower gets.
        if let Err(error) = consensus.set_snapshot_point(Some(offered)) {
            tracing::debug!(%error, "the checkpoint is not offered to followers");
        }
    }
    let members = extra.members.clone();
    let generation = recovered.store_generation;
    let segment_bytes = config.wal.segment_size_bytes;
    let reserve = Reserve::open(disk.clone(), config.reserve_bytes, segment_bytes);
    let log_reserve = if Arc::ptr_eq(wal_disk, disk) {
        reserve.clone()
    } else {
        Reserve::open(wal_disk.clone(), config.reserve_bytes.min(segment_bytes), segment_bytes)
    };
    let log_loop =
        LogLoop::new(config.log_loop, consensus, members.clone(), extra.membership.clone(), stamps, now);
    Ok(Stages {
        identity,
        log_loop,
        log_writer: LogWriter::new(wal, log_reserve.clone()),
        apply: ApplyStage::new(identity, start, store.clone(), feeds, config.checkpoint, extra, point),
        checkpoint: CheckpointStage::new(store.clone(), reserve.clone(), log_reserve),
        transfer: TransferStage::new(
            disk.clone(),
            store.clone(),
            store_identity(identity),
            generation,
            reserve.clone(),
        ),
        store,
        members,
        cut_tail: recovered.cut_tail.map(|cut| format!("{} at byte {}", cut.file, cut.offset)),
    })
}

fn found_log(wal_disk: &Arc<dyn Disk>, config: &OpenConfig, founding: &Founding) -> Result<(), OpenError> {
    let identity = wal_identity(founding.identity());
    let mut wal = Wal::create(wal_disk.clone(), config.wal.clone(), identity, FIRST_GENERATION)?;
    note_founding(&mut wal, founding.start().1)
}

/// Writes the point that the founding stands for. Does nothing for a member that joins: it is sent one.
fn note_founding(wal: &mut Wal, point: SnapshotPoint) -> Result<(), OpenError> {
    if point.index > LogIndex::ZERO {
        wal.append(&[
            Record::Restart { index: point.index, term: point.term, store_generation: FIRST_GENERATION },
            Record::HardState(quorate_wal::HardState {
                term: point.term,
                vote: MemberId::ZERO,
                commit: point.index,
            }),
        ])?;
        wal.mark()?;
    }
    Ok(())
}

/// A crash may have come after the log was made and before the founding was noted in it, in part or whole. Nothing
/// was promised to anybody yet, so the founding just goes on.
fn go_on_founding(wal: &mut Wal, recovered: &mut Recovered, founding: &Founding) -> Result<(), OpenError> {
    let (_, point) = founding.start();
    let owner = (recovered.identity.cluster, recovered.identity.member);
    let founds =
        owner == (founding.identity().cluster, founding.identity().member) && point.index > LogIndex::ZERO;
    let cut_short = recovered.hard_state == quorate_wal::HardState::default()
        && recovered.entries.is_empty()
        && recovered.last_index <= point.index;
    if !founds || !cut_short {
        return Ok(());
    }
    note_founding(wal, point)?;
    recovered.restart = quorate_wal::RestartPoint { index: point.index, term: point.term };
    recovered.hard_state =
        quorate_wal::HardState { term: point.term, vote: MemberId::ZERO, commit: point.index };
    recovered.last_index = point.index;
    recovered.last_term = point.term;
    Ok(())
}

/// What to do about a store whose files are damaged.
fn cure(error: &quorate_store::OpenError) -> &'static str {
    use quorate_store::{OpenError, StoreError};
    match error {
        OpenError::Store(StoreError::Corrupt { .. }) | OpenError::Hash { .. } => {
            ". Bring the folder back from a disk that has it, or restore this member from its peers: start it once with \
             --give-up-data, so that it gives up its log and store and returns as a new incarnation"
        }
        _ => "",
    }
}

fn open_store(
    disk: &Arc<dyn Disk>,
    config: &OpenConfig,
    identity: Identity,
    recovered: &Recovered,
    founding: Option<&Founding>,
) -> Result<(Store, CheckpointMeta), OpenError> {
    let generation = recovered.store_generation;
    let opened = Store::open(disk.clone(), config.store.clone(), store_identity(identity), generation);
    let store = match opened {
        Ok((store, opened)) => {
            if let Some(damaged) = &opened.repaired {
                tracing::warn!("{damaged}; its copy was sound, and it was written anew");
            }
            if !opened.meta.extra.is_empty() {
                return Ok((store, opened.meta));
            }
            store
        }
        Err(quorate_store::OpenError::Missing { .. }) if generation == FIRST_GENERATION => {
            Store::create(disk.clone(), config.store.clone(), store_identity(identity), generation)?
        }
        Err(error) => return Err(error.into()),
    };
    // The founding was cut short, or has just begun. It may go on only while the log holds nothing else.
    let founding = founding.ok_or(OpenError::StoreMissing)?;
    let (extra, point) = founding.start();
    let complete = recovered.restart.index == point.index
        && recovered.entries.first().is_none_or(|(first, _, _)| *first == point.index.next());
    if founding.identity().cluster != identity.cluster
        || founding.identity().member != identity.member
        || !complete
    {
        return Err(OpenError::StoreMissing);
    }
    let meta = CheckpointMeta { applied_index: point.index, applied_term: point.term, extra: extra.encode() };
    let frozen =
        store.write().freeze(meta.clone()).expect("an empty store has no other checkpoint under way");
    store.checkpoint(&frozen, &mut Unpaced)?;
    Ok((store, meta))
}

/// What consensus starts from: the log's entries as far as they go on from what the store holds.
fn restored(recovered: &Recovered, extra: &Extra, applied: SnapshotPoint) -> Result<Restored, OpenError> {
    let mut entries = Vec::with_capacity(recovered.entries.len());
    for (index, term, payload) in &recovered.entries {
        entries.push(entry_of(*index, *term, payload.clone()).ok_or(OpenError::Entry(*index))?);
    }
    let compacted = match entries.first() {
        Some(first) if first.index == recovered.restart.index.next() => {
            (recovered.restart.index, recovered.restart.term)
        }
        // The first entry that is left stands in for the one before it, whose term is gone.
        Some(first) if first.index <= applied.index => {
            let first: Entry = entries.remove(0);
            (first.index, first.term)
        }
        Some(first) if first.index == applied.index.next() => (applied.index, applied.term),
        None if recovered.last_index <= applied.index => (applied.index, applied.term),
        Some(_) | None => return Err(OpenError::StoreMissing),
    };
    let mut hard_state = HardState {
        term: recovered.hard_state.term,
        vote: (recovered.hard_state.vote != MemberId::ZERO).then_some(recovered.hard_state.vote),
        commit: recovered.hard_state.commit,
    };
    // A batch that a crash cut short may have left entries, or a restart point, of a term whose hard state came after
    // them and is gone. That batch was never reported written, so nothing was promised in that term.
    let last_term = entries.last().map_or(compacted.1, |last| last.term);
    if last_term > hard_state.term {
        hard_state.term = last_term;
        hard_state.vote = None;
    }
    Ok(Restored {
        hard_state,
        membership: extra.membership.clone(),
        compacted,
        entries,
        applied: applied.index,
    })
}
