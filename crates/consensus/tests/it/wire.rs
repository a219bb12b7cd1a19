//! The byte format, written a second time from `docs/formats/raft-messages.md`, so that the document and the code check
//! each other; and what decoding makes of bytes that nobody meant.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_consensus::{DecodeError, MESSAGE_BYTES_MAX, Message, MessageKind};
use quorate_ids::{MemberId, Term};

pub fn varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

pub fn header(kind: u8, from: u64, to: u64, term: u64) -> Vec<u8> {
    let mut out = vec![1, kind];
    out.extend(from.to_le_bytes());
    out.extend(to.to_le_bytes());
    varint(&mut out, term);
    out
}

pub fn append(
    from: u64,
    to: u64,
    term: u64,
    after: (u64, u64),
    commit: u64,
    entries: &[(u8, u64, &[u8])],
) -> Vec<u8> {
    let mut out = header(1, from, to, term);
    [after.0, after.1, commit, entries.len() as u64].into_iter().for_each(|n| varint(&mut out, n));
    for (kind, entry_term, data) in entries {
        out.push(*kind);
        varint(&mut out, *entry_term);
        varint(&mut out, data.len() as u64);
        out.extend_from_slice(data);
    }
    out
}

pub fn append_response(
    from: u64,
    to: u64,
    term: u64,
    index: u64,
    commit: u64,
    hint: Option<(u64, u64)>,
) -> Vec<u8> {
    let mut out = header(2, from, to, term);
    out.push(u8::from(hint.is_some()));
    varint(&mut out, index);
    varint(&mut out, commit);
    if let Some((hint, hint_term)) = hint {
        varint(&mut out, hint);
        varint(&mut out, hint_term);
    }
    out
}

/// A vote (`kind` 3) or pre-vote (5) request.
pub fn vote(
    kind: u8,
    from: u64,
    to: u64,
    term: u64,
    transfer: bool,
    last: (u64, u64),
    commit: (u64, u64),
) -> Vec<u8> {
    let mut out = header(kind, from, to, term);
    out.push(u8::from(transfer));
    [last.0, last.1, commit.0, commit.1].into_iter().for_each(|n| varint(&mut out, n));
    out
}

/// A vote (4) or pre-vote (6) response.
pub fn vote_response(kind: u8, from: u64, to: u64, term: u64, reject: bool, commit: (u64, u64)) -> Vec<u8> {
    let mut out = header(kind, from, to, term);
    out.push(u8::from(reject));
    varint(&mut out, commit.0);
    varint(&mut out, commit.1);
    out
}

pub fn snapshot(
    from: u64,
    to: u64,
    term: u64,
    point: (u64, u64),
    voters: &[u64],
    learners: &[u64],
) -> Vec<u8> {
    let mut out = header(7, from, to, term);
    varint(&mut out, point.0);
    varint(&mut out, point.1);
    for members in [voters, learners] {
        varint(&mut out, members.len() as u64);
        members.iter().for_each(|id| out.extend(id.to_le_bytes()));
    }
    out
}

/// A heartbeat (8) or its response (9).
pub fn heartbeat(kind: u8, from: u64, to: u64, term: u64, commit: u64, read: Option<(u64, u64)>) -> Vec<u8> {
    let mut out = header(kind, from, to, term);
    out.push(u8::from(read.is_some()));
    varint(&mut out, commit);
    if let Some((member, number)) = read {
        out.extend(member.to_le_bytes());
        out.extend(number.to_le_bytes());
    }
    out
}

/// A read index request (11) or response (12).
pub fn read_index(kind: u8, from: u64, to: u64, term: u64, index: u64, token: (u64, u64)) -> Vec<u8> {
    let mut out = header(kind, from, to, term);
    varint(&mut out, index);
    out.extend(token.0.to_le_bytes());
    out.extend(token.1.to_le_bytes());
    out
}

