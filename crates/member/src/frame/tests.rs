//! Every kind of frame there and back, damaged and cut short.

use super::*;

fn samples() -> Vec<Frame> {
    let point = SnapshotPoint { index: LogIndex(5), term: Term(2) };
    vec![
        Frame::Hello(Hello {
            version: PROTOCOL_VERSION,
            cluster: ClusterId(1),
            member: MemberId(2),
            incarnation: Incarnation(3),
            lane: Lane::Bulk,
            to: MemberId(4),
        }),
        Frame::Refused { reason: "another cluster".to_owned() },
        Frame::Raft(Bytes::from_static(b"message")),
        Frame::Forward {
            term: Term(3),
            requests: vec![
                Forwarded {
                    start: 1,
                    seq: 2,
                    body: ForwardedBody::Command { model: ModelId::KEYS, command: Bytes::from_static(b"c") },
                },
                Forwarded { start: 1, seq: 3, body: ForwardedBody::Membership { request: Bytes::new() } },
            ],
        },
        Frame::ForwardRefused { start: 1, term: Term(3), seqs: vec![2, 3], reason: ForwardRefusal::NoSpace },
        Frame::SnapshotOpen { point },
        Frame::SnapshotManifest { point, manifest: Bytes::from_static(b"m") },
        Frame::SnapshotGone { point },
        Frame::ChunkRequest { point, file: "seg".to_owned(), offset: 9, len: 10 },
        Frame::Chunk { point, file: "seg".to_owned(), offset: 9, bytes: Bytes::from_static(b"data") },
        Frame::SnapshotStatus { point, installed: true },
        Frame::RecordRequest {
            request: 1,
            table: 2,
            key: Bytes::from_static(b"k"),
            index: LogIndex(3),
            place: 4,
        },
        Frame::Record { request: 1, record: None },
        Frame::Record { request: 1, record: Some(Bytes::from_static(b"r")) },
        Frame::Hashes { index: LogIndex(1), hash: 2 },
        Frame::LeaseAsks { asks: vec![(1, 2, -3, true), (1, 3, 4, false)] },
        Frame::LeaseAnswers { start: 1, answers: vec![(2, None), (3, Some((10, 11)))] },
        Frame::Members { cluster: ClusterId(1), list: Bytes::from_static(b"l") },
        Frame::JoinQuestion(Bytes::from_static(b"who")),
        Frame::JoinAnswer(Bytes::from_static(b"me")),
        Frame::Transfer { term: Term(3), to: MemberId(4) },
        Frame::Level(Level(2)),
        Frame::Space(Space::Short),
        Frame::Spared { term: Term(3) },
    ]
}

#[test]
fn frames_read_back_as_written() {
    for frame in samples() {
        let bytes = frame.encode();
        assert_eq!(Frame::len_of(&bytes), Ok(Some(bytes.len())));
        assert_eq!(Frame::decode(bytes), Ok(frame));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    for frame in samples() {
        let bytes = frame.encode();
        for at in 0..bytes.len() * 8 {
            let mut bent = bytes.to_vec();
            bent[at / 8] ^= 1 << (at % 8);
            assert!(Frame::decode(Bytes::from(bent)).is_err(), "{frame:?} with bit {at} flipped");
        }
    }
}

#[test]
fn a_frame_cut_short_is_refused_even_with_a_right_checksum() {
    let opaque =
        |frame: &Frame| matches!(frame, Frame::Raft(_) | Frame::JoinQuestion(_) | Frame::JoinAnswer(_));
    for frame in samples().into_iter().filter(|frame| !opaque(frame)) {
        let whole = frame.encode();
        for keep in FRAME_HEADER_BYTES..whole.len() {
            let mut cut = whole[..keep].to_vec();
            let crc = crc32c::crc32c(&cut[8..]);
            cut[0..4].copy_from_slice(&(keep as u32 - 4).to_le_bytes());
            cut[4..8].copy_from_slice(&crc.to_le_bytes());
            assert!(Frame::decode(Bytes::from(cut)).is_err(), "{frame:?} cut to {keep}");
        }
    }
}
