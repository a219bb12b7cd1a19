//! Stepping the stages, and carrying what they put out.

use bytes::Bytes;
use quorate_ids::MemberId;
use quorate_member::RequestError;
use quorate_member::core::{
    ApplyInput, ApplyOutput, CheckpointInput, CheckpointOutput, LeaseAnswer, LogInput, LogOutput, Mended,
    TransferInput, TransferOutput,
};
use quorate_member::frame::{FRAME_HEADER_BYTES, Frame, Lane};
use quorate_models::hashed_tables;
use quorate_store::Unpaced;

use super::clients::Delivery;
use super::member::{Input, Stage};
use super::{Event, MILLI, QUEUE_MAX, Sent, World};
use crate::network::Fate;
use crate::oracle::{Checked, ensure};

/// Between looks at background work, retries on a full disk, and transfer timeouts.
const BACKGROUND_NANOS: u64 = 200 * MILLI;
/// What a hand-over between two threads takes at most.
const HAND_OVER_NANOS_MAX: u64 = 20_000;
/// What is committed is applied, even where the fronts are full: what may have been under way by then.
const FRONT_BYTES_BEYOND: u64 = 16 << 20;
/// Processor time of a step.
const STEP_NANOS: u64 = 3_000;

impl World {
    /// Wakes a stage at `at`, unless it will wake before.
    pub(super) fn wake_at(&mut self, member: usize, epoch: u64, stage: Stage, at: u64) {
        let now = self.events.now();
        let Some(running) = &mut self.machines[member].running else { return };
        let queue = running.queue(stage);
        let at = at.max(queue.busy_until).max(now);
        if queue.wake_at.is_some_and(|known| known <= at) {
            return;
        }
        queue.wake_at = Some(at);
        self.events.at(at, Event::Wake { member, epoch, stage });
    }

