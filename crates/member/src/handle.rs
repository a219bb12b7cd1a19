//! What faces and embedding programs hold of a running member.
//!
//! A [`Handle`] is cheap to clone and works from any thread and any async runtime. Invariants:
//!
//! - Each accepted request is answered exactly once: with its outcome, or with an error that says whether the outcome
//!   is known. A request is never proposed twice.
//! - What [`Handle::read_index`] returned is visible in the tables of [`Handle::store`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quorate_ids::{ClusterId, Incarnation, LogIndex, MemberId, Revision, Term};
use quorate_models::{Feeds, ModelId, keys, tree};
use quorate_store::{BodyError, Location, Pin, Store};
use quorate_tls::Connector;
use tokio::sync::{broadcast, oneshot, watch};

use crate::core::{LeaseAnswer, LogInput, Mended, TransferInput};
use crate::last_requests::LastRequests;
use crate::log_view::LogView;
use crate::membership::{Member, MemberList, MembershipRequest};
use crate::metrics::Metrics;
use crate::shell::{Full, Inbox, Pool};
use crate::statistics::Statistics;

/// A read of a damaged record waits for so long until a peer's copy is here.
pub const MENDING_PATIENCE: Duration = Duration::from_secs(5);
/// What became of so many damaged records is kept for those who wait for one.
pub(crate) const MENDED_KEPT: usize = 512;

/// Who this member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub incarnation: Incarnation,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelReply {
    Keys(keys::Reply),
    Tree(tree::Reply),
    Members(Vec<Member>),
}

impl From<quorate_models::Reply> for ModelReply {
    fn from(reply: quorate_models::Reply) -> Self {
        match reply {
            quorate_models::Reply::Keys(reply) => Self::Keys(reply),
            quorate_models::Reply::Tree(reply) => Self::Tree(reply),
        }
    }
}

/// A command's place in the log and its answer.
#[derive(Clone, Debug)]
pub struct Applied {
    pub index: LogIndex,
    pub term: Term,
    pub reply: ModelReply,
    /// Keeps the bodies that the reply names; drop it once they are loaded.
    pub pin: Arc<Pin>,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nothing happened: no leader is known.
    #[error("no leader is known; the cluster may have lost its majority, or is electing")]
    NoLeader,
    /// Outcome unknown: the leader changed while the request was on its way.
    #[error("the leader changed while the request was on its way; its outcome is unknown")]
    LeaderChanged,
    /// Outcome unknown.
    #[error("the request timed out; its outcome is unknown")]
    TimedOut,
    /// Nothing happened: a queue is full.
    #[error("too many requests are in flight")]
    Overloaded,
    /// Nothing happened.
    #[error("the request has {bytes} bytes; at most {bytes_max} are allowed")]
    TooLarge { bytes: usize, bytes_max: usize },
    /// Nothing happened: the disk of this member or of the leader is full.
    #[error(
        "no space is left on the disk; deletes and compaction still work, and writes will once space is back"
    )]
    NoSpace,
    /// Nothing happened: the command is of a kind that not every member knows.
    #[error(
        "some members run an older version of Quorate, which does not know this kind of command: upgrade or remove them \
         first; nothing was done"
    )]
    TooNew,
    /// Nothing happened: a member that was just started again answers only for the cluster, not yet for itself.
    #[error("this member applies its log again after a start, and does not know yet how far it once was")]
    Replaying,
    /// The member is stopping or has failed; the reason says why.
    #[error("this member does not serve: {reason}")]
    Stopped { reason: String },
    /// Nothing happened: this member gives up the cluster that it founded alone, to join another. Ask again.
    #[error("this member is joining another cluster")]
    Moving,
    /// Nothing happened: the command was refused before it entered the log.
    #[error("{reason}")]
    Refused { reason: MembershipRefusal },
}

