//! The cluster's members, and how their list changes.
//!
//! Invariants: an id is never used again once removed; no two members share a peer URL; every member judges the same
//! committed requests in the same order from the same list, so all come to the same verdicts. Layouts are in
//! `docs/formats/entry.md`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_ids::{ClusterId, Incarnation, MemberId};
use sha1::{Digest, Sha1};

use crate::core::mutants::planted;
use crate::handle::MembershipRefusal;

/// A member as the log knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    /// Empty until the member has started once and published it.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until the member has started once and published them.
    pub client_urls: Vec<String>,
    pub is_learner: bool,
    /// The first data folder behind the member. Known from the start of members that joined by request or founded alone,
    /// and of others once a leader met them ([`MembershipRequest::Meet`]).
    pub incarnation: Incarnation,
    /// A learner that the cluster makes a voter once it has caught up.
    pub wants_vote: bool,
    /// Admitted by request, and not known to have started yet: the leader finishes or undoes the admission.
    pub is_joining: bool,
}

/// A wish to change the member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipRequest {
    /// A new member with these peer URLs; its id is made by [`member_id`].
    Add {
        id: MemberId,
        name: String,
        peer_urls: Vec<String>,
        is_learner: bool,
    },
    Remove {
        id: MemberId,
    },
    /// New peer URLs for a member.
    Update {
        id: MemberId,
        peer_urls: Vec<String>,
    },
    /// A learner becomes a voter.
    Promote {
        id: MemberId,
    },
    /// A voter becomes a learner. With a silence, the leader proposes it only where nothing was heard of the voter for
    /// so long and a learner that has caught up can take its place.
    Demote {
        id: MemberId,
        silent_nanos: u64,
    },
    /// A member says its name and client URLs once it has started.
    Publish {
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
    },
    /// A newcomer that asked to join: it becomes a learner, and a voter later where it wants to be one. A leader that
    /// finds the name held by another incarnation, which does not answer any more, removes that one in its place.
    Join {
        id: MemberId,
        name: String,
        incarnation: Incarnation,
        peer_urls: Vec<String>,
        client_urls: Vec<String>,
        wants_vote: bool,
    },
    /// The leader met a member that was added or founded before it was started: this is its first incarnation.
    Meet {
        id: MemberId,
        incarnation: Incarnation,
    },
}

/// Bytes that are no member list or request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are no member list or membership request of a known version")]
pub struct MembershipDecodeError;

/// The id of the member with these peer URLs, as etcd makes it: the first 8 bytes of the SHA-1 of the sorted URLs, the
/// cluster's token and, for a member added later, the time in seconds since 1970. Never 0.
#[must_use]
pub fn member_id(peer_urls: &[String], token: &str, unix_seconds: Option<u64>) -> MemberId {
    let mut urls = peer_urls.to_vec();
    urls.sort();
    let mut text = urls.concat() + token;
    if let Some(seconds) = unix_seconds {
        text += &seconds.to_string();
    }
    MemberId(first_eight_bytes(text.as_bytes()).max(1))
}

/// The id of the cluster that these members found, as etcd makes it. Never 0.
#[must_use]
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> ClusterId {
    let ids: BTreeSet<MemberId> = members.into_iter().collect();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.0.to_be_bytes()).collect();
    ClusterId(first_eight_bytes(&bytes).max(1))
}

fn first_eight_bytes(text: &[u8]) -> u64 {
    let digest = Sha1::digest(text);
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 has 20 bytes"))
}

/// The list as of some place in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberList {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
}

impl MemberList {
    #[must_use]
    pub fn founded_by(members: impl IntoIterator<Item = Member>) -> Self {
        Self {
            members: members.into_iter().map(|member| (member.id, member)).collect(),
            removed: BTreeSet::new(),
        }
    }