    pub(super) fn push(&mut self, member: usize, input: Input) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        let epoch = machine.epoch;
        let Some(running) = &mut machine.running else { return Ok(()) };
        let stage = input.stage();
        let queue = running.queue(stage);
        queue.waiting.push_back(input);
        ensure!(
            queue.waiting.len() <= QUEUE_MAX,
            "more than {QUEUE_MAX} inputs wait for {stage:?} of member {member}"
        );
        self.wake_at(member, epoch, stage, now);
        Ok(())
    }

    /// Hands something to a stage of the same member, `at` or a little later.
    pub(super) fn hand(&mut self, member: usize, at: u64, input: Input) {
        let epoch = self.machines[member].epoch;
        let at = at + self.rng.below(HAND_OVER_NANOS_MAX);
        // Hand-overs to one stage keep their order, as a queue does.
        let stage = input.stage();
        let Some(running) = &mut self.machines[member].running else { return };
        let last = &mut running.handed[stage as usize];
        *last = at.max(*last + 1);
        let at = *last;
        self.events.at(at, Event::Hand { member, epoch, input });
    }

    pub(super) fn wake(&mut self, member: usize, epoch: u64, stage: Stage) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        if machine.epoch != epoch {
            return Ok(());
        }
        let paused_until = machine.paused_until;
        let Some(running) = &mut machine.running else { return Ok(()) };
        let queue = running.queue(stage);
        if queue.wake_at != Some(now) {
            return Ok(());
        }
        queue.wake_at = None;
        let ready_at = queue.busy_until.max(paused_until);
        if ready_at > now {
            self.wake_at(member, epoch, stage, ready_at);
            return Ok(());
        }
        self.hash.number((member as u64) << 8 | stage as u64);
        machine.disk.settle(now);
        machine.disk.begin(now + STEP_NANOS);
        match stage {
            Stage::Log => self.step_log(member),
            Stage::Writer => self.step_writer(member),
            Stage::Apply => self.step_apply(member),
            Stage::Checkpoint => self.step_checkpoint(member),
            Stage::Transfer => self.step_transfer(member),
        }
    }

    /// Notes that the step that just ran keeps its stage busy; returns until when.
    fn busy(&mut self, member: usize, stage: Stage) -> u64 {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        let until = machine.disk.busy_until();
        let epoch = machine.epoch;
        if let Some(running) = &mut machine.running {
            running.queue(stage).busy_until = until;
        }
        let wrote = until > now + STEP_NANOS;
        if wrote && let Some((kind, down_nanos)) = machine.crash_on_write.take() {
            let at = self.rng.between(now, until);
            self.events.at(at, Event::Crash { member, epoch, kind, down_nanos });
        }
        until
    }

    // ---- the log loop ----

    fn step_log(&mut self, member: usize) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        let time = machine.now(now);
        let running = machine.running.as_mut().expect("a stage of a running member");
        for input in running.queues[Stage::Log as usize].waiting.drain(..) {
            if let Input::Log(input) = input {
                running.stages.log_loop.step(input, time);
            }
        }
        let outputs = running.stages.log_loop.turn(time);
        let wait = running.stages.log_loop.next_turn().since(time.monotonic);
        let at = self.busy(member, Stage::Log);
        let epoch = self.machines[member].epoch;
        for output in outputs {
            self.log_output(member, at, output)?;
            if self.machines[member].epoch != epoch {
                return Ok(());
            }
        }
        // The member's clock may be slow: a little later is certain to be late enough.
        self.wake_at(member, epoch, Stage::Log, now + wait + wait / 500 + 1);
        Ok(())
    }

    fn log_output(&mut self, member: usize, at: u64, output: LogOutput) -> Checked {
        match output {
            LogOutput::Send { to, lane, frame } => self.send(member, to, lane, frame),
            LogOutput::Write(batch) => self.hand(member, at, Input::Writer(batch)),
            LogOutput::Apply(input) => {
                if let quorate_member::core::ApplyInput::Entries(entries) = &input {
                    for committed in entries {
                        self.is_known(member, &committed.entry)?;
                        let now = self.events.now();
                        self.oracle_at(member).committed(member, &committed.entry, now)?;
                    }
                    self.judge_promotions()?;
                }
                self.hand(member, at, Input::Apply(input));
            }
            LogOutput::Transfer(input) => {
                if matches!(input, TransferInput::Fetch { .. }) {
                    self.count("snapshot: fetch begun");
                }
                if !matches!(input, TransferInput::Frame { .. }) {
                    self.trace(|| format!("m{member} transfer: {input:?}"));
                }
                self.hand(member, at, Input::Transfer(input));
            }
            LogOutput::Refuse { seq, error } => self.tell(member, at, seq, Delivery::Refused(error)),
            LogOutput::RefuseRead { seq, error } => self.tell(member, at, seq, Delivery::Refused(error)),
            LogOutput::AnswerLease { seq, outcome } => self.tell_of_lease(member, at, seq, outcome),
            LogOutput::Status(status) => return self.status(member, status),
            LogOutput::Members(list) => {
                if let Some(running) = &mut self.machines[member].running {
                    running.members = list.clone();
                }
                let me = self.id_of(member);
                let peers = list.iter().map(|member| member.id).filter(|id| *id != me).collect();
                self.hand(member, at, Input::Transfer(TransferInput::Peers(peers)));
            }
            LogOutput::MembersKept(list) => self.members_kept(member, at, list),
            LogOutput::AskMembers(members) => self.ask_members(member, &members),
            LogOutput::Guests(guests) => {
                self.trace(|| {
                    format!("m{member} lets in {:?}", guests.iter().map(|g| g.id).collect::<Vec<_>>())
                });
                self.count("handshake: let in before the list names it");
                if let Some(running) = &mut self.machines[member].running {
                    running.guests = guests.into_iter().map(|guest| (guest.id, guest)).collect();
                }
            }
            LogOutput::JoinReply { ask, reply } => self.replied(member, ask, reply),
            LogOutput::Invite { urls, offer } => self.invite(member, &urls, offer),
            LogOutput::GiveUp { ask, offer } => return self.give_up(member, at, ask, offer),
            LogOutput::MayStop
            | LogOutput::Event(_)
            | LogOutput::AnswerLog { .. }
            | LogOutput::AnswerStatistics { .. } => {}
            LogOutput::Removed => return self.member_ended(member),
        }
        Ok(())
    }

    fn status(&mut self, member: usize, status: quorate_member::Status) -> Checked {
        self.trace(|| format!("m{member} {status:?}"));
        if status.is_leader {
            let id = self.id_of(member);
            let cluster = self.machines[member].identity.cluster;
            let first = *self.leaders.entry((cluster, status.term.0)).or_insert(id);
            ensure!(first == id, "members {first} and {id} both lead in term {}", status.term);
            self.look_at_statistics(member)?;
        }
        let log_end = self.machines[member].log_end;
        let Some(running) = &mut self.machines[member].running else { return Ok(()) };
        ensure!(
            status.term >= running.status.term && status.committed >= running.status.committed,
            "member {member} went back from {:?} to {status:?}",
            running.status
        );
        let failed = status.failed.clone();
        let timeout = self.settings.tick_nanos * self.settings.election_ticks as u64;
        running.follow(&status, self.events.now(), log_end, timeout);
        running.status = status;
        let log_end = running.status.last_index;
        self.machines[member].log_end = self.machines[member].log_end.max(log_end);
        match failed {
            Some(reason) => self.member_failed(member, &reason),
            None => Ok(()),
        }
    }

    // ---- the writer ----

    fn step_writer(&mut self, member: usize) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        let running = machine.running.as_mut().expect("a stage of a running member");
        let writer = &mut running.stages.log_writer;
        let (mut voted, mut appended) = (false, false);
        let report = if writer.is_stuck() {
            writer.retry()
        } else {
            match running.queues[Stage::Writer as usize].waiting.pop_front() {
                Some(Input::Writer(batch)) => {
                    // A newer term is as good as a vote: most often it comes with one.
                    let term = batch.hard_state.map_or(0, |state| state.term.0);
                    voted = term > machine.written_term;
                    machine.written_term = machine.written_term.max(term);
                    appended = !batch.entries.is_empty() || batch.hard_state.is_some();
                    Some(writer.step(batch))
                }
                _ => writer.idle(),
            }
        };
        let news = writer.space_news();
        let appended = appended && matches!(report, Some(LogInput::Written { .. }));
        let epoch = machine.epoch;
        let at = self.busy(member, Stage::Writer);
        self.log_rots(member, appended);
        if voted {
            let race = self.machines[member].vote_race.filter(|(_, until)| now < *until);
            let race = race.map(|(kind, _)| (kind, MILLI + self.rng.below(10 * MILLI)));
            if let Some((kind, down_nanos)) = race.or_else(|| self.machines[member].crash_on_vote.take()) {
                let at = at + self.rng.below(10 * MILLI);
                self.events.at(at, Event::Crash { member, epoch, kind, down_nanos });
            }
        }
        for report in report.into_iter().chain(news) {
            self.hand(member, at, Input::Log(report));
        }
        let more = self.machines[member]
            .running
            .as_mut()
            .is_some_and(|r| !r.queue(Stage::Writer).waiting.is_empty());
        self.wake_at(member, epoch, Stage::Writer, if more { at } else { now + BACKGROUND_NANOS });
        Ok(())
    }

    // ---- the apply stage ----

    fn step_apply(&mut self, member: usize) -> Checked {
        let now = self.events.now();
        let take = self.rng.between(1, 4);
        let judged = self.is_judged(member);
        let machine = &mut self.machines[member];
        let time = machine.now(now);
        let running = machine.running.as_mut().expect("a stage of a running member");
        let stage = &mut running.stages.apply;
        for _ in 0..take {
            match running.queues[Stage::Apply as usize].waiting.pop_front() {
                Some(Input::Apply(input)) => stage.step(input),
                Some(Input::CheckpointDone(durable)) => stage.checkpoint_done(durable),
                Some(Input::Mended(at, outcome)) => stage.mended(at, outcome),
                _ => break,
            }
        }
        if !stage.has_work() && stage.has_background_work() {
            stage.background();
        }
        let outputs = stage.work(time);
        let due = stage.next_work().map(|at| at.since(time.monotonic));
        let more = stage.has_work() || !running.queues[Stage::Apply as usize].waiting.is_empty();
        let background = stage.has_background_work();
        let applied = stage.applied_index();
        let compare = judged && !stage.has_work() && applied > running.hashed;
        let hash = compare.then(|| {
            running.hashed = applied;
            let tables = running.stages.store.read();
            hashed_tables().fold(0u128, |sum, table| sum.rotate_left(1).wrapping_add(tables.hash(table)))
        });
        if let Some(hash) = hash {
            let stage = &running.stages.apply;
            let oracle = self.lone.get_mut(&machine.identity.cluster).unwrap_or(&mut self.oracle);
            oracle.members.compare(member, applied, stage.members(), stage.membership())?;
            oracle.hash(member, applied, hash)?;
        }
        let front_bytes = self.machines[member].running.as_ref().map_or(0, |r| r.stages.store.front_bytes());
        ensure!(
            front_bytes <= 2 * self.settings.front_bytes_max + FRONT_BYTES_BEYOND,
            "{front_bytes} bytes wait in memory to be written by a checkpoint of member {member}"
        );
        let epoch = self.machines[member].epoch;
        let at = self.busy(member, Stage::Apply);
        for output in outputs {
            if matches!(output, ApplyOutput::Installed { .. }) {
                self.judge_installed(member)?;
            }
            self.apply_output(member, at, output);
        }
        let next = if more {
            at
        } else if background {
            now + MILLI
        } else {
            now + due.map_or(BACKGROUND_NANOS, |due| (due + due / 500).clamp(MILLI, BACKGROUND_NANOS))
        };
        self.wake_at(member, epoch, Stage::Apply, next);
        Ok(())
    }

    fn apply_output(&mut self, member: usize, at: u64, output: ApplyOutput) {
        match output {
            ApplyOutput::Answer { seq, outcome } => {
                let delivery = match outcome {
                    Ok(applied) => Delivery::Answer(Box::new(applied)),
                    Err(error) => Delivery::Refused(error),
                };
                self.tell(member, at, seq, delivery);
            }
            ApplyOutput::AnswerRead { seq, index } => {
                self.tell(member, at, seq, Delivery::ReadFrom { index })
            }
            ApplyOutput::Visible { .. } => {}
            ApplyOutput::AnswerLease { seq, outcome } => self.tell_of_lease(member, at, seq, outcome),
            ApplyOutput::Send { to, frame } => self.send(member, to, Lane::Control, frame),
            ApplyOutput::Hashed { index, hash } => {
                self.hand(member, at, Input::Log(LogInput::Hashed { index, hash }))
            }
            ApplyOutput::Mend(place) => {
                self.count("record: found damaged by a command");
                self.hand(member, at, Input::Transfer(TransferInput::Mend(place)));
            }
            ApplyOutput::FrontTight(tight) => self.hand(member, at, Input::Log(LogInput::FrontTight(tight))),
            ApplyOutput::Expire { term, model, command } => {
                self.hand(member, at, Input::Log(LogInput::Expire { term, model, command }));
            }
            ApplyOutput::Applied { index } => self.hand(member, at, Input::Log(LogInput::Applied { index })),
            ApplyOutput::Installed { point, members, stamps } => {
                self.count("snapshot: installed");
                self.trace(|| format!("m{member} installed a snapshot at {}", point.index));
                self.hand(member, at, Input::Log(LogInput::Installed { point, members, stamps }));
            }
            ApplyOutput::Checkpoint { frozen, point, membership } => {
                self.hand(member, at, Input::Checkpoint(CheckpointInput { frozen, point, membership }));
            }
            ApplyOutput::Failed { reason } => self.hand(member, at, Input::Log(LogInput::Failed { reason })),
        }
    }

    // ---- background ----

    fn step_checkpoint(&mut self, member: usize) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        let running = machine.running.as_mut().expect("a stage of a running member");
        let stage = &mut running.stages.checkpoint;
        let mut background = None;
        let output = if stage.is_stuck() {
            stage.retry(&mut Unpaced)
        } else {
            match running.queues[Stage::Checkpoint as usize].waiting.pop_front() {
                Some(Input::Checkpoint(input)) => {
                    let output = stage.step(input, &mut Unpaced);
                    if !stage.is_stuck() {
                        background = Some(stage.background(&mut Unpaced));
                    }
                    Some(output)
                }
                _ => {
                    background = Some(stage.background(&mut Unpaced));
                    None
                }
            }
        };
        let damaged = stage.take_damaged();
        let wants_checkpoint = stage.wants_checkpoint();
        let news = stage.space_news();
        let epoch = machine.epoch;
        let at = self.busy(member, Stage::Checkpoint);
        for place in damaged {
            self.count("record: found damaged by rewriting");
            self.hand(member, at, Input::Transfer(TransferInput::Mend(place)));
        }
        if wants_checkpoint {
            self.hand(member, at, Input::Apply(ApplyInput::CheckpointNow));
        }
        if let Some(news) = news {
            self.hand(member, at, Input::Log(news));
        }
        match output {
            Some(CheckpointOutput::Durable { point, membership }) => {
                self.count("checkpoint: durable");
                if let Some(running) = &mut self.machines[member].running {
                    running.checkpoint = point.index;
                }
                self.hand(member, at, Input::CheckpointDone(Some(point.index)));
                self.hand(member, at, Input::Log(LogInput::StoreNoSpace(false)));
                self.hand(member, at, Input::Log(LogInput::Checkpointed { point, membership }));
            }
            Some(CheckpointOutput::Void) => self.hand(member, at, Input::CheckpointDone(None)),
            Some(CheckpointOutput::Failed { reason }) => {
                self.hand(
                    member,
                    at,
                    Input::Log(LogInput::Failed { reason: format!("a checkpoint failed: {reason}") }),
                );
            }
            Some(CheckpointOutput::NoSpace) => {
                self.hand(member, at, Input::Log(LogInput::StoreNoSpace(true)))
            }
            None => {}
        }
        let mut next = now + BACKGROUND_NANOS;
        match background {
            Some(Ok(true)) => next = at + MILLI,
            Some(Err(reason)) => {
                let reason = format!("background work on the store failed: {reason}");
                self.hand(member, at, Input::Log(LogInput::Failed { reason }));
            }
            _ => {}
        }
        self.wake_at(member, epoch, Stage::Checkpoint, next);
        Ok(())
    }

    fn step_transfer(&mut self, member: usize) -> Checked {
        let now = self.events.now();
        let machine = &mut self.machines[member];
        let time = machine.now(now);
        let running = machine.running.as_mut().expect("a stage of a running member");
        let stage = &mut running.stages.transfer;
        let mut outputs = stage.tick(time);
        for input in running.queues[Stage::Transfer as usize].waiting.drain(..) {
            if let Input::Transfer(input) = input {
                outputs.extend(stage.step(input, time, &mut Unpaced));
            }
        }
        let epoch = machine.epoch;
        let at = self.busy(member, Stage::Transfer);
        self.rot_at_receiver(member);
        for output in outputs {
            match output {
                TransferOutput::Send { to, frame } => self.send(member, to, Lane::Bulk, frame.encode()),
                TransferOutput::Fetched { from, point, generation } => {
                    self.count("snapshot: fetched");
                    self.trace(|| format!("m{member} fetched the snapshot at {} from {from}", point.index));
                    self.hand(member, at, Input::Log(LogInput::SnapshotFetched { from, point, generation }));
                }
                TransferOutput::Mended { at: place, outcome } => {
                    self.trace(|| format!("m{member} {place:?}: {outcome:?}"));
                    self.count(match outcome {
                        Mended::Done => "record: mended",
                        Mended::Lost => "record: lost",
                        Mended::Busy => "record: one too many at a time",
                    });
                    self.hand(member, at, Input::Mended(place, outcome));
                }
                TransferOutput::Condemned { file } => {
                    self.trace(|| format!("m{member}: {file} is damaged"));
                    self.count("snapshot: a damaged file, written anew");
                }
                TransferOutput::NoRoom { point, bytes, room } => {
                    self.count("snapshot: no room for it");
                    self.trace(|| {
                        format!("m{member}: snapshot at {}: {bytes} bytes, room {room}", point.index)
                    });
                    self.hand(member, at, Input::Log(LogInput::SnapshotHasNoRoom { point, bytes, room }));
                }
                TransferOutput::GaveUp { from, point } => {
                    self.count("snapshot: given up");
                    self.trace(|| format!("m{member} gave up the snapshot at {} from {from}", point.index));
                    self.hand(member, at, Input::Log(LogInput::SnapshotFailed { from, point }));
                }
            }
        }
        self.wake_at(member, epoch, Stage::Transfer, now + BACKGROUND_NANOS);
        Ok(())
    }

    // ---- frames ----

    fn send(&mut self, from: usize, to_id: MemberId, lane: Lane, bytes: Bytes) {
        let now = self.events.now();
        let Some(&to) = self.numbers.get(&to_id) else { return };
        // A member dials those in its list, and its guests.
        let dials = self.machines[from].running.as_ref().is_some_and(|running| {
            running.members.get(to_id).is_some() || running.guests.contains_key(&to_id)
        });
        if self.operator.is_some() && !dials {
            return;
        }
        if self.machines[to].serving(now).is_none() {
            self.unreachable(from, to_id, 50 * MILLI);
            return;
        }
        // Raft messages must survive anything; everything else crosses a connection that keeps order or breaks.
        let frame = Frame::decode(bytes.clone());
        let strict = !matches!(frame, Ok(Frame::Raft(_)));
        if let Ok(Frame::SnapshotStatus { .. } | Frame::SnapshotOpen { .. } | Frame::SnapshotGone { .. }) =
            &frame
        {
            self.trace(|| format!("m{from} to m{to}: {frame:?}"));
        }
        if let Ok(Frame::Raft(message)) = &frame
            && self.is_intercepted(from, to, message, &bytes)
        {
            return;
        }
        let lane = lane as u8;
        if matches!(frame, Ok(Frame::SnapshotManifest { .. })) {
            self.rot_at_sender(from);
        }
        if matches!(frame, Ok(Frame::Chunk { .. })) {
            self.cut_snapshot(from, to, lane);
        }
        let fate = self.network.send(now, from, to, lane, strict, bytes.len());
        let sent = Sent {
            from_id: self.id_of(from),
            from_epoch: self.machines[from].epoch,
            to_id,
            to_epoch: self.machines[to].epoch,
            lane,
            breaks: self.network.breaks(from, to, lane),
            strict,
        };
        match fate {
            Fate::Arrives { at, again_at } => {
                for at in [Some(at), again_at].into_iter().flatten() {
                    self.events.at(at, Event::Frame { from, to, sent, bytes: bytes.clone() });
                }
            }
            Fate::Corrupt { at, bit } => {
                let mut damaged = bytes.to_vec();
                damaged[(bit / 8) as usize] ^= 1 << (bit % 8);
                self.events.at(at, Event::Frame { from, to, sent, bytes: Bytes::from(damaged) });
            }
            Fate::Lost => {}
            Fate::Broken { known_at } => self.unreachable(from, to_id, known_at - now),
        }
    }

    pub(super) fn unreachable(&mut self, from: usize, to: MemberId, after: u64) {
        let now = self.events.now();
        let Some(running) = &mut self.machines[from].running else { return };
        if now < running.last_unreachable + 20 * MILLI {
            return;
        }
        running.last_unreachable = now;
        let epoch = self.machines[from].epoch;
        let input = Input::Log(LogInput::Unreachable { to });
        self.events.after(after, Event::Hand { member: from, epoch, input });
    }

    pub(super) fn arrived(&mut self, from: usize, to: usize, sent: Sent, bytes: Bytes) -> Checked {
        let current = self.machines[to].epoch == sent.to_epoch;
        let unbroken = self.network.breaks(from, to, sent.lane) == sent.breaks;
        if self.machines[to].serving(self.events.now()).is_none() || (sent.strict && !(current && unbroken)) {
            return Ok(());
        }
        debug_assert_eq!(self.numbers.get(&sent.to_id), Some(&to));
        if self.operator.is_some() && !self.is_open(from, to, sent, &bytes)? {
            return Ok(());
        }
        self.hash.bytes(&bytes[FRAME_HEADER_BYTES.min(bytes.len())..bytes.len().min(64)]);
        if Frame::decode(bytes.clone()).is_err() {
            // The receiver ends a connection that carries nonsense.
            self.network.break_one(from, to, sent.lane);
            self.unreachable(from, sent.to_id, MILLI);
            if sent.strict {
                return Ok(());
            }
        }
        self.push(to, Input::Log(LogInput::Frame { from: sent.from_id, frame: bytes }))
    }

    fn tell_of_lease(
        &mut self,
        member: usize,
        at: u64,
        seq: u64,
        outcome: Result<LeaseAnswer, RequestError>,
    ) {
        let delivery = match outcome {
            Ok(answer) => Delivery::Lease(answer),
            Err(error) => Delivery::Refused(error),
        };
        self.tell(member, at, seq, delivery);
    }

    /// Tells a client what became of its request, unless the member dies before.
    fn tell(&mut self, member: usize, at: u64, seq: u64, delivery: Delivery) {
        let epoch = self.machines[member].epoch;
        self.events.at(at, Event::Tell { member, epoch, seq, delivery });
    }
}