/// Why a membership change was refused. Texts for people; faces map the variants to their protocol's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipRefusal {
    #[error("no such member")]
    NotFound,
    #[error("the member exists already")]
    IdExists,
    #[error("a member with one of these peer URLs exists already")]
    PeerUrlExists,
    #[error("a member with this name exists already")]
    NameExists,
    #[error("only a learner can be promoted")]
    NotLearner,
    #[error("the learner has not caught up with the leader yet")]
    LearnerNotReady,
    #[error("the cluster has as many learners as it may have")]
    TooManyLearners,
    #[error("too few started members would be left for a majority")]
    NotEnoughStarted,
    #[error("the cluster's majority does not answer")]
    Unhealthy,
    #[error("this member is not the leader")]
    NotLeader,
    #[error("leadership can't be moved to this member")]
    BadTransferee,
    #[error("another membership change is in progress")]
    InProgress,
    #[error("the last voter can't be removed")]
    LastVoter,
    #[error("the member that has this name still answers: stop or remove it first, or take another name")]
    NameAnswers,
    #[error("this newcomer has joined already")]
    AlreadyJoined,
    #[error("as many newcomers as may are joining at this moment")]
    TooManyJoining,
    #[error("only a voter can be demoted")]
    NotVoter,
    #[error("the member still answers")]
    StillAnswers,
    #[error("the leader can't be demoted: hand leadership on first")]
    Leads,
}

impl MembershipRefusal {
    const ALL: [Self; 19] = [
        Self::NotFound,
        Self::IdExists,
        Self::PeerUrlExists,
        Self::NameExists,
        Self::NotLearner,
        Self::LearnerNotReady,
        Self::TooManyLearners,
        Self::NotEnoughStarted,
        Self::Unhealthy,
        Self::NotLeader,
        Self::BadTransferee,
        Self::InProgress,
        Self::LastVoter,
        Self::NameAnswers,
        Self::AlreadyJoined,
        Self::TooManyJoining,
        Self::NotVoter,
        Self::StillAnswers,
        Self::Leads,
    ];

    /// The byte that stands for this refusal between peers.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// A moment's view of the member, for status calls, metrics and health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub leader: Option<MemberId>,
    pub is_leader: bool,
    pub is_learner: bool,
    pub term: Term,
    pub committed: LogIndex,
    pub applied: LogIndex,
    pub last_index: LogIndex,
    /// Set when the member no longer serves: why.
    pub failed: Option<String>,
    /// True while this member's disk is full, or has no room for a snapshot that it needs.
    pub no_space: bool,
    /// Whether reads that ask nobody else may be answered: see [`Handle::replayed`].
    pub replayed: bool,
}

/// What readers may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visible {
    pub index: LogIndex,
    pub revision: Revision,
    pub term: Term,
}

pub(crate) type Answer = oneshot::Sender<Result<Applied, RequestError>>;
pub(crate) type ReadAnswer = oneshot::Sender<Result<LogIndex, RequestError>>;

/// Requests that wait for their outcome, by sequence number.
#[derive(Default)]
pub(crate) struct Waiting {
    pub proposals: HashMap<u64, Answer>,
    pub reads: HashMap<u64, ReadAnswer>,
    pub leases: HashMap<u64, oneshot::Sender<Result<LeaseAnswer, RequestError>>>,
    pub logs: HashMap<u64, oneshot::Sender<Result<LogView, RequestError>>>,
    pub statistics: HashMap<u64, oneshot::Sender<Result<Statistics, RequestError>>>,
}

pub(crate) struct Shared {
    pub identity: Identity,
    pub store: Store,
    pub feeds: Feeds,
    pub metrics: Arc<Metrics>,
    pub inbox: Arc<Inbox<LogInput>>,
    pub pool: Pool,
    pub transfer: Arc<Inbox<TransferInput>>,
    pub sequence: AtomicU64,
    pub waiting: Mutex<Waiting>,
    pub status: RwLock<Status>,
    pub members: RwLock<Arc<Vec<Member>>>,
    /// The same, with those that were removed.
    pub member_list: RwLock<Arc<MemberList>>,
    pub visible: watch::Sender<Visible>,
    /// Whether everything that an earlier run may have shown is visible again.
    pub replayed: watch::Sender<bool>,
    /// Tells what became of damaged records.
    pub mended: broadcast::Sender<(Location, Mended)>,
    pub request_timeout: Duration,
    pub request_bytes_max: usize,
    pub election_timeout: Duration,
    /// Dials peers that have TLS.
    pub connector: Option<Arc<Connector>>,
    /// Admissions that this member has in hand for newcomers.
    pub hosting: AtomicUsize,
}