    #[must_use]
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    #[must_use]
    pub fn to_vec(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    /// True for a member that once was in the list and is not any more.
    #[must_use]
    pub fn was_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The member that has this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.name == name)
    }

    /// This list, with incarnations that it does not know taken from `known`.
    #[must_use]
    pub fn with_incarnations(&self, known: impl Fn(MemberId) -> Option<Incarnation>) -> Self {
        let mut list = self.clone();
        for member in list.members.values_mut().filter(|member| member.incarnation == Incarnation::ZERO) {
            member.incarnation = known(member.id).unwrap_or_default();
        }
        list
    }

    /// True for a list that came after `earlier` in the log, or stands for the same members.
    #[must_use]
    pub fn is_no_older_than(&self, earlier: &Self) -> bool {
        // Ids are never used again, so neither count ever goes back.
        let ever = |list: &Self| list.members.len() + list.removed.len();
        self.removed.len() >= earlier.removed.len() && ever(self) >= ever(earlier)
    }

    /// True where this list has, and ever had, nobody but `id`.
    #[must_use]
    pub fn is_only(&self, id: MemberId) -> bool {
        self.removed.is_empty() && self.members.keys().eq([&id])
    }

    fn peer_url_taken(&self, urls: &[String], but_by: MemberId) -> bool {
        self.members
            .values()
            .any(|member| member.id != but_by && member.peer_urls.iter().any(|u| urls.contains(u)))
    }

    /// Whether `request` may be carried out on this list; says nothing of the cluster's health.
    pub fn check(&self, request: &MembershipRequest) -> Result<(), MembershipRefusal> {
        let known = |id: &MemberId| self.members.get(id).ok_or(MembershipRefusal::NotFound);
        match request {
            MembershipRequest::Add { id, peer_urls, .. } => {
                if self.members.contains_key(id) || self.removed.contains(id) {
                    return Err(MembershipRefusal::IdExists);
                }
                if self.peer_url_taken(peer_urls, MemberId::ZERO) {
                    return Err(MembershipRefusal::PeerUrlExists);
                }
            }
            MembershipRequest::Join { id, name, incarnation, peer_urls, .. } => {
                if self.members.contains_key(id) || self.removed.contains(id) {
                    return Err(MembershipRefusal::IdExists);
                }
                match self.named(name) {
                    Some(held) if held.incarnation == *incarnation => {
                        return Err(MembershipRefusal::AlreadyJoined);
                    }
                    Some(_) => return Err(MembershipRefusal::NameExists),
                    None => {}
                }
                if self.peer_url_taken(peer_urls, MemberId::ZERO) {
                    return Err(MembershipRefusal::PeerUrlExists);
                }
            }
            MembershipRequest::Remove { id } | MembershipRequest::Publish { id, .. } => {
                known(id)?;
            }
            MembershipRequest::Meet { id, incarnation } => {
                let first = known(id)?.incarnation;
                if first != Incarnation::ZERO && first != *incarnation {
                    return Err(MembershipRefusal::IdExists);
                }
            }
            MembershipRequest::Update { id, peer_urls } => {
                known(id)?;
                if self.peer_url_taken(peer_urls, *id) {
                    return Err(MembershipRefusal::PeerUrlExists);
                }
            }
            MembershipRequest::Promote { id } => {
                if !known(id)?.is_learner {
                    return Err(MembershipRefusal::NotLearner);
                }
            }
            MembershipRequest::Demote { id, .. } => {
                if known(id)?.is_learner {
                    return Err(MembershipRefusal::NotVoter);
                }
                if self.members.values().filter(|member| !member.is_learner).count() == 1 {
                    return Err(MembershipRefusal::LastVoter);
                }
            }
        }
        Ok(())
    }

    /// Judges a committed request: carries it out, or refuses it and changes nothing.
    pub fn judge(&mut self, request: &MembershipRequest) -> Result<(), MembershipRefusal> {
        self.check(request)?;
        match request.clone() {
            MembershipRequest::Add { id, name, peer_urls, is_learner } => {
                let member = Member { id, name, peer_urls, is_learner, ..Member::default() };
                self.members.insert(id, member);
            }
            MembershipRequest::Join { id, name, incarnation, peer_urls, client_urls, wants_vote } => {
                let member = Member {
                    id,
                    name,
                    peer_urls,
                    client_urls,
                    is_learner: true,
                    incarnation,
                    wants_vote,
                    is_joining: true,
                };
                self.members.insert(id, member);
            }
            MembershipRequest::Remove { id } => {
                self.members.remove(&id);
                if !planted!(ForgetRemoved) {
                    self.removed.insert(id);
                }
            }
            MembershipRequest::Meet { id, incarnation } => {
                self.change(id, |member| member.incarnation = incarnation)
            }
            MembershipRequest::Update { id, peer_urls } => {
                self.change(id, |member| member.peer_urls = peer_urls)
            }
            MembershipRequest::Promote { id } => self.change(id, |member| {
                member.is_learner = false;
                member.wants_vote = false;
                member.is_joining = false;
            }),
            MembershipRequest::Demote { id, .. } => self.change(id, |member| member.is_learner = true),
            MembershipRequest::Publish { id, name, client_urls } => self.change(id, |member| {
                member.name = name;
                member.client_urls = client_urls;
                member.is_joining = false;
            }),
        }
        Ok(())
    }

    fn change(&mut self, id: MemberId, change: impl FnOnce(&mut Member)) {
        change(self.members.get_mut(&id).expect("the request was checked"));
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(LIST_VERSION);
        out.put_u32_le(self.members.len() as u32);
        for member in self.members.values() {
            out.put_u64_le(member.id.0);
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            out.put_u8(
                flag(member.is_learner, LEARNER)
                    | flag(member.wants_vote, WANTS_VOTE)
                    | flag(member.is_joining, JOINING),
            );
            out.put_u64_le(member.incarnation.0);
            put_string(&mut out, &member.name);
            put_strings(&mut out, &member.peer_urls);
            put_strings(&mut out, &member.client_urls);
        }
        out.put_u32_le(self.removed.len() as u32);
        self.removed.iter().for_each(|id| out.put_u64_le(id.0));
        out.freeze()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipDecodeError> {
        let mut r = Reader(bytes);
        let version = r.u8()?;
        if !(1..=LIST_VERSION).contains(&version) {
            return Err(MembershipDecodeError);
        }
        let mut list = Self::default();
        for _ in 0..r.u32()? {
            let (id, flags) = (r.id()?, r.u8()?);
            if flags & !(LEARNER | WANTS_VOTE | JOINING) != 0 {
                return Err(MembershipDecodeError);
            }
            // Version 1 had no incarnations.
            let incarnation = if version == 1 { Incarnation::ZERO } else { Incarnation(r.u64()?) };
            let (name, peer_urls, client_urls) = (r.string()?, r.strings()?, r.strings()?);
            let member = Member {
                id,
                name,
                peer_urls,
                client_urls,
                is_learner: flags & LEARNER != 0,
                incarnation,
                wants_vote: flags & WANTS_VOTE != 0,
                is_joining: flags & JOINING != 0,
            };
            list.members.insert(id, member);
        }
        for _ in 0..r.u32()? {
            list.removed.insert(r.id()?);
        }
        r.end()?;
        Ok(list)
    }
}

