//! Questions and answers about joining, as bytes; `docs/formats/peer-frames.md` has the layouts.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_ids::{ClusterId, Incarnation};

use super::{AbsorbRefusal, Introduction, JoinRefusal, Newcomer, Offer, Question, Reply, Told};
use crate::handle::MembershipRefusal;
use crate::membership::{MemberList, MembershipDecodeError, Reader, put_string, put_strings};

const MAGIC: u32 = 0x514a_4f49;
const VERSION: u8 = 1;

type Decoded<T> = Result<T, MembershipDecodeError>;

fn begin(kind: u8) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32_le(MAGIC);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out
}

fn open<'a>(bytes: &'a [u8]) -> Decoded<(Reader<'a>, u8)> {
    let mut r = Reader(bytes);
    if r.u32()? != MAGIC || r.u8()? != VERSION {
        return Err(MembershipDecodeError);
    }
    let kind = r.u8()?;
    Ok((r, kind))
}

fn put_list(out: &mut BytesMut, list: &MemberList) {
    let bytes = list.encode();
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(&bytes);
}

fn list(r: &mut Reader<'_>) -> Decoded<MemberList> {
    let len = r.u32()? as usize;
    MemberList::decode(r.bytes(len)?)
}

pub(super) fn put_offer(out: &mut BytesMut, offer: &Offer) {
    out.put_u64_le(offer.cluster.0);
    out.put_u64_le(offer.member.0);
    out.put_u64_le(offer.incarnation.0);
    put_list(out, &offer.members);
}

fn offer(r: &mut Reader<'_>) -> Decoded<Offer> {
    Ok(Offer {
        cluster: ClusterId(r.u64()?),
        member: r.id()?,
        incarnation: Incarnation(r.u64()?),
        members: list(r)?,
    })
}

pub(super) fn decode_offer(bytes: &[u8]) -> Decoded<Offer> {
    let mut r = Reader(bytes);
    let offer = offer(&mut r)?;
    r.end()?;
    Ok(offer)
}

pub(super) fn encode_question(question: &Question) -> Bytes {
    match question {
        Question::Who => begin(1),
        Question::Admit(newcomer) => {
            let mut out = begin(2);
            put_string(&mut out, &newcomer.name);
            out.put_u64_le(newcomer.incarnation.0);
            put_strings(&mut out, &newcomer.peer_urls);
            put_strings(&mut out, &newcomer.client_urls);
            out.put_u8(u8::from(newcomer.wants_vote));
            out
        }
        Question::Absorb(offer) => {
            let mut out = begin(3);
            put_offer(&mut out, offer);
            out
        }
        Question::Members => begin(4),
    }
    .freeze()
}

pub(super) fn decode_question(bytes: &[u8]) -> Decoded<Question> {
    let (mut r, kind) = open(bytes)?;
    let question = match kind {
        1 => Question::Who,
        2 => Question::Admit(Newcomer {
            name: r.string()?,
            incarnation: Incarnation(r.u64()?),
            peer_urls: r.strings()?,
            client_urls: r.strings()?,
            wants_vote: r.u8()? != 0,
        }),
        3 => Question::Absorb(offer(&mut r)?),
        4 => Question::Members,
        _ => return Err(MembershipDecodeError),
    };
    r.end()?;
    Ok(question)
}

pub(super) fn encode_reply(reply: &Reply) -> Bytes {
    match reply {
        Reply::Me(me) => {
            let mut out = begin(1);
            out.put_u64_le(me.cluster.0);
            out.put_u64_le(me.member.0);
            out.put_u64_le(me.incarnation.0);
            put_string(&mut out, &me.name);
            put_strings(&mut out, &me.peer_urls);
            put_strings(&mut out, &me.client_urls);
            out.put_u8(me.refuses.map_or(0, |refusal| refusal as u8 + 1));
            out
        }
        Reply::Admitted { cluster, member, members } => {
            let mut out = begin(2);
            out.put_u64_le(cluster.0);
            out.put_u64_le(member.0);
            put_list(&mut out, members);
            out
        }
        Reply::Absorbed => begin(3),
        Reply::Refused(refusal) => {
            let mut out = begin(4);
            put_refusal(&mut out, refusal);
            out
        }
        Reply::Later { reason } => {
            let mut out = begin(5);
            put_string(&mut out, reason);
            out
        }
        Reply::Members(told) => {
            let mut out = begin(6);
            out.put_u64_le(told.cluster.0);
            out.put_u64_le(told.by.0);
            put_list(&mut out, &told.members);
            out
        }
    }
    .freeze()
}

