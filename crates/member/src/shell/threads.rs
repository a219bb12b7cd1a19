//! The threads, one a stage.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quorate_disk::Disk;
use quorate_ids::{LogIndex, Monotonic, WallTime};
use quorate_store::Location;

use super::background::{SteadyPace, step_back};
use super::inbox::Inbox;
use super::log::with_callers_log;
use super::pressure::Pressure;
use super::transport::Transport;
use crate::core::{
    ApplyInput, ApplyOutput, ApplyStage, CheckpointInput, LeaseAnswer, LogBatch, LogInput, LogLoop,
    LogOutput, LogWriter, Mended, Now, TransferInput, TransferOutput, TransferStage, move_to, reply_to_offer,
};
use crate::frame::Lane;
use crate::handle::{Applied, RequestError, Shared, Visible, Waiting};
use crate::joining::Offer;

/// How long a stage waits between tries while the disk is full.
pub const SPACE_RETRY_PAUSE: Duration = Duration::from_millis(200);
/// An idle log is marked after this long.
const MARK_AFTER: Duration = Duration::from_millis(500);
/// Between looks at background work when there was none.
pub const BACKGROUND_PAUSE: Duration = Duration::from_millis(500);
/// Between pieces of background work, so that it never takes a core for itself.
pub const BACKGROUND_STEP_PAUSE: Duration = Duration::from_millis(1);
/// The transfer stage looks after its timeouts this often.
const TRANSFER_TICK: Duration = Duration::from_millis(100);

/// What reaches the apply thread.
pub enum ApplyNote {
    Input(ApplyInput),
    CheckpointDone(Option<LogIndex>),
    Mended(Location, Mended),
}

/// What the threads of one member share.
pub struct Links {
    pub shared: Arc<Shared>,
    pub clock: Clock,
    pub apply: Arc<Inbox<ApplyNote>>,
    pub transfer: Arc<Inbox<TransferInput>>,
    pub transport: Transport,
    pub stopping: AtomicBool,
    pub may_stop: AtomicBool,
    pub stopped: tokio::sync::watch::Sender<Option<super::Stopped>>,
    pub background_bytes_per_second: u64,
    /// When the writer of checkpoints has to hurry.
    pub pressure: Pressure,
    pub disk: Arc<dyn Disk>,
    pub observer: Option<crate::event::Observer>,
}

/// A monotonic clock that starts at 1 s, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Instant,
}

