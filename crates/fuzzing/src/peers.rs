//! What other members send: frames, and the messages, lists and requests within them.

use bytes::Bytes;
use quorate_consensus::{
    Config, Consensus, EntryKind, Membership, MembershipEntry, Message, MessageKind, Ready, Restored,
    StepError,
};
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Term};
use quorate_member::frame::{
    FRAME_HEADER_BYTES, ForwardRefusal, Forwarded, ForwardedBody, Frame, Hello, Lane, SnapshotPoint,
};
use quorate_member::joining::{Offer, Question, Reply};
use quorate_member::{JoinRefusal, Member, MemberList, MembershipRefusal, MembershipRequest, Newcomer};
use quorate_models::ModelId;

use crate::{Outcome, entries};

/// Decodes a frame and what is in it. The first byte says how: 0, the rest is a frame; else it is a frame's kind, group
/// and body, before which length and checksum are put.
pub fn peer_frame(input: &[u8]) -> Outcome {
    let Some((how, rest)) = input.split_first() else { return Outcome::Refused };
    let bytes = if *how == 0 { Bytes::copy_from_slice(rest) } else { framed(rest) };
    let _ = Frame::len_of(&bytes);
    let Ok(frame) = Frame::decode(bytes) else { return Outcome::Refused };
    assert_eq!(Frame::decode(frame.encode()).as_ref(), Ok(&frame), "a frame decodes to another one");
    look_into(&frame);
    Outcome::Taken
}

fn framed(kind_and_body: &[u8]) -> Bytes {
    let len = u32::try_from(kind_and_body.len() + 4).expect("a short input");
    let crc = crc32c::crc32c(kind_and_body);
    [&len.to_le_bytes(), &crc.to_le_bytes(), kind_and_body].concat().into()
}

/// What is within a frame has encodings of its own.
fn look_into(frame: &Frame) {
    match frame {
        Frame::Raft(message) => {
            raft_message(message);
        }
        Frame::JoinQuestion(bytes) => {
            if let Ok(question) = Question::decode(bytes) {
                assert_eq!(Question::decode(&question.encode()), Ok(question));
            }
        }
        Frame::JoinAnswer(bytes) => {
            if let Ok(reply) = Reply::decode(bytes) {
                assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
            }
            if let Ok(offer) = Offer::decode(bytes) {
                assert_eq!(Offer::decode(&offer.encode()), Ok(offer));
            }
        }
        Frame::Members { list, .. } => {
            if let Ok(list) = MemberList::decode(list) {
                assert_eq!(MemberList::decode(&list.encode()), Ok(list));
            }
        }
        Frame::Forward { requests, .. } => requests.iter().for_each(|request| match &request.body {
            ForwardedBody::Command { model, command } => {
                entries::command(*model, command);
            }
            ForwardedBody::Membership { request } => membership_request(request),
        }),
        _ => {}
    }
}

/// A request that decodes is judged by a list.
fn membership_request(bytes: &[u8]) {
    let Ok(request) = MembershipRequest::decode(bytes) else { return };
    assert_eq!(MembershipRequest::decode(&request.encode()).as_ref(), Ok(&request));
    let _ = sample_list().check(&request);
}

/// Decodes a message of consensus and steps it into a voter, a sole voter and a joiner: none of them may do worse than
/// refuse it.
pub fn raft_message(input: &[u8]) -> Outcome {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(entry) = MembershipEntry::decode(&bytes) {
        assert_eq!(entry.encode(), bytes);
    }
    let Ok(message) = Message::decode(input) else { return Outcome::Refused };
    let encoded = |message: &Message| {
        let mut out = Vec::new();
        message.encode(&mut out);
        out
    };
    let again = Message::decode_shared(&encoded(&message).into()).expect("an encoded message");
    assert_eq!(encoded(&again), encoded(&message), "a message decodes to another one");
    for voters in [&[1, 2, 3][..], &[1], &[]] {
        let mut member = started(1, voters);
        let stepped = member.step(message.clone());
        assert!(!matches!(stepped, Err(StepError::Refused(_))), "an unforeseen refusal: {stepped:?}");
        turn(&mut member);
        member.tick();
        turn(&mut member);
    }
    Outcome::Taken
}

