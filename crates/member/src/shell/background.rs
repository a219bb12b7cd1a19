//! The thread that writes checkpoints and does the store's background work, and how it keeps out of the way.
//!
//! Invariants: it runs behind all other threads and at a steady rate, unless the fronts run out of room (see
//! `pressure`); then it hurries. Going back to the process's own priority needs a right that few processes have, so what
//! is urgent is handed to a thread that never gave its priority up; the other one waits for it meanwhile, so there is
//! one writer at any time.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_store::{Pace, Store};

use super::pressure::Pressure;
use super::threads::{ApplyNote, BACKGROUND_PAUSE, BACKGROUND_STEP_PAUSE, Clock, Links, SPACE_RETRY_PAUSE};
use crate::core::{ApplyInput, CheckpointInput, CheckpointOutput, CheckpointStage, LogInput, TransferInput};

/// Slows background writing down to a steady rate.
pub struct SteadyPace {
    bytes_per_second: u64,
    watch: Option<Watch>,
}

/// What tells whether to hurry.
#[derive(Clone)]
pub struct Watch {
    store: Store,
    clock: Clock,
    pressure: Pressure,
}

impl Watch {
    fn hurries(&mut self) -> bool {
        self.pressure.hurries(self.store.front_room(), self.clock.now().monotonic)
    }
}

/// Where O_DIRECT is refused, writing back dirty pages disturbs the log more: a fifth of the rate.
const BUFFERED_SLOWDOWN: u64 = 5;

impl SteadyPace {
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, watch: None }
    }

    fn hurries(&mut self) -> bool {
        self.watch.as_mut().is_some_and(Watch::hurries)
    }
}

impl Pace for SteadyPace {
    fn wrote(&mut self, bytes: usize, direct: bool) {
        let rate = if direct { self.bytes_per_second } else { self.bytes_per_second / BUFFERED_SLOWDOWN };
        if rate > 0 && !self.hurries() {
            std::thread::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64));
        }
    }
}

/// Lets every other thread of this process go first: relative to them, whatever priority the process was given.
pub fn step_back() {
    const NICER_BY: libc::c_int = 10;
    const NICENESS_MAX: libc::c_int = 19;
    // SAFETY: on Linux `who` 0 means the calling thread; neither call touches memory of ours.
    let failed = unsafe {
        let own = libc::getpriority(libc::PRIO_PROCESS, 0);
        libc::setpriority(libc::PRIO_PROCESS, 0, (own + NICER_BY).min(NICENESS_MAX))
    };
    if failed != 0 {
        tracing::debug!("background threads run at normal priority");
    }
}

/// A front to write (none: the one that found no space), with the stage that does it.
type Errand = (CheckpointStage, Option<CheckpointInput>);
/// The stage comes back, with what became of the front.
type Outcome = (CheckpointStage, Option<CheckpointOutput>);

/// A thread that writes what is urgent at the process's own priority.
struct UrgentWriter {
    errands: Option<mpsc::SyncSender<Errand>>,
    outcomes: mpsc::Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
}