fn samples() -> Vec<(MessageKind, Vec<u8>)> {
    use MessageKind as K;
    vec![
        (
            K::Append,
            append(1, 2, 5, (9, 4), 8, &[(1, 4, b"a"), (0, 5, b""), (2, 5, &[1, 4, 3, 0, 0, 0, 0, 0, 0, 0])]),
        ),
        (K::Append, append(1, 2, 5, (0, 0), 0, &[])),
        (K::AppendResponse, append_response(2, 1, 5, 12, 8, None)),
        (K::AppendResponse, append_response(2, 1, 5, 12, 8, Some((10, 3)))),
        (K::RequestVote, vote(3, 1, 2, 6, true, (12, 5), (8, 4))),
        (K::RequestVoteResponse, vote_response(4, 2, 1, 6, false, (0, 0))),
        (K::RequestPreVote, vote(5, 1, 2, 6, false, (300, 5), (299, 5))),
        (K::RequestPreVoteResponse, vote_response(6, 2, 1, 6, true, (8, 4))),
        (K::Snapshot, snapshot(1, 2, 6, (1 << 40, 5), &[1, 2, u64::MAX], &[9])),
        (K::Heartbeat, heartbeat(8, 1, 2, 6, 8, None)),
        (K::Heartbeat, heartbeat(8, 1, 2, 6, 8, Some((1, 77)))),
        (K::HeartbeatResponse, heartbeat(9, 2, 1, 6, 8, Some((1, 77)))),
        (K::TimeoutNow, header(10, 1, 2, 1 << 62)),
        (K::ReadIndex, read_index(11, 2, 1, 0, 0, (2, 5))),
        (K::ReadIndexResponse, read_index(12, 1, 2, 6, 8, (2, 5))),
    ]
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

#[test]
fn every_kind_is_read_and_written_as_documented() {
    for (kind, bytes) in samples() {
        let message = Message::decode(&bytes).unwrap();
        assert_eq!(message.kind(), kind);
        assert_eq!(encoded(&message), bytes, "{message:?}");
        assert_eq!(Message::decode_shared(&Bytes::from(bytes)).unwrap(), message);
        assert!(
            kind == MessageKind::Append || message.entries_bytes() == 0,
            "{message:?} carries nothing of the log"
        );
    }
    let message = Message::decode(&samples()[0].1).unwrap();
    assert_eq!((message.from(), message.to(), message.term()), (MemberId(1), MemberId(2), Term(5)));
    assert_eq!((message.entries_count(), message.entries_bytes()), (3, 11));
}

#[test]
fn every_prefix_and_every_addition_is_refused() {
    for (_, bytes) in samples() {
        for len in 0..bytes.len() {
            assert!(Message::decode(&bytes[..len]).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Message::decode(&longer), Err(DecodeError::Trailing { extra: 1 }));
    }
}

#[test]
fn contradictions_are_refused_each_with_its_reason() {
    let contradicts = |bytes: Vec<u8>| {
        let refused = Message::decode(&bytes);
        assert!(matches!(refused, Err(DecodeError::Contradiction { .. })), "{refused:?}");
    };
    contradicts(append(1, 2, 5, (3, 0), 0, &[]));
    contradicts(append(1, 2, 5, (0, 3), 0, &[]));
    contradicts(append(1, 2, 5, (3, 6), 0, &[]));
    contradicts(append(1, 2, 5, (3, 4), 0, &[(1, 3, b"older than what it follows")]));
    contradicts(append(1, 2, 5, (3, 4), 0, &[(1, 6, b"newer than its sender")]));
    contradicts(append(1, 2, 5, (1 << 62, 4), 0, &[(1, 5, b"no index left")]));
    contradicts(header(10, 1, 2, 0));
    contradicts(read_index(11, 2, 1, 6, 0, (2, 5)));
    contradicts(read_index(11, 2, 1, 0, 0, (3, 5)));
    contradicts(read_index(12, 1, 2, 6, 8, (1, 5)));
    contradicts(snapshot(1, 2, 6, (0, 5), &[1], &[]));
    contradicts(snapshot(1, 2, 6, (4, 7), &[1], &[]));
    contradicts(snapshot(1, 2, 6, (4, 5), &[], &[]));
    contradicts(vote(3, 1, 2, 6, false, (12, 7), (8, 4)));
    contradicts(vote(3, 1, 2, 6, false, (12, 5), (13, 4)));
    let refuses = |bytes: Vec<u8>| Message::decode(&bytes).unwrap_err();
    assert!(matches!(refuses(snapshot(1, 2, 6, (4, 5), &[2, 1], &[])), DecodeError::Membership(_)));
    assert!(matches!(refuses(snapshot(1, 2, 6, (4, 5), &[1, 1], &[])), DecodeError::Membership(_)));
    assert!(matches!(refuses(snapshot(1, 2, 6, (4, 5), &[1], &[1])), DecodeError::Membership(_)));
    assert!(matches!(refuses(snapshot(1, 2, 6, (4, 5), &[0, 1], &[])), DecodeError::Membership(_)));
    assert!(matches!(refuses(header(10, 0, 2, 1)), DecodeError::Members { .. }));
    assert!(matches!(refuses(header(10, 2, 2, 1)), DecodeError::Members { .. }));
    assert!(matches!(refuses(header(13, 1, 2, 1)), DecodeError::Kind { kind: 13 }));
    assert!(matches!(refuses(vec![2, 10]), DecodeError::Version { version: 2 }));
    assert!(matches!(refuses(append(1, 2, 5, (3, 4), 0, &[(1, 5, b"")])), DecodeError::EntryLength { .. }));
    assert!(matches!(refuses(append(1, 2, 5, (3, 4), 0, &[(0, 5, b"x")])), DecodeError::EntryLength { .. }));
    assert!(matches!(
        refuses(append(1, 2, 5, (3, 4), 0, &[(3, 5, b"x")])),
        DecodeError::EntryKind { kind: 3 }
    ));
    assert!(matches!(refuses(vec![0; MESSAGE_BYTES_MAX + 1]), DecodeError::TooLong { .. }));
    assert!(matches!(refuses(header(10, 1, 2, (1 << 62) + 1)), DecodeError::Number { .. }));
    let mut overlong = header(10, 1, 2, 1);
    overlong.pop();
    overlong.extend([0x81, 0x00]);
    assert!(matches!(refuses(overlong), DecodeError::Number { .. }));
}

#[test]
fn a_count_that_the_bytes_cannot_hold_reserves_nothing() {
    let mut bytes = header(1, 1, 2, 5);
    [3, 4, 0, 1 << 61].into_iter().for_each(|n| varint(&mut bytes, n));
    assert!(matches!(Message::decode(&bytes), Err(DecodeError::Truncated { .. })));
}

proptest! {
    #[test]
    fn whatever_decodes_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(encoded(&message), bytes);
        }
    }

    #[test]
    fn a_damaged_message_is_refused_or_has_one_encoding(
        which in 0..15usize, at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = samples()[which].1.clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(encoded(&message), bytes);
        }
    }

    #[test]
    fn appends_round_trip(
        after in (1..1u64 << 40, 1..100u64), commit in 0..1u64 << 62,
        entries in proptest::collection::vec((0..3u64, proptest::collection::vec(any::<u8>(), 1..300)), 0..20),
    ) {
        let mut term = after.1;
        let entries: Vec<(u8, u64, Vec<u8>)> = entries
            .into_iter()
            .map(|(more, data)| {
                term += more;
                (1, term, data)
            })
            .collect();
        let borrowed: Vec<(u8, u64, &[u8])> = entries.iter().map(|(k, t, d)| (*k, *t, d.as_slice())).collect();
        let bytes = append(3, 4, 200, after, commit, &borrowed);
        let message = Message::decode(&bytes).unwrap();
        prop_assert_eq!(message.entries_count(), entries.len());
        prop_assert_eq!(encoded(&message), bytes);
    }
}