fn started(id: u64, voters: &[u64]) -> Consensus {
    let restored = if voters.is_empty() {
        Restored::joining()
    } else {
        Restored::founding(Membership::new(voters.iter().map(|id| MemberId(*id)), []).expect("different ids"))
    };
    Consensus::new(Config::new(MemberId(id), 9), restored).expect("settings and state are in order")
}

/// Everything that a member does with its outputs, at once; gives back the messages.
fn turn(member: &mut Consensus) -> Vec<Message> {
    let mut sent = Vec::new();
    while let Some(ready) = member.ready() {
        let Ready { number, messages, persisted_messages, committed, .. } = ready;
        sent.extend(messages);
        member.persisted(number);
        sent.extend(persisted_messages);
        for entry in committed {
            if entry.kind == EntryKind::Membership {
                let change = MembershipEntry::decode(&entry.data).ok();
                // Refused by all members alike.
                let _ = member.apply_membership(entry.index, change.as_ref().map(|entry| &entry.change));
            }
            member.applied(entry.index);
        }
    }
    sent
}

/// A message of each kind, as three members send them while they elect, replicate, read and hand over leadership.
pub fn raft_seeds() -> Vec<(String, Vec<u8>)> {
    let mut members: Vec<Consensus> = (1..=3).map(|id| started(id, &[1, 2, 3])).collect();
    let mut seen: Vec<(MessageKind, String, Vec<u8>)> = Vec::new();
    let mut settle = |members: &mut Vec<Consensus>| {
        for _ in 0..20 {
            let sent: Vec<Message> = members.iter_mut().flat_map(turn).collect();
            for message in sent {
                let mut bytes = Vec::new();
                message.encode(&mut bytes);
                let carries = message.entries_bytes() > 0;
                let name = format!("{:?}{}", message.kind(), if carries { "-with-data" } else { "" });
                if !seen.iter().any(|(_, known, _)| *known == name) {
                    seen.push((message.kind(), name, bytes));
                }
                let to = &mut members[message.to().0 as usize - 1];
                let _ = to.step(message);
            }
        }
    };
    assert!(members[0].campaign(), "a voter may stand");
    settle(&mut members);
    members[0].propose(Bytes::from_static(b"a command")).expect("it leads");
    settle(&mut members);
    let _ = members[1].read_index(7);
    settle(&mut members);
    members[0].transfer_leadership(MemberId(2)).expect("a voter that is up to date");
    settle(&mut members);
    let ends_with = seen.iter().any(|(kind, ..)| *kind == MessageKind::TimeoutNow);
    assert!(ends_with, "leadership was handed over");
    seen.into_iter().map(|(_, name, bytes)| (name.to_lowercase(), bytes)).collect()
}

fn sample_member(id: u64) -> Member {
    Member {
        id: MemberId(id),
        name: format!("m{id}"),
        peer_urls: vec![format!("http://127.0.0.1:{}", 2380 + id)],
        client_urls: vec![format!("http://127.0.0.1:{}", 2379 + id)],
        incarnation: Incarnation(id + 100),
        is_learner: id == 3,
        wants_vote: id == 3,
        ..Member::default()
    }
}

fn sample_list() -> MemberList {
    MemberList::founded_by((1..=3).map(sample_member))
}

fn sample_requests() -> Vec<MembershipRequest> {
    let urls = || vec!["http://127.0.0.1:9".to_owned()];
    vec![
        MembershipRequest::Add {
            id: MemberId(9),
            name: "m9".to_owned(),
            peer_urls: urls(),
            is_learner: true,
        },
        MembershipRequest::Remove { id: MemberId(2) },
        MembershipRequest::Update { id: MemberId(2), peer_urls: urls() },
        MembershipRequest::Promote { id: MemberId(3) },
        MembershipRequest::Demote { id: MemberId(3), silent_nanos: 1_000_000_000 },
        MembershipRequest::Publish { id: MemberId(1), name: "new".to_owned(), client_urls: urls() },
        MembershipRequest::Join {
            id: MemberId(9),
            name: "m9".to_owned(),
            incarnation: Incarnation(5),
            peer_urls: urls(),
            client_urls: Vec::new(),
            wants_vote: true,
        },
    ]
}