impl Shared {
    /// Makes `members` the list that faces see.
    pub fn list(&self, members: &MemberList) {
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(members.to_vec());
        *self.member_list.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(members.clone());
    }

    /// Tells all that wait for an outcome that the member stopped; nothing will come for them any more.
    pub fn give_up_waiting(&self, reason: &str) {
        fn tell<T>(waiting: HashMap<u64, oneshot::Sender<Result<T, RequestError>>>, reason: &str) {
            for answer in waiting.into_values() {
                let _ = answer.send(Err(RequestError::Stopped { reason: reason.to_owned() }));
            }
        }
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let Waiting { proposals, reads, leases, logs, statistics } = waiting;
        tell(proposals, reason);
        tell(reads, reason);
        tell(leases, reason);
        tell(logs, reason);
        tell(statistics, reason);
    }
}

/// A running member, as faces see it.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// The tables, for reads. Pin a revision (see [`Self::visible`]) and hold the lock briefly.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The shared history of recent changes of the keys model, for watchers.
    #[must_use]
    pub fn feed(&self) -> &Arc<keys::watch::Feed> {
        &self.shared.feeds.keys
    }

    /// The shared history of recent changes of the tree model, for watchers.
    #[must_use]
    pub fn tree_feed(&self) -> &Arc<tree::Feed> {
        &self.shared.feeds.tree
    }

    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// What is visible now, and a way to wait for more.
    #[must_use]
    pub fn visible(&self) -> watch::Receiver<Visible> {
        self.shared.visible.subscribe()
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.shared.status.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        // The log loop hears of it at leisure; whoever was answered already may expect to find it here.
        status.applied = status.applied.max(self.shared.visible.borrow().index);
        status.committed = status.committed.max(status.applied);
        status
    }

    #[must_use]
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.shared.members.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// True for a member that once was in the list and is not any more, as far as this member knows.
    #[must_use]
    pub fn was_removed(&self, id: MemberId) -> bool {
        let list = self.shared.member_list.read().unwrap_or_else(PoisonError::into_inner);
        list.was_removed(id)
    }

    /// Puts a command into the log and waits until this member has applied it. Any member takes it; a follower passes
    /// it to the leader. `command` is in the model's own encoding.
    pub async fn propose(&self, model: ModelId, command: Bytes) -> Result<Applied, RequestError> {
        if command.len() > self.shared.request_bytes_max {
            return Err(RequestError::TooLarge {
                bytes: command.len(),
                bytes_max: self.shared.request_bytes_max,
            });
        }
        self.request(|seq| LogInput::Propose { seq, model, command }).await
    }

    /// For the time in which a stop waits for requests that are under way.
    #[must_use]
    pub fn last_requests(&self) -> LastRequests {
        LastRequests::new(self.clone())
    }

    /// Proposes a membership change and waits until this member has applied it.
    pub async fn change_membership(&self, request: MembershipRequest) -> Result<Vec<Member>, RequestError> {
        let applied = self.request(|seq| LogInput::ChangeMembership { seq, request }).await?;
        match applied.reply {
            ModelReply::Members(members) => Ok(members),
            ModelReply::Keys(_) | ModelReply::Tree(_) => {
                unreachable!("a membership entry answers with members")
            }
        }
    }

    /// Makes this member known under its name and client URLs, if the list says otherwise. Call it once it is ready.
    pub async fn publish(&self, name: &str, client_urls: &[String]) -> Result<(), RequestError> {
        let id = self.identity().member;
        let is_known = |member: &Member| {
            member.id == id && member.name == name && member.client_urls == client_urls && !member.is_joining
        };
        if self.members().iter().any(is_known) {
            return Ok(());
        }
        let request =
            MembershipRequest::Publish { id, name: name.to_owned(), client_urls: client_urls.to_vec() };
        self.change_membership(request).await.map(|_| ())
    }

    async fn request(&self, input: impl FnOnce(u64) -> LogInput) -> Result<Applied, RequestError> {
        self.ask(|waiting| &mut waiting.proposals, input, self.shared.request_timeout).await
    }

    /// Sends an input under a new sequence number and waits for the answer to it.
    async fn ask<T>(
        &self,
        queue: Queue<oneshot::Sender<Result<T, RequestError>>>,
        input: impl FnOnce(u64) -> LogInput,
        patience: Duration,
    ) -> Result<T, RequestError> {
        let seq = self.shared.sequence.fetch_add(1, Ordering::Relaxed);
        let (answer, outcome) = oneshot::channel();
        let waiting = || self.shared.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        queue(&mut waiting()).insert(seq, answer);
        let forget = Forget { shared: &self.shared, seq, queue };
        self.shared.inbox.push(input(seq)).map_err(|Full| RequestError::Overloaded)?;
        let outcome = tokio::time::timeout(patience, outcome).await;
        drop(forget);
        match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(RequestError::Stopped { reason: "the member stopped".to_owned() }),
            Err(_) => Err(RequestError::TimedOut),
        }
    }

    /// Waits until everything that was acknowledged anywhere before this call is visible here; returns that index.
    /// One quorum round is in flight at a time; all calls that come meanwhile share the next.
    pub async fn read_index(&self) -> Result<LogIndex, RequestError> {
        self.ask(|waiting| &mut waiting.reads, |seq| LogInput::Read { seq }, self.shared.request_timeout)
            .await
    }

    /// To be waited for before something is read that no [`Self::read_index`] was asked for. A member that was started
    /// again has less to show, for a moment, than it had before: until it has applied its log again as far as it may have
    /// been, or has heard of no leader for ten election timeouts. Waits for a request's time at most.
    pub async fn replayed(&self) -> Result<(), RequestError> {
        if *self.shared.replayed.borrow() {
            return Ok(());
        }
        let ended = tokio::time::timeout(self.shared.request_timeout, self.replay_ends()).await;
        ended.map_err(|_| RequestError::Replaying)
    }

    /// The same for who may wait for as long as it takes.
    pub async fn replay_ends(&self) {
        // The sender lives as long as this handle.
        let _ = self.shared.replayed.subscribe().wait_for(|replayed| *replayed).await;
    }

    /// Asks the leader about a lease and, with `renew`, keeps it alive. Any member takes it; asking twice does no harm,
    /// so a question that got lost on its way is asked again until the request times out.
    pub async fn lease(&self, lease: i64, renew: bool) -> Result<LeaseAnswer, RequestError> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let deadline = tokio::time::Instant::now() + self.shared.request_timeout;
        loop {
            let input = |seq| LogInput::AskLease { seq, lease, renew };
            match self.ask(|waiting| &mut waiting.leases, input, PATIENCE).await {
                Err(RequestError::TimedOut) if tokio::time::Instant::now() < deadline => {}
                outcome => return outcome,
            }
        }
    }

    /// Hands leadership to `to`; returns once `to` leads. Any member takes it, a follower asks its leader; where the
    /// leader changes meanwhile, the next one is asked.
    pub async fn transfer_leadership(&self, to: MemberId) -> Result<(), RequestError> {
        let known = self.members().iter().any(|member| member.id == to && !member.is_learner);
        if !known {
            return Err(RequestError::Refused { reason: MembershipRefusal::BadTransferee });
        }
        let deadline = tokio::time::Instant::now() + self.shared.request_timeout;
        let mut ask_at = tokio::time::Instant::now();
        loop {
            let Status { leader, failed, .. } = self.status();
            let now = tokio::time::Instant::now();
            match failed {
                Some(reason) => return Err(RequestError::Stopped { reason }),
                None if leader == Some(to) => return Ok(()),
                None if now > deadline => return Err(RequestError::TimedOut),
                // A leader gives a transfer up after an election timeout; asking again then is harmless.
                None if leader.is_some() && now >= ask_at => {
                    let wanted = LogInput::TransferLeadership { to };
                    self.shared.inbox.push(wanted).map_err(|Full| RequestError::Overloaded)?;
                    ask_at = now + 2 * self.shared.election_timeout;
                }
                None => {}
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What stands in this member's log from `from` on: at most `entries_max` entries, of about a megabyte.
    pub async fn log_view(&self, from: LogIndex, entries_max: usize) -> Result<LogView, RequestError> {
        let input = |seq| LogInput::ReadLog { seq, from, entries_max };
        self.ask(|waiting| &mut waiting.logs, input, self.shared.request_timeout).await
    }

    /// What this member has counted of its appends since its start.
    pub async fn statistics(&self) -> Result<Statistics, RequestError> {
        let input = |seq| LogInput::Statistics { seq };
        self.ask(|waiting| &mut waiting.statistics, input, self.shared.request_timeout).await
    }

    /// Asks for a checkpoint of what is applied now, and waits until one is durable; returns the index it is at.
    pub async fn checkpoint(&self) -> Result<LogIndex, RequestError> {
        let wanted = self.shared.visible.borrow().index;
        let deadline = tokio::time::Instant::now() + self.shared.request_timeout;
        while self.shared.store.durable_index() < wanted {
            if let Some(reason) = self.status().failed {
                return Err(RequestError::Stopped { reason });
            }
            if tokio::time::Instant::now() > deadline {
                return Err(RequestError::TimedOut);
            }
            // Asked again: a checkpoint that was under way already may hold less.
            self.shared.inbox.push(LogInput::Checkpoint).map_err(|Full| RequestError::Overloaded)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(self.shared.store.durable_index())
    }

    /// Runs `work` on a thread that may wait for the disk. `None`: the member is stopping.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Option<T> {
        let store = self.shared.store.clone();
        let (answer, outcome) = oneshot::channel();
        self.shared.pool.run(move || {
            let _ = answer.send(work(&store));
        });
        outcome.await.ok()
    }

    /// Reads a body, from memory where it is there, else on a thread that may wait for the disk. A damaged one is asked
    /// for at the other members; where that takes longer than [`MENDING_PATIENCE`], or none has it, it is an error.
    pub async fn load(&self, at: Location) -> Result<Bytes, BodyError> {
        let deadline = tokio::time::Instant::now() + MENDING_PATIENCE;
        let loaded = self.load_once(at).await;
        if matches!(loaded, Err(BodyError::Corrupt { .. })) && self.mended(at, deadline).await {
            return self.load_once(at).await;
        }
        loaded
    }

    async fn load_once(&self, at: Location) -> Result<Bytes, BodyError> {
        match self.shared.store.try_load(at) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => {
                let loaded = self.blocking(move |store| store.load(at)).await;
                loaded.unwrap_or(Err(BodyError::Gone { segment: at.segment }))
            }
            Err(error) => Err(error),
        }
    }

    /// Has the record at `at` mended; true once it was.
    async fn mended(&self, at: Location, deadline: tokio::time::Instant) -> bool {
        const BUSY_PAUSE: Duration = Duration::from_millis(200);
        let mut ended = self.shared.mended.subscribe();
        self.shared.transfer.report(TransferInput::Mend(at));
        loop {
            match tokio::time::timeout_at(deadline, ended.recv()).await {
                Ok(Ok((place, outcome))) if place == at => match outcome {
                    Mended::Done => return true,
                    Mended::Lost => return false,
                    Mended::Busy => {
                        tokio::time::sleep(BUSY_PAUSE).await;
                        self.shared.transfer.report(TransferInput::Mend(at));
                    }
                },
                Ok(Ok(_)) => {}
                // Too many at once to tell: a look at the record does.
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => return true,
                Ok(Err(broadcast::error::RecvError::Closed)) | Err(_) => return false,
            }
        }
    }
}

/// One of the maps of [`Waiting`].
type Queue<T> = fn(&mut Waiting) -> &mut HashMap<u64, T>;

/// Forgets a request whose caller went away or gave up, so that nothing piles up.
struct Forget<'a, T> {
    shared: &'a Shared,
    seq: u64,
    queue: Queue<T>,
}

impl<T> Drop for Forget<'_, T> {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (self.queue)(&mut waiting).remove(&self.seq);
    }
}