fn put_refusal(out: &mut BytesMut, refusal: &JoinRefusal) {
    match refusal {
        JoinRefusal::Nameless => out.put_u8(1),
        JoinRefusal::WrongName { expected, found } => {
            out.put_u8(2);
            put_string(out, expected);
            put_string(out, found);
        }
        JoinRefusal::Itself => out.put_u8(3),
        JoinRefusal::Cluster(refusal) => {
            out.put_u8(4);
            out.put_u8(refusal.code());
        }
        JoinRefusal::Newcomer(refusal) => {
            out.put_u8(5);
            out.put_u8(*refusal as u8);
        }
    }
}

fn refusal(r: &mut Reader<'_>) -> Decoded<JoinRefusal> {
    Ok(match r.u8()? {
        1 => JoinRefusal::Nameless,
        2 => JoinRefusal::WrongName { expected: r.string()?, found: r.string()? },
        3 => JoinRefusal::Itself,
        4 => JoinRefusal::Cluster(MembershipRefusal::from_code(r.u8()?).ok_or(MembershipDecodeError)?),
        5 => JoinRefusal::Newcomer(AbsorbRefusal::from_code(r.u8()?).ok_or(MembershipDecodeError)?),
        _ => return Err(MembershipDecodeError),
    })
}

pub(super) fn decode_reply(bytes: &[u8]) -> Decoded<Reply> {
    let (mut r, kind) = open(bytes)?;
    let reply = match kind {
        1 => Reply::Me(Introduction {
            cluster: ClusterId(r.u64()?),
            member: r.id()?,
            incarnation: Incarnation(r.u64()?),
            name: r.string()?,
            peer_urls: r.strings()?,
            client_urls: r.strings()?,
            refuses: match r.u8()? {
                0 => None,
                code => Some(AbsorbRefusal::from_code(code - 1).ok_or(MembershipDecodeError)?),
            },
        }),
        2 => Reply::Admitted { cluster: ClusterId(r.u64()?), member: r.id()?, members: list(&mut r)? },
        3 => Reply::Absorbed,
        4 => Reply::Refused(refusal(&mut r)?),
        5 => Reply::Later { reason: r.string()? },
        6 => Reply::Members(Told { cluster: ClusterId(r.u64()?), by: r.id()?, members: list(&mut r)? }),
        _ => return Err(MembershipDecodeError),
    };
    r.end()?;
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use quorate_ids::MemberId;

    use super::*;
    use crate::membership::Member;

    fn members() -> MemberList {
        let member = |id| Member { id: MemberId(id), name: format!("n{id}"), ..Member::default() };
        MemberList::founded_by([member(1), member(2)])
    }

    fn questions() -> Vec<Question> {
        let newcomer = Newcomer {
            name: "n2".to_owned(),
            incarnation: Incarnation(7),
            peer_urls: vec!["http://127.0.0.1:9001".to_owned()],
            client_urls: Vec::new(),
            wants_vote: true,
        };
        let offer = Offer {
            cluster: ClusterId(1),
            member: MemberId(2),
            incarnation: Incarnation(7),
            members: members(),
        };
        vec![Question::Who, Question::Admit(newcomer), Question::Absorb(offer), Question::Members]
    }

    fn replies() -> Vec<Reply> {
        let me = |refuses| {
            Reply::Me(Introduction {
                cluster: ClusterId(1),
                member: MemberId(2),
                incarnation: Incarnation(3),
                name: "n2".to_owned(),
                peer_urls: vec!["http://p".to_owned()],
                client_urls: vec!["http://c".to_owned()],
                refuses,
            })
        };
        let mut replies = vec![
            me(None),
            Reply::Admitted { cluster: ClusterId(1), member: MemberId(2), members: members() },
            Reply::Members(Told { cluster: ClusterId(1), by: MemberId(2), members: members() }),
            Reply::Absorbed,
            Reply::Later { reason: "no leader".to_owned() },
            Reply::Refused(JoinRefusal::Nameless),
            Reply::Refused(JoinRefusal::WrongName { expected: "a".to_owned(), found: "b".to_owned() }),
            Reply::Refused(JoinRefusal::Itself),
            Reply::Refused(JoinRefusal::Cluster(MembershipRefusal::NameAnswers)),
        ];
        for refusal in AbsorbRefusal::ALL {
            replies.push(me(Some(refusal)));
            replies.push(Reply::Refused(JoinRefusal::Newcomer(refusal)));
        }
        replies
    }

    #[test]
    fn questions_and_answers_read_back_as_written_and_cut_ones_are_refused() {
        for question in questions() {
            let bytes = question.encode();
            for keep in 0..bytes.len() {
                assert!(Question::decode(&bytes[..keep]).is_err());
            }
            assert_eq!(Question::decode(&bytes), Ok(question));
        }
        for reply in replies() {
            let bytes = reply.encode();
            for keep in 0..bytes.len() {
                assert!(Reply::decode(&bytes[..keep]).is_err());
            }
            assert_eq!(Reply::decode(&bytes), Ok(reply));
        }
    }
}