fn sample_joining() -> Vec<Frame> {
    let newcomer = Newcomer {
        name: "m9".to_owned(),
        incarnation: Incarnation(5),
        peer_urls: vec!["http://127.0.0.1:9".to_owned()],
        client_urls: Vec::new(),
        wants_vote: true,
    };
    let offer = Offer {
        cluster: ClusterId(1),
        member: MemberId(9),
        incarnation: Incarnation(5),
        members: sample_list(),
    };
    let admitted = Reply::Admitted { cluster: ClusterId(1), member: MemberId(9), members: sample_list() };
    let refused = Reply::Refused(JoinRefusal::Cluster(MembershipRefusal::NameExists));
    let questions = [Question::Who, Question::Admit(newcomer), Question::Absorb(offer.clone())];
    let answers = [admitted.encode(), refused.encode(), offer.encode()];
    let questions = questions.iter().map(|question| Frame::JoinQuestion(question.encode()));
    questions.chain(answers.into_iter().map(Frame::JoinAnswer)).collect()
}

fn sample_frames() -> Vec<Frame> {
    let point = SnapshotPoint { index: LogIndex(9), term: Term(2) };
    let bytes = || Bytes::from_static(b"some bytes");
    let forwarded = |seq, body| Forwarded { start: 3, seq, body };
    let put = entries::sample_txn();
    let command = quorate_models::keys::encode(&quorate_models::keys::Command::Txn(put));
    let mut requests = vec![forwarded(1, ForwardedBody::Command { model: ModelId::KEYS, command })];
    requests.extend(
        (2..)
            .zip(sample_requests())
            .map(|(seq, request)| forwarded(seq, ForwardedBody::Membership { request: request.encode() })),
    );
    let hello = Hello {
        version: 1,
        cluster: ClusterId(1),
        member: MemberId(2),
        incarnation: Incarnation(3),
        lane: Lane::Bulk,
        to: MemberId(4),
    };
    let reason = ForwardRefusal::Membership(MembershipRefusal::NotFound);
    let (file, key) = ("run-0000000000000001".to_owned(), bytes());
    let (_, append) = raft_seeds().into_iter().find(|(name, _)| name == "append-with-data").expect("one");
    let mut frames = vec![
        Frame::Hello(hello),
        Frame::Refused { reason: "another cluster".to_owned() },
        Frame::Raft(append.into()),
        Frame::Forward { term: Term(4), requests },
        Frame::ForwardRefused { start: 1, term: Term(2), seqs: vec![3, 4], reason },
        Frame::SnapshotOpen { point },
        Frame::SnapshotManifest { point, manifest: bytes() },
        Frame::SnapshotGone { point },
        Frame::ChunkRequest { point, file: file.clone(), offset: 4096, len: 100 },
        Frame::Chunk { point, file, offset: 4096, bytes: bytes() },
        Frame::SnapshotStatus { point, installed: true },
        Frame::RecordRequest { request: 1, table: 0x10, key, index: LogIndex(3), place: 1 },
        Frame::Record { request: 1, record: Some(bytes()) },
        Frame::Record { request: 2, record: None },
        Frame::Hashes { index: LogIndex(7), hash: 8 },
        Frame::LeaseAsks { asks: vec![(1, 2, -3, true), (1, 3, 4, false)] },
        Frame::LeaseAnswers { start: 1, answers: vec![(2, Some((60, 1_000))), (3, None)] },
        Frame::Members { cluster: ClusterId(1), list: sample_list().encode() },
        Frame::Transfer { term: Term(4), to: MemberId(2) },
    ];
    frames.extend(sample_joining());
    frames
}

/// A frame of each kind; a few of them also with length and checksum as they were sent.
pub fn frame_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (number, frame) in sample_frames().into_iter().enumerate() {
        let whole = frame.encode();
        // The kind stands behind length and checksum.
        let kind = whole[FRAME_HEADER_BYTES - 2];
        seeds
            .push((format!("kind-{kind:02}-{number:02}"), [&[1], &whole[FRAME_HEADER_BYTES - 2..]].concat()));
        if number % 6 == 0 {
            seeds.push((format!("whole-{kind:02}-{number:02}"), [&[0], &whole[..]].concat()));
        }
    }
    seeds
}