impl UrgentWriter {
    fn start(links: &Arc<Links>, watch: &Watch) -> std::io::Result<Self> {
        let (errands, to_do) = mpsc::sync_channel::<Errand>(0);
        let (done, outcomes) = mpsc::sync_channel(1);
        let watch = watch.clone();
        let thread = super::threads::spawn("quorate-urgent", links, move |links| {
            let mut pace = SteadyPace::new(links.background_bytes_per_second);
            pace.watch = Some(watch);
            while let Ok((mut stage, front)) = to_do.recv() {
                let outcome = write(&mut stage, front, &mut pace);
                if done.send((stage, outcome)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { errands: Some(errands), outcomes, thread: Some(thread) })
    }

    /// `None`: its thread hit a defect, and the member has failed.
    fn write(&self, stage: CheckpointStage, front: Option<CheckpointInput>) -> Option<Outcome> {
        self.errands.as_ref()?.send((stage, front)).ok()?;
        self.outcomes.recv().ok()
    }
}

impl Drop for UrgentWriter {
    fn drop(&mut self) {
        self.errands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes a front, or tries again the one that found no space.
fn write(
    stage: &mut CheckpointStage,
    front: Option<CheckpointInput>,
    pace: &mut SteadyPace,
) -> Option<CheckpointOutput> {
    match front {
        Some(front) => Some(stage.step(front, pace)),
        None => stage.retry(pace),
    }
}

/// Writes checkpoints until the apply stage is gone.
pub fn run_checkpoints(
    links: &Arc<Links>,
    mut stage: CheckpointStage,
    fronts: &mpsc::Receiver<CheckpointInput>,
) {
    let store = links.shared.store.clone();
    let watch = Watch { store, clock: links.clock, pressure: links.pressure };
    let urgent = match UrgentWriter::start(links, &watch) {
        Ok(urgent) => urgent,
        Err(error) => return links.fail(format!("starting a thread for urgent checkpoints failed: {error}")),
    };
    step_back();
    let mut pace = SteadyPace::new(links.background_bytes_per_second);
    pace.watch = Some(watch);
    let mut more = false;
    loop {
        let patience = if stage.is_stuck() {
            SPACE_RETRY_PAUSE
        } else if more {
            BACKGROUND_STEP_PAUSE
        } else {
            BACKGROUND_PAUSE
        };
        let started = Instant::now();
        let stuck = stage.is_stuck();
        let front = match fronts.recv_timeout(patience) {
            Ok(front) => Some(front),
            Err(mpsc::RecvTimeoutError::Timeout) if stuck => None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                more = background_work(links, &mut stage, &mut pace);
                tell_space(links, &mut stage);
                continue;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        let outcome = if pace.hurries() {
            let Some((back, outcome)) = urgent.write(stage, front) else { return };
            stage = back;
            outcome
        } else {
            write(&mut stage, front, &mut pace)
        };
        if let Some(outcome) = outcome {
            report(links, outcome, started, stuck);
        }
        if !stage.is_stuck() && !pace.hurries() {
            // Where checkpoints follow each other without a pause, nothing would come back of what they leave behind.
            more = background_work(links, &mut stage, &mut pace);
        }
        tell_space(links, &mut stage);
    }
}

/// A piece of background work; true if there is more.
fn background_work(links: &Links, stage: &mut CheckpointStage, pace: &mut SteadyPace) -> bool {
    let more = match stage.background(pace) {
        Ok(more) => more,
        Err(reason) => {
            links.fail(format!("background work on the store failed: {reason}"));
            false
        }
    };
    for at in stage.take_damaged() {
        links.transfer.report(TransferInput::Mend(at));
    }
    if stage.wants_checkpoint() {
        links.apply.report(ApplyNote::Input(ApplyInput::CheckpointNow));
    }
    more
}

fn tell_space(links: &Links, stage: &mut CheckpointStage) {
    if let Some(news) = stage.space_news() {
        links.shared.inbox.report(news);
    }
}

fn report(links: &Links, outcome: CheckpointOutput, started: Instant, stuck: bool) {
    match outcome {
        CheckpointOutput::Durable { point, membership } => {
            links.shared.metrics.checkpoint_seconds.observe(started.elapsed().as_secs_f64());
            links.apply.report(ApplyNote::CheckpointDone(Some(point.index)));
            links.shared.inbox.report(LogInput::StoreNoSpace(false));
            links.shared.inbox.report(LogInput::Checkpointed { point, membership });
        }
        CheckpointOutput::Void => links.apply.report(ApplyNote::CheckpointDone(None)),
        CheckpointOutput::NoSpace => {
            if !stuck {
                tracing::warn!(
                    "the disk has no space for a checkpoint; writes go on while memory for them lasts"
                );
            }
            links.shared.inbox.report(LogInput::StoreNoSpace(true));
        }
        CheckpointOutput::Failed { reason } => links.fail(format!("a checkpoint failed: {reason}")),
    }
}