const LIST_VERSION: u8 = 2;
const LEARNER: u8 = 1;
const WANTS_VOTE: u8 = 2;
const JOINING: u8 = 4;

pub(crate) fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u32_le(text.len() as u32);
    out.put_slice(text.as_bytes());
}

pub(crate) fn put_strings(out: &mut BytesMut, texts: &[String]) {
    out.put_u32_le(texts.len() as u32);
    texts.iter().for_each(|text| put_string(out, text));
}

/// Reads what [`put_string`] and the like wrote.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&[u8], MembershipDecodeError> {
        self.take(len)
    }
    fn take(&mut self, len: usize) -> Result<&[u8], MembershipDecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(MembershipDecodeError)?;
        self.0 = rest;
        Ok(taken)
    }
    pub(crate) fn u8(&mut self) -> Result<u8, MembershipDecodeError> {
        Ok(self.take(1)?.get_u8())
    }
    pub(crate) fn u32(&mut self) -> Result<u32, MembershipDecodeError> {
        Ok(self.take(4)?.get_u32_le())
    }
    pub(crate) fn u64(&mut self) -> Result<u64, MembershipDecodeError> {
        Ok(self.take(8)?.get_u64_le())
    }
    pub(crate) fn id(&mut self) -> Result<MemberId, MembershipDecodeError> {
        Ok(MemberId(self.u64()?))
    }
    pub(crate) fn string(&mut self) -> Result<String, MembershipDecodeError> {
        let len = self.u32()? as usize;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| MembershipDecodeError)
    }
    pub(crate) fn strings(&mut self) -> Result<Vec<String>, MembershipDecodeError> {
        (0..self.u32()?).map(|_| self.string()).collect()
    }
    pub(crate) fn end(&self) -> Result<(), MembershipDecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(MembershipDecodeError) }
    }
}

