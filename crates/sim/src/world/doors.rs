//! Handshakes between members, and what one asks another outside of consensus, where members come and go.
//!
//! Nothing that a machine sends is read before both sides judged each other by the product's own rules and by their peer
//! books. Invariant checked here: each member is let in, by anybody, in one incarnation only.

use std::sync::Arc;

use bytes::Bytes;
use quorate_ids::{Incarnation, MemberId};
use quorate_member::core::LogInput;
use quorate_member::core::gate::{self, Shut};
use quorate_member::frame::{Hello, Lane, PROTOCOL_VERSION};
use quorate_member::joining::{Question, Reply, Told};
use quorate_member::{Identity, Member, MemberList};

use super::member::{Door, Input};
use super::{Event, MILLI, Sent, World};
use crate::network::Fate;
use crate::oracle::{Checked, Violation, ensure};

/// About what a question or its answer takes on the wire.
const QUESTION_BYTES: usize = 400;

impl World {
    /// Whether what `from` sent to `to` is read now: there was a handshake, and it still holds. What waits for the
    /// handshake to be durable is delivered again.
    pub(super) fn is_open(&mut self, from: usize, to: usize, sent: Sent, bytes: &Bytes) -> Checked<bool> {
        let now = self.events.now();
        let id = sent.from_id;
        let incarnation = self.machines[from].identity.incarnation;
        let Some(running) = &mut self.machines[to].running else { return Ok(false) };
        if let Some(door) = running.doors.get(&from).copied().filter(|door| door.epoch == sent.from_epoch) {
            if door.open_at > now {
                let again = Event::Frame { from, to, sent, bytes: bytes.clone() };
                self.events.at(door.open_at, again);
                return Ok(false);
            }
            let shut = running.members.was_removed(id)
                || gate::is_first(&running.members, &running.guests, id, incarnation).is_err();
            if shut {
                running.doors.remove(&from);
                self.unreachable(from, sent.to_id, MILLI);
            }
            return Ok(!shut);
        }
        let alive =
            self.machines[from].epoch == sent.from_epoch && self.machines[from].serving(now).is_some();
        if !alive {
            return Ok(false);
        }
        match self.handshake(from, to, sent)? {
            Some(open_at) => {
                let running = self.machines[to].running.as_mut().expect("it runs");
                running.doors.insert(from, Door { epoch: sent.from_epoch, open_at });
                self.events.at(open_at, Event::Frame { from, to, sent, bytes: bytes.clone() });
            }
            None => self.unreachable(from, sent.to_id, MILLI),
        }
        Ok(false)
    }

    /// Both sides judge each other; returns when what they noted is durable.
    fn handshake(&mut self, from: usize, to: usize, sent: Sent) -> Checked<Option<u64>> {
        let (dials, answers) = (self.machines[from].identity, self.machines[to].identity);
        let hello = |who: Identity, to: MemberId| Hello {
            version: PROTOCOL_VERSION,
            cluster: who.cluster,
            member: who.member,
            incarnation: who.incarnation,
            lane: Lane::Control,
            to,
        };
        let running = self.machines[to].running.as_ref().expect("it runs");
        let judged = gate::judge(answers, &running.members, &running.guests, &hello(dials, sent.to_id));
        if let Err(shut) = judged {
            self.trace(|| format!("m{to} refuses m{from}: {shut}"));
            return self.shut(to, dials, &shut);
        }
        ensure!(
            !running.members.was_removed(dials.member),
            "m{to} lets in member {}, of which it knows that it was removed",
            dials.member
        );
        let running = self.machines[from].running.as_ref().expect("it runs");
        let judged =
            gate::judge_answer(dials, &running.members, &running.guests, &hello(answers, dials.member));
        if let Err(shut) = judged {
            self.trace(|| format!("m{from} refuses the answer of m{to}: {shut}"));
            return self.shut(from, answers, &shut);
        }
        let (Some(here), Some(there)) = (self.meets(to, dials)?, self.meets(from, answers)?) else {
            return Ok(None);
        };
        Ok(Some(here.max(there)))
    }

    fn shut(&mut self, member: usize, other: Identity, shut: &Shut) -> Checked<Option<u64>> {
        match shut {
            Shut::Stranger { .. } => {
                self.count("handshake: not known yet");
                let input = LogInput::Knocked { member: other.member, incarnation: other.incarnation };
                self.push(member, Input::Log(input))?;
            }
            Shut::Wiped { .. } => self.count("handshake: refused, wiped"),
            Shut::Removed { .. } => self.count("handshake: refused, removed"),
            Shut::NotMe { .. } => self.count("handshake: refused, another is meant"),
            Shut::Cluster { theirs, me, .. } if theirs != &me.cluster && self.newcomers.is_some() => {
                self.count("handshake: refused, of another cluster");
            }
            Shut::Version { .. } | Shut::Cluster { .. } => {
                return Err(Violation(format!("all are of one cluster, yet m{member} says: {shut}")));
            }
        }
        Ok(None)
    }