impl Clock {
    #[must_use]
    pub fn start() -> Self {
        Self { zero: Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> Now {
        let elapsed = self.zero.elapsed() + Duration::from_secs(1);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Now { monotonic: Monotonic(nanos(elapsed)), wall: WallTime(nanos(wall)) }
    }

    /// How long until `at`.
    fn until(&self, at: Monotonic) -> Duration {
        Duration::from_nanos(at.since(self.now().monotonic))
    }
}

impl Links {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fail(&self, reason: String) {
        self.shared.inbox.report(LogInput::Failed { reason });
    }
}

/// Starts a thread whose panic fails this member and nothing else.
pub fn spawn(
    name: &str,
    links: &Arc<Links>,
    body: impl FnOnce(&Arc<Links>) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let links = links.clone();
    let stage = name.to_owned();
    let run = with_callers_log(move || {
        if catch_unwind(AssertUnwindSafe(|| body(&links))).is_err() {
            let reason = format!("the thread {stage} hit a defect; see the panic message above");
            links.fail(reason.clone());
            let mut status = links.shared.status.write().unwrap_or_else(PoisonError::into_inner);
            status.failed = Some(reason.clone());
            drop(status);
            links.shared.give_up_waiting(&reason);
            let _ = links.stopped.send(Some(super::Stopped::Failed { reason }));
        }
    });
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

// ---- the log loop ----

/// Runs the log loop until the member stops.
pub fn run_log(links: &Arc<Links>, mut log: LogLoop, writer: &mpsc::Sender<LogBatch>) {
    let mut inputs = Vec::new();
    while !links.is_stopping() {
        let outputs = log.turn(links.clock.now());
        for output in outputs {
            log_output(links, output, writer);
        }
        links.shared.inbox.take(&mut inputs, links.clock.until(log.next_turn()));
        let now = links.clock.now();
        for input in inputs.drain(..) {
            log.step(input, now);
        }
    }
    links.shared.give_up_waiting("the member stopped");
}

fn log_output(links: &Links, output: LogOutput, writer: &mpsc::Sender<LogBatch>) {
    let shared = &links.shared;
    match output {
        LogOutput::Send { to, lane, frame } => links.transport.send(to, lane, frame),
        LogOutput::Write(batch) => {
            // The writer lives as long as this loop; if it died it has reported why.
            let _ = writer.send(batch);
        }
        LogOutput::Apply(input) => links.apply.report(ApplyNote::Input(input)),
        LogOutput::Transfer(input @ TransferInput::Frame { .. }) => {
            // What finds no room is asked for, or sent, again.
            if links.transfer.push(input).is_err() {
                tracing::debug!("the transfer stage is busy; a frame was dropped");
            }
        }
        LogOutput::Transfer(input) => links.transfer.report(input),
        LogOutput::Refuse { seq, error } => {
            shared.metrics.proposals_failed.inc();
            if let Some(answer) = links.waiting().proposals.remove(&seq) {
                let _ = answer.send(Err(error));
            }
        }
        LogOutput::RefuseRead { seq, error } => {
            if let Some(answer) = links.waiting().reads.remove(&seq) {
                let _ = answer.send(Err(error));
            }
        }
        LogOutput::AnswerLease { seq, outcome } => answer_lease(links, seq, outcome),
        LogOutput::Status(status) => {
            let metrics = &shared.metrics;
            let pending = links.waiting().proposals.len();
            metrics.proposals_pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
            metrics.has_leader.set(i64::from(status.leader.is_some()));
            metrics.is_leader.set(i64::from(status.is_leader));
            metrics.is_learner.set(i64::from(status.is_learner));
            metrics.proposals_committed.set(i64::try_from(status.committed.0).unwrap_or(i64::MAX));
            metrics.proposals_applied.set(i64::try_from(status.applied.0).unwrap_or(i64::MAX));
            shared.replayed.send_if_modified(|done| !std::mem::replace(done, status.replayed) && *done);
            let mut said = shared.status.write().unwrap_or_else(PoisonError::into_inner);
            if status.leader.is_some() && said.leader != status.leader {
                metrics.leader_changes_seen.inc();
            }
            if let Some(reason) = status.failed.clone().filter(|_| said.failed.is_none()) {
                let _ = links.stopped.send(Some(super::Stopped::Failed { reason }));
            }
            *said = status;
        }
        LogOutput::Members(list) => {
            shared.list(&list);
            links.transport.set_members(&list);
            let me = shared.identity.member;
            let peers = list.iter().map(|member| member.id).filter(|id| *id != me).collect();
            links.transfer.report(TransferInput::Peers(peers));
        }
        LogOutput::MembersKept(list) => links.transport.learn(list),
        LogOutput::AskMembers(members) => links.transport.ask_members(members),
        LogOutput::Guests(guests) => links.transport.set_guests(guests),
        LogOutput::Event(event) => {
            if let Some(observer) = &links.observer {
                observer.tell(event);
            }
        }
        LogOutput::AnswerLog { seq, view } => {
            if let Some(answer) = links.waiting().logs.remove(&seq) {
                let _ = answer.send(Ok(view));
            }
        }
        LogOutput::AnswerStatistics { seq, statistics } => {
            if let Some(answer) = links.waiting().statistics.remove(&seq) {
                let _ = answer.send(Ok(statistics));
            }
        }
        LogOutput::MayStop => links.may_stop.store(true, Ordering::Release),
        LogOutput::Removed => {
            let _ = links.stopped.send(Some(super::Stopped::Removed));
        }
        LogOutput::JoinReply { ask, reply } => links.transport.answer(ask, reply),
        LogOutput::Invite { urls, offer } => links.transport.invite(urls, offer),
        LogOutput::GiveUp { ask, offer } => give_up(links, ask, &offer),
    }
}

/// From the moment that the move is durable this member is of the other cluster; then it says so.
fn give_up(links: &Links, ask: u64, offer: &Offer) {
    let noted = move_to(links.disk.as_ref(), offer);
    links.transport.answer(ask, reply_to_offer(&noted));
    match noted {
        Ok(()) => {
            let _ = links.stopped.send(Some(super::Stopped::Absorbed));
        }
        // It may be durable all the same: only a start can tell.
        Err(error) => links.fail(format!("moving to cluster {} could not be noted: {error}", offer.cluster)),
    }
}

fn answer_lease(links: &Links, seq: u64, outcome: Result<LeaseAnswer, RequestError>) {
    if let Some(answer) = links.waiting().leases.remove(&seq) {
        let _ = answer.send(outcome);
    }
}

// ---- the log writer ----

/// Writes batches until the log loop is gone.
pub fn run_writer(links: &Arc<Links>, mut writer: LogWriter, batches: &mpsc::Receiver<LogBatch>) {
    loop {
        let report =
            match batches.recv_timeout(if writer.is_stuck() { SPACE_RETRY_PAUSE } else { MARK_AFTER }) {
                Ok(batch) => {
                    let started = Instant::now();
                    let report = writer.step(batch);
                    links.shared.metrics.wal_fsync_seconds.observe(started.elapsed().as_secs_f64());
                    Some(report)
                }
                Err(mpsc::RecvTimeoutError::Timeout) if writer.is_stuck() => writer.retry(),
                Err(mpsc::RecvTimeoutError::Timeout) => writer.idle(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
        for report in report.into_iter().chain(writer.space_news()) {
            links.shared.inbox.report(report);
        }
    }
}

// ---- the apply stage ----

/// Applies until the member stops.
pub fn run_apply(links: &Arc<Links>, mut stage: ApplyStage, checkpoints: &mpsc::Sender<CheckpointInput>) {
    let mut notes = Vec::new();
    while !links.is_stopping() {
        let patience = if stage.has_work() {
            Duration::ZERO
        } else if stage.has_background_work() {
            stage.background();
            BACKGROUND_STEP_PAUSE
        } else {
            let next = stage.next_work().map_or(BACKGROUND_PAUSE, |at| links.clock.until(at));
            next.clamp(BACKGROUND_STEP_PAUSE, BACKGROUND_PAUSE)
        };
        links.apply.take(&mut notes, patience);
        for note in notes.drain(..) {
            match note {
                ApplyNote::Input(input) => stage.step(input),
                ApplyNote::CheckpointDone(durable) => stage.checkpoint_done(durable),
                ApplyNote::Mended(at, outcome) => stage.mended(at, outcome),
            }
        }
        let outputs = stage.work(links.clock.now());
        apply_outputs(links, outputs, checkpoints);
    }
}

/// While entries of before the start are applied somebody may wait for the last of them. Afterwards nobody waits for the
/// log loop to hear how far that is: whatever depends on it comes into its queue later than this.
fn report_applied(links: &Links, index: LogIndex) {
    let report = LogInput::Applied { index };
    if *links.shared.replayed.borrow() {
        links.shared.inbox.report_at_leisure(report);
    } else {
        links.shared.inbox.report(report);
    }
}

fn apply_outputs(links: &Links, outputs: Vec<ApplyOutput>, checkpoints: &mpsc::Sender<CheckpointInput>) {
    let mut answers: Vec<(u64, Result<Applied, RequestError>)> = Vec::new();
    let mut reads = Vec::new();
    for output in outputs {
        match output {
            ApplyOutput::Answer { seq, outcome } => answers.push((seq, outcome)),
            ApplyOutput::AnswerRead { seq, index } => reads.push((seq, index)),
            ApplyOutput::Visible { index, revision, term } => {
                links.shared.visible.send_replace(Visible { index, revision, term });
            }
            ApplyOutput::Applied { index } => report_applied(links, index),
            ApplyOutput::Installed { point, members, stamps } => {
                // Before the reads that waited for the snapshot are answered: they may ask for the members next.
                links.shared.list(&members);
                links.shared.inbox.report(LogInput::Installed { point, members, stamps });
            }
            ApplyOutput::AnswerLease { seq, outcome } => answer_lease(links, seq, outcome),
            ApplyOutput::Send { to, frame } => links.transport.send(to, Lane::Control, frame),
            ApplyOutput::Hashed { index, hash } => {
                links.shared.inbox.report(LogInput::Hashed { index, hash })
            }
            ApplyOutput::Mend(at) => links.transfer.report(TransferInput::Mend(at)),
            ApplyOutput::FrontTight(tight) => links.shared.inbox.report(LogInput::FrontTight(tight)),
            ApplyOutput::Expire { term, model, command } => {
                links.shared.inbox.report(LogInput::Expire { term, model, command });
            }
            ApplyOutput::Checkpoint { frozen, point, membership } => {
                let _ = checkpoints.send(CheckpointInput { frozen, point, membership });
            }
            ApplyOutput::Failed { reason } => links.fail(reason),
        }
    }
    if answers.is_empty() && reads.is_empty() {
        return;
    }
    // One lock for the whole batch; the wake-ups happen outside of it.
    let mut waiting = links.waiting();
    let answers: Vec<_> = answers
        .into_iter()
        .filter_map(|(seq, outcome)| Some((waiting.proposals.remove(&seq)?, outcome)))
        .collect();
    let reads: Vec<_> =
        reads.into_iter().filter_map(|(seq, index)| Some((waiting.reads.remove(&seq)?, index))).collect();
    drop(waiting);
    for (answer, outcome) in answers {
        let _ = answer.send(outcome);
    }
    for (answer, index) in reads {
        let _ = answer.send(Ok(index));
    }
}

// ---- snapshots ----

/// Serves and fetches snapshots until the member stops.
pub fn run_transfers(links: &Arc<Links>, mut stage: TransferStage) {
    step_back();
    let mut pace = SteadyPace::new(links.background_bytes_per_second);
    let mut inputs = Vec::new();
    while !links.is_stopping() {
        links.transfer.take(&mut inputs, TRANSFER_TICK);
        let mut outputs = stage.tick(links.clock.now());
        for input in inputs.drain(..) {
            outputs.extend(stage.step(input, links.clock.now(), &mut pace));
        }
        for output in outputs {
            match output {
                TransferOutput::Send { to, frame } => links.transport.send(to, Lane::Bulk, frame.encode()),
                TransferOutput::Fetched { from, point, generation } => {
                    links.shared.inbox.report(LogInput::SnapshotFetched { from, point, generation });
                }
                TransferOutput::Mended { at, outcome } => mended(links, at, outcome),
                TransferOutput::Condemned { file } => {
                    tracing::warn!(file, "a file of the store is damaged; what it holds is written anew");
                    links.shared.metrics.files_condemned.inc();
                }
                TransferOutput::NoRoom { point, bytes, room } => {
                    links.shared.inbox.report(LogInput::SnapshotHasNoRoom { point, bytes, room });
                }
                TransferOutput::GaveUp { from, point } => {
                    links.shared.inbox.report(LogInput::SnapshotFailed { from, point });
                }
            }
        }
    }
}

fn mended(links: &Links, at: Location, outcome: Mended) {
    let segment = format_args!("{:08x}", at.segment).to_string();
    match outcome {
        Mended::Done => {
            tracing::info!(segment, offset = at.offset, "a damaged record was mended");
            links.shared.metrics.records_mended.inc();
        }
        Mended::Lost => {
            tracing::error!(segment, offset = at.offset, "a damaged record is lost: no other member has it");
            links.shared.metrics.records_lost.inc();
        }
        Mended::Busy => {}
    }
    // Nobody listens where nobody waits.
    let _ = links.shared.mended.send((at, outcome));
    links.apply.report(ApplyNote::Mended(at, outcome));
}
