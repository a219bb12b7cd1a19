//! Frames from peers and to them.

use super::*;

impl LogLoop {
    pub(super) fn frame(&mut self, from: MemberId, frame: Bytes, now: Now) {
        if self.failed.is_some() || self.removed || self.given_up {
            return;
        }
        self.joins.heard(from, now.monotonic);
        let frame = match Frame::decode(frame) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::warn!(peer = %from, %error, "a frame of a peer was dropped");
                return;
            }
        };
        match frame {
            Frame::Raft(bytes) => self.raft_message(from, &bytes, now),
            Frame::Forward { term, requests } => self.forwarded(from, term, requests, now),
            Frame::ForwardRefused { start, term, seqs, reason } => {
                if start == self.config.start {
                    self.forward_refused(term, seqs, reason);
                }
            }
            Frame::SnapshotStatus { point, installed } => {
                self.out.push(LogOutput::Transfer(TransferInput::Close { to: from, point }));
                self.consensus.report_snapshot(from, installed);
            }
            Frame::Space(space) => self.peer_space(from, space, now),
            Frame::Spared { term } => self.spared(term, now),
            Frame::Hashes { index, hash } => self.compare(from, index, hash),
            Frame::Transfer { term, to } => {
                if self.consensus.leadership().2 == term {
                    self.transfer(to, now);
                }
            }
            Frame::Level(level) => self.level_told(from, level),
            Frame::LeaseAsks { asks } => {
                for (start, seq, lease, renew) in asks {
                    let asker = Origin { member: from, start, seq };
                    self.accept_read(Confirm::Lease(LeaseAsk { asker, lease, renew }));
                }
            }
            Frame::LeaseAnswers { start, answers } => {
                let answers = answers.into_iter().filter(|_| start == self.config.start);
                self.out.extend(answers.map(|(seq, alive)| LogOutput::AnswerLease {
                    seq,
                    outcome: Ok(alive.map_or(LeaseAnswer::Missing, |(ttl_seconds, remaining_nanos)| {
                        LeaseAnswer::Alive { ttl_seconds, remaining_nanos }
                    })),
                }));
            }
            Frame::SnapshotOpen { .. }
            | Frame::SnapshotManifest { .. }
            | Frame::SnapshotGone { .. }
            | Frame::ChunkRequest { .. }
            | Frame::Chunk { .. }
            | Frame::RecordRequest { .. }
            | Frame::Record { .. } => {
                if matches!(frame, Frame::SnapshotOpen { .. } | Frame::ChunkRequest { .. }) {
                    self.offers.heard(from, now.monotonic);
                }
                self.out.push(LogOutput::Transfer(TransferInput::Frame { from, frame }));
            }
            Frame::Members { .. }
            | Frame::Hello(_)
            | Frame::Refused { .. }
            | Frame::JoinQuestion(_)
            | Frame::JoinAnswer(_) => {
                tracing::warn!(peer = %from, "a frame that has no place here was dropped");
            }
        }
    }

    pub(super) fn raft_message(&mut self, from: MemberId, bytes: &Bytes, now: Now) {
        let message = match Message::decode_shared(bytes) {
            Ok(message) if message.from() == from => message,
            Ok(message) => {
                tracing::warn!(peer = %from, claimed = %message.from(), "a message under another member's id was dropped");
                return;
            }
            Err(error) => {
                tracing::warn!(peer = %from, %error, "a consensus message was dropped");
                return;
            }
        };
        self.traffic.received(&message, bytes.len(), now.monotonic);
        if message.entries_bytes() > 0 && self.is_lagging() {
            // The leader sends it again; until then the apply stage catches up.
            return;
        }
        if self.has_no_space_for(&message, now) {
            return;
        }
        match message.is_snapshot() {
            Some(point) => {
                let point = SnapshotPoint { index: point.index, term: point.term };
                self.snapshot_offered(from, point, message);
            }
            None => self.step_message(message),
        }
    }

    pub(super) fn step_message(&mut self, message: Message) {
        if let Err(error) = self.consensus.step(message) {
            tracing::debug!(%error, "a consensus message was refused");
        }
    }

    pub(super) fn forwarded(&mut self, from: MemberId, term: Term, requests: Vec<Forwarded>, now: Now) {
        let (role, _, now_in) = self.consensus.leadership();
        let leads = role == Role::Leader && now_in == term;
        let mut refused: Vec<(ForwardRefusal, u64, Vec<u64>)> = Vec::new();
        for Forwarded { start, seq, body } in requests {
            let request = match body {
                ForwardedBody::Command { model, command } => Some(Request::Command { model, command }),
                ForwardedBody::Membership { request } => {
                    MembershipRequest::decode(&request).ok().map(Request::Membership)
                }
            };
            let Some(request) = request else {
                tracing::warn!(peer = %from, "a forwarded membership request that makes no sense was dropped");
                continue;
            };
            let origin = Origin { member: from, start, seq };
            let proposed =
                if leads { self.propose(origin, request, now) } else { Err(ForwardRefusal::NotLeader) };
            if let Err(reason) = proposed {
                match refused.iter_mut().find(|(r, s, _)| *r == reason && *s == start) {
                    Some((_, _, seqs)) => seqs.push(seq),
                    None => refused.push((reason, start, vec![seq])),
                }
            }
        }
        for (reason, start, seqs) in refused {
            self.send(from, Lane::Entries, &Frame::ForwardRefused { start, term, seqs, reason });
        }
    }

    pub(super) fn forward_refused(&mut self, term: Term, seqs: Vec<u64>, reason: ForwardRefusal) {
        let error = match reason {
            ForwardRefusal::NotLeader => return self.proposals.returned(&seqs, term),
            ForwardRefusal::Overloaded => {
                self.leader_is_full = true;
                return self.proposals.returned(&seqs, term);
            }
            ForwardRefusal::NoSpace => RequestError::NoSpace,
            ForwardRefusal::TooNew => RequestError::TooNew,
            ForwardRefusal::Membership(reason) => RequestError::Refused { reason },
        };
        for seq in seqs {
            self.refuse(seq, error.clone());
        }
    }

    pub(super) fn send(&mut self, to: MemberId, lane: Lane, frame: &Frame) {
        self.out.push(LogOutput::Send { to, lane, frame: frame.encode() });
    }

    pub(super) fn send_messages(&mut self, messages: Vec<Message>, now: Now) {
        for message in messages {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            self.traffic.sent(&message, bytes.len(), now.monotonic);
            let lane = if message.entries_bytes() > 0 { Lane::Entries } else { Lane::Control };
            self.send(message.to(), lane, &Frame::Raft(Bytes::from(bytes)));
        }
    }

    // ---- comparing tables ----

    pub(super) fn hashed(&mut self, index: LogIndex, hash: u64) {
        let me = self.config.identity.member;
        let frame = Frame::Hashes { index, hash }.encode();
        let others: Vec<MemberId> =
            self.members.iter().map(|member| member.id).filter(|id| *id != me).collect();
        for to in others {
            self.out.push(LogOutput::Send { to, lane: Lane::Control, frame: frame.clone() });
        }
        self.compare(me, index, hash);
    }

    fn compare(&mut self, member: MemberId, index: LogIndex, hash: u64) {
        let me = self.config.identity.member;
        match self.comparison.tell(index, member, hash, me, &self.membership.voters) {
            Some(Divergence::Mine { index }) => self.fail(format!(
                "this member's data differs from what a majority has at log index {index}: remove it from the cluster, \
                 start it with --give-up-data and add it again"
            )),
            Some(Divergence::Theirs { index, member }) => {
                tracing::error!(%member, %index, "a member's data differs from this one's");
            }
            None => {}
        }
    }
}
