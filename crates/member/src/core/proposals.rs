//! The requests of this member's clients, from their arrival until their outcome is known.
//!
//! Invariant: a request is in the hands of at most one term at a time. It may be sent again only when it is certain that
//! the earlier sending changed nothing: the leader of that term said so, or an entry of a later term was committed and
//! the request's entry was not before it (only the leader of the term it was sent under may propose it).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_ids::{Monotonic, Term};
use quorate_models::ModelId;

use crate::membership::MembershipRequest;

/// What a client asked for.
#[derive(Clone, Debug)]
pub enum Request {
    Command { model: ModelId, command: Bytes },
    Membership(MembershipRequest),
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Self::Command { command, .. } => command.len(),
            Self::Membership(_) => 256,
        }
    }
}

#[derive(Debug)]
struct Pending {
    request: Request,
    since: Monotonic,
    sent_under: Option<Term>,
}

/// See the module.
#[derive(Debug)]
pub struct Proposals {
    pending: BTreeMap<u64, Pending>,
    waiting: VecDeque<u64>,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
    committed_term: Term,
}

impl Proposals {
    #[must_use]
    pub fn new(count_max: usize, bytes_max: usize) -> Self {
        Self {
            pending: BTreeMap::new(),
            waiting: VecDeque::new(),
            bytes: 0,
            count_max,
            bytes_max,
            committed_term: Term::ZERO,
        }
    }

    /// Takes a request in; false where the queue is full.
    #[must_use]
    pub fn accept(&mut self, seq: u64, request: Request, now: Monotonic) -> bool {
        let bytes = request.bytes();
        let fits = self.pending.len() < self.count_max && self.bytes + bytes <= self.bytes_max;
        if fits {
            self.bytes += bytes;
            self.pending.insert(seq, Pending { request, since: now, sent_under: None });
            self.waiting.push_back(seq);
        }
        fits
    }

    /// The next request that is in nobody's hands; it stays first until [`Self::sent`] or [`Self::settle`].
    pub fn next_waiting(&mut self) -> Option<(u64, Request)> {
        while let Some(seq) = self.waiting.front().copied() {
            if let Some(pending) = self.pending.get(&seq).filter(|pending| pending.sent_under.is_none()) {
                return Some((seq, pending.request.clone()));
            }
            self.waiting.pop_front();
        }
        None
    }

    /// Request `seq` is now in the hands of the leader of `term`.
    pub fn sent(&mut self, seq: u64, term: Term) {
        if let Some(pending) = self.pending.get_mut(&seq) {
            assert!(pending.sent_under.is_none(), "a request is in the hands of one term at a time");
            pending.sent_under = Some(term);
        }
        if self.waiting.front() == Some(&seq) {
            self.waiting.pop_front();
        }
    }

    /// The outcome of `seq` is known, or the request is given up; false if it was settled before.
    pub fn settle(&mut self, seq: u64) -> bool {
        let Some(settled) = self.pending.remove(&seq) else { return false };
        self.bytes -= settled.request.bytes();
        true
    }

    /// The leader of `term` said that it did not propose `seqs`: they may be sent again, before what came later.
    pub fn returned(&mut self, seqs: &[u64], term: Term) {
        for seq in seqs.iter().rev() {
            if let Some(pending) =
                self.pending.get_mut(seq).filter(|pending| pending.sent_under == Some(term))
            {
                pending.sent_under = None;
                self.waiting.push_front(*seq);
            }
        }
    }

    /// An entry of `term` is committed here, all before it too: what was sent under an earlier term and is still
    /// pending never made it, and waits again.
    pub fn committed_under(&mut self, term: Term) {
        if term <= self.committed_term {
            return;
        }
        self.committed_term = term;
        for (seq, pending) in &mut self.pending {
            if pending.sent_under.is_some_and(|sent| sent < term) {
                pending.sent_under = None;
                self.waiting.push_back(*seq);
            }
        }
    }

    /// Gives up everything that is in some leader's hands: its outcome can't be learned any more.
    pub fn give_up_sent(&mut self) -> Vec<u64> {
        let sent = self.pending.iter().filter(|(_, pending)| pending.sent_under.is_some());
        let given_up: Vec<u64> = sent.map(|(seq, _)| *seq).collect();
        for seq in &given_up {
            self.settle(*seq);
        }
        given_up
    }

    /// Gives up everything.
    pub fn give_up_all(&mut self) -> Vec<u64> {
        self.waiting.clear();
        self.bytes = 0;
        std::mem::take(&mut self.pending).into_keys().collect()
    }

    /// Gives up requests that came before `limit`; true with those that were never sent.
    pub fn expire(&mut self, limit: Monotonic) -> Vec<(u64, bool)> {
        let old = self.pending.iter().take_while(|(_, pending)| pending.since < limit);
        let old: Vec<(u64, bool)> = old.map(|(seq, pending)| (*seq, pending.sent_under.is_none())).collect();
        for (seq, _) in &old {
            self.settle(*seq);
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Request {
        Request::Command { model: ModelId::KEYS, command: Bytes::from_static(b"x") }
    }

    fn proposals_with(seqs: &[u64]) -> Proposals {
        let mut proposals = Proposals::new(8, 1024);
        for seq in seqs {
            assert!(proposals.accept(*seq, command(), Monotonic(*seq)));
        }
        proposals
    }

    fn waiting(proposals: &mut Proposals) -> Option<u64> {
        proposals.next_waiting().map(|(seq, _)| seq)
    }

    #[test]
    fn a_request_sent_under_a_term_is_not_sent_again_in_it() {
        let mut proposals = proposals_with(&[1]);
        proposals.sent(1, Term(2));
        assert_eq!(waiting(&mut proposals), None);
        proposals.committed_under(Term(2));
        assert_eq!(waiting(&mut proposals), None);
    }

    #[test]
    fn an_entry_of_a_later_term_proves_that_it_never_happened() {
        let mut proposals = proposals_with(&[1, 2]);
        proposals.sent(1, Term(2));
        proposals.sent(2, Term(2));
        assert!(proposals.settle(2), "its entry was committed");
        proposals.committed_under(Term(3));
        assert_eq!(waiting(&mut proposals), Some(1));
        proposals.sent(1, Term(3));
        assert_eq!(waiting(&mut proposals), None);
    }

    #[test]
    fn a_refusal_of_an_earlier_term_does_not_free_a_request_that_is_under_way_again() {
        let mut proposals = proposals_with(&[1]);
        proposals.sent(1, Term(2));
        proposals.committed_under(Term(3));
        proposals.sent(1, Term(3));
        proposals.returned(&[1], Term(2));
        assert_eq!(waiting(&mut proposals), None);
    }

    #[test]
    fn what_the_leader_gave_back_goes_before_what_came_later() {
        let mut proposals = proposals_with(&[1, 2, 3]);
        proposals.sent(1, Term(2));
        proposals.sent(2, Term(2));
        proposals.returned(&[1, 2], Term(2));
        for seq in [1, 2, 3] {
            assert_eq!(waiting(&mut proposals), Some(seq));
            proposals.sent(seq, Term(2));
        }
    }

    #[test]
    fn the_queue_is_bounded_and_expiry_frees_it() {
        let mut proposals = proposals_with(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(!proposals.accept(9, command(), Monotonic(9)));
        proposals.sent(1, Term(1));
        assert_eq!(proposals.expire(Monotonic(3)), vec![(1, false), (2, true)]);
        assert!(proposals.accept(9, command(), Monotonic(9)));
    }
}