impl MembershipRequest {
    /// True for a change of who votes or receives the log: consensus must take part in it.
    #[must_use]
    pub fn changes_consensus(&self) -> bool {
        matches!(
            self,
            Self::Add { .. }
                | Self::Remove { .. }
                | Self::Promote { .. }
                | Self::Demote { .. }
                | Self::Join { .. }
        )
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(1);
        match self {
            Self::Add { id, name, peer_urls, is_learner } => {
                out.put_u8(1);
                out.put_u64_le(id.0);
                put_string(&mut out, name);
                put_strings(&mut out, peer_urls);
                out.put_u8(u8::from(*is_learner));
            }
            Self::Remove { id } => {
                out.put_u8(2);
                out.put_u64_le(id.0);
            }
            Self::Update { id, peer_urls } => {
                out.put_u8(3);
                out.put_u64_le(id.0);
                put_strings(&mut out, peer_urls);
            }
            Self::Promote { id } => {
                out.put_u8(4);
                out.put_u64_le(id.0);
            }
            Self::Publish { id, name, client_urls } => {
                out.put_u8(5);
                out.put_u64_le(id.0);
                put_string(&mut out, name);
                put_strings(&mut out, client_urls);
            }
            Self::Join { id, name, incarnation, peer_urls, client_urls, wants_vote } => {
                out.put_u8(6);
                out.put_u64_le(id.0);
                put_string(&mut out, name);
                out.put_u64_le(incarnation.0);
                put_strings(&mut out, peer_urls);
                put_strings(&mut out, client_urls);
                out.put_u8(u8::from(*wants_vote));
            }
            Self::Demote { id, silent_nanos } => {
                out.put_u8(7);
                out.put_u64_le(id.0);
                out.put_u64_le(*silent_nanos);
            }
            Self::Meet { id, incarnation } => {
                out.put_u8(8);
                out.put_u64_le(id.0);
                out.put_u64_le(incarnation.0);
            }
        }
        out.freeze()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipDecodeError> {
        let mut r = Reader(bytes);
        if r.u8()? != 1 {
            return Err(MembershipDecodeError);
        }
        let request = match r.u8()? {
            1 => Self::Add {
                id: r.id()?,
                name: r.string()?,
                peer_urls: r.strings()?,
                is_learner: r.u8()? != 0,
            },
            2 => Self::Remove { id: r.id()? },
            3 => Self::Update { id: r.id()?, peer_urls: r.strings()? },
            4 => Self::Promote { id: r.id()? },
            5 => Self::Publish { id: r.id()?, name: r.string()?, client_urls: r.strings()? },
            6 => Self::Join {
                id: r.id()?,
                name: r.string()?,
                incarnation: Incarnation(r.u64()?),
                peer_urls: r.strings()?,
                client_urls: r.strings()?,
                wants_vote: r.u8()? != 0,
            },
            7 => Self::Demote { id: r.id()?, silent_nanos: r.u64()? },
            8 => Self::Meet { id: r.id()?, incarnation: Incarnation(r.u64()?) },
            _ => return Err(MembershipDecodeError),
        };
        r.end()?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, url: &str) -> Member {
        Member { id: MemberId(id), peer_urls: vec![url.to_owned()], ..Member::default() }
    }

    fn add(id: u64, url: &str, is_learner: bool) -> MembershipRequest {
        MembershipRequest::Add {
            id: MemberId(id),
            name: String::new(),
            peer_urls: vec![url.to_owned()],
            is_learner,
        }
    }

    #[test]
    fn ids_are_those_that_etcd_makes() {
        // What etcd 3.4 prints for --initial-cluster a=http://127.0.0.1:2380 with the default token.
        let id = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster", None);
        assert_eq!(id.to_string(), "8e9e05c52164694d");
        assert_eq!(cluster_id([id]).to_string(), "cdf818194e3a8c32");
    }

    #[test]
    fn a_removed_id_is_never_taken_again() {
        let mut list = MemberList::founded_by([member(1, "http://a"), member(2, "http://b")]);
        assert_eq!(list.judge(&MembershipRequest::Remove { id: MemberId(2) }), Ok(()));
        assert_eq!(list.judge(&add(2, "http://c", false)), Err(MembershipRefusal::IdExists));
        assert!(list.was_removed(MemberId(2)));
    }

    #[test]
    fn two_members_never_share_a_peer_url() {
        let mut list = MemberList::founded_by([member(1, "http://a"), member(2, "http://b")]);
        assert_eq!(list.judge(&add(3, "http://b", true)), Err(MembershipRefusal::PeerUrlExists));
        let update = MembershipRequest::Update { id: MemberId(1), peer_urls: vec!["http://b".to_owned()] };
        assert_eq!(list.judge(&update), Err(MembershipRefusal::PeerUrlExists));
    }

    #[test]
    fn only_a_learner_is_promoted() {
        let mut list = MemberList::founded_by([member(1, "http://a")]);
        assert_eq!(list.judge(&add(3, "http://c", true)), Ok(()));
        assert_eq!(list.judge(&MembershipRequest::Promote { id: MemberId(3) }), Ok(()));
        let again = list.judge(&MembershipRequest::Promote { id: MemberId(3) });
        assert_eq!(again, Err(MembershipRefusal::NotLearner));
    }

    #[test]
    fn a_voter_is_demoted_and_may_be_promoted_again_but_never_the_last() {
        let demote = |id| MembershipRequest::Demote { id: MemberId(id), silent_nanos: 0 };
        let mut list = MemberList::founded_by([member(1, "http://a"), member(2, "http://b")]);
        assert_eq!(list.judge(&demote(3)), Err(MembershipRefusal::NotFound));
        assert_eq!(list.judge(&demote(2)), Ok(()));
        assert!(list.get(MemberId(2)).expect("still a member").is_learner);
        assert_eq!(list.judge(&demote(2)), Err(MembershipRefusal::NotVoter));
        assert_eq!(list.judge(&demote(1)), Err(MembershipRefusal::LastVoter));
        assert_eq!(list.judge(&MembershipRequest::Promote { id: MemberId(2) }), Ok(()));
    }

    fn join(id: u64, name: &str, incarnation: u64) -> MembershipRequest {
        MembershipRequest::Join {
            id: MemberId(id),
            name: name.to_owned(),
            incarnation: Incarnation(incarnation),
            peer_urls: vec![format!("http://{name}:{incarnation}")],
            client_urls: vec!["http://c".to_owned()],
            wants_vote: true,
        }
    }

    #[test]
    fn a_newcomer_is_a_learner_until_it_is_promoted_and_joins_once() {
        let mut list = MemberList::founded_by([member(1, "http://a")]);
        assert_eq!(list.judge(&join(5, "n2", 7)), Ok(()));
        let newcomer = list.named("n2").expect("admitted");
        assert!(newcomer.is_learner && newcomer.wants_vote && newcomer.is_joining);
        assert_eq!(MemberList::decode(&list.encode()), Ok(list.clone()));
        assert_eq!(list.judge(&join(6, "n2", 7)), Err(MembershipRefusal::AlreadyJoined));
        assert_eq!(list.judge(&join(6, "n2", 8)), Err(MembershipRefusal::NameExists));
        assert_eq!(list.judge(&MembershipRequest::Promote { id: MemberId(5) }), Ok(()));
        let voter = list.get(MemberId(5)).expect("there");
        assert!(!voter.is_learner && !voter.wants_vote && !voter.is_joining);
        assert_eq!(voter.incarnation, Incarnation(7));
    }

    #[test]
    fn the_first_incarnation_of_a_member_stays() {
        let mut list = MemberList::founded_by([member(1, "http://a")]);
        let meet =
            |incarnation| MembershipRequest::Meet { id: MemberId(1), incarnation: Incarnation(incarnation) };
        assert_eq!(list.judge(&meet(7)), Ok(()));
        assert_eq!(list.judge(&meet(7)), Ok(()), "met again");
        assert_eq!(list.judge(&meet(8)), Err(MembershipRefusal::IdExists));
        assert_eq!(list.get(MemberId(1)).map(|member| member.incarnation), Some(Incarnation(7)));
    }

    #[test]
    fn a_list_of_the_first_version_is_read() {
        let list = MemberList::founded_by([member(1, "http://a")]);
        let mut bytes = list.encode().to_vec();
        bytes[0] = 1;
        // Version, count, id and flags, then the incarnation that version 1 did not have.
        bytes.drain(14..22);
        assert_eq!(MemberList::decode(&bytes), Ok(list));
    }

    #[test]
    fn lists_and_requests_read_back_as_written() {
        let mut list = MemberList::founded_by([member(1, "http://a"), member(2, "http://b")]);
        list.judge(&MembershipRequest::Remove { id: MemberId(2) }).expect("known");
        assert_eq!(MemberList::decode(&list.encode()), Ok(list.clone()));
        let requests = [
            add(5, "http://e", true),
            MembershipRequest::Remove { id: MemberId(1) },
            MembershipRequest::Update { id: MemberId(1), peer_urls: vec!["x".to_owned()] },
            MembershipRequest::Promote { id: MemberId(1) },
            MembershipRequest::Publish { id: MemberId(1), name: "n".to_owned(), client_urls: vec![] },
            join(6, "f", 7),
            MembershipRequest::Demote { id: MemberId(1), silent_nanos: 1 << 40 },
            MembershipRequest::Meet { id: MemberId(1), incarnation: Incarnation(9) },
        ];
        for request in requests {
            let bytes = request.encode();
            assert_eq!(MembershipRequest::decode(&bytes), Ok(request));
            for keep in 0..bytes.len() {
                assert!(MembershipRequest::decode(&bytes[..keep]).is_err());
            }
        }
    }
}