    /// The peer book has the last word: a first meeting is durable before the peer is answered.
    fn meets(&mut self, member: usize, peer: Identity) -> Checked<Option<u64>> {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        machine.disk.begin(now);
        let running = machine.running.as_ref().expect("it runs");
        let book = running.book.as_ref().expect("a book, where members come and go");
        let admitted = book.admit(peer.member, peer.incarnation);
        let open_at = machine.disk.busy_until();
        machine.book_at = machine.book_at.max(open_at);
        let epoch = machine.epoch;
        match admitted {
            Ok(true) => {}
            Ok(false) => {
                self.trace(|| format!("m{member} knows {} in another incarnation", peer.member));
                self.count("handshake: refused, wiped");
                return Ok(None);
            }
            Err(error) => {
                self.trace(|| format!("m{member} can't write its peer book: {error}"));
                return Ok(None);
            }
        }
        self.is_its_first(member, peer)?;
        let input = Input::Log(LogInput::Met { member: peer.member, incarnation: peer.incarnation });
        self.events.at(open_at, Event::Hand { member, epoch, input });
        Ok(Some(open_at))
    }

    fn is_its_first(&mut self, by: usize, peer: Identity) -> Checked {
        let Some(operator) = &mut self.operator else { return Ok(()) };
        let first = *operator.first.entry(peer.member).or_insert(peer.incarnation);
        ensure!(
            first == peer.incarnation,
            "m{by} lets member {} in with an empty folder: it was met in incarnation {first} before",
            peer.member
        );
        Ok(())
    }

    /// What a member durably knows goes into its peer book.
    pub(super) fn members_kept(&mut self, member: usize, at: u64, list: Arc<MemberList>) {
        let machine = &mut self.machines[member];
        machine.kept = list.clone();
        let Some(running) = &machine.running else { return };
        let Some(book) = &running.book else { return };
        machine.disk.begin(at);
        let learned = book.learn(&list);
        machine.book_at = machine.book_at.max(machine.disk.busy_until());
        if let Err(error) = learned {
            self.trace(|| format!("m{member} can't write its peer book: {error}"));
        }
    }

    /// Whether a machine's peer book durably has a member in this incarnation.
    pub(super) fn has_met(&self, member: usize, id: MemberId, incarnation: Incarnation) -> bool {
        let machine = &self.machines[member];
        let book = machine.running.as_ref().and_then(|running| running.book.as_ref());
        machine.book_at <= self.events.now() && book.is_some_and(|book| book.known(id) == Some(incarnation))
    }

    // ---- questions ----

    pub(super) fn ask_members(&mut self, from: usize, members: &[Member]) {
        let now = self.events.now();
        let from_epoch = self.machines[from].epoch;
        for of in members {
            let Some(&to) = self.numbers.get(&of.id) else { continue };
            self.count("question: who are the members");
            let fate = self.network.send(now, from, to, Lane::Bulk as u8, false, QUESTION_BYTES);
            if let Fate::Arrives { at, .. } = fate {
                self.events.at(at, Event::Question { from, from_epoch, to, of: of.id });
            }
        }
    }

    pub(super) fn questioned(&mut self, from: usize, from_epoch: u64, to: usize, of: MemberId) -> Checked {
        let there = self.machines[to].serving(self.events.now()).is_some() && self.id_of(to) == of;
        if !there {
            return Ok(());
        }
        let ask = self.taken;
        self.questions.insert(ask, (from, from_epoch));
        self.push(to, Input::Log(LogInput::JoinQuestion { ask, question: Question::Members, hosts: false }))
    }

    pub(super) fn replied(&mut self, to: usize, ask: u64, reply: Reply) {
        if Self::is_about_joining(ask) {
            return self.send_reply(ask, reply);
        }
        let Some((from, epoch)) = self.questions.remove(&ask) else { return };
        let Reply::Members(Told { by, members, .. }) = reply else { return };
        let now = self.events.now();
        let fate = self.network.send(now, to, from, Lane::Bulk as u8, false, QUESTION_BYTES);
        if let Fate::Arrives { at, .. } = fate {
            let input = Input::Log(LogInput::MembersTold { by, members });
            self.events.at(at, Event::Hand { member: from, epoch, input });
        }
    }
}
