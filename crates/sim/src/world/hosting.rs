//! Admissions in hand, and the questions and answers that they take, over the simulated network.
//!
//! Invariants: what belongs to an earlier run of a member reaches nobody; each question is answered once, with a reply or
//! with why there is none, as a connection that breaks would.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_disk::Disk;
use quorate_ids::{Incarnation, MemberId, Monotonic};
use quorate_member::RequestError;
use quorate_member::core::{LogInput, move_to, reply_to_offer};
use quorate_member::frame::Lane;
use quorate_member::joining::{
    Admission, Asking, AskingWants, Came, JoinError, Newcomer, Offer, Patience, Question, Reply, View, Wanted,
};

use super::clients::Delivery;
use super::founding::url;
use super::member::Input;
use super::{Event, MILLI, SECOND, World};
use crate::disk::{CrashKind, DiskFaults};
use crate::network::Fate;
use crate::oracle::{Checked, ensure};
use crate::rng::Ppm;

/// Hosts among those who ask.
pub(super) const HOST: usize = usize::MAX - 2;
/// Numbers of these questions, apart from those about who the members are.
const ASKS: u64 = 1 << 63;
const ANSWER_NANOS_MAX: u64 = 20 * SECOND;
const QUESTION_BYTES: usize = 400;

/// For whom an admission is.
enum For {
    Operator,
    /// For whoever asked this question.
    Ask(u64),
}

struct Hosted {
    host: usize,
    epoch: u64,
    admission: Admission,
    /// The machine of the newcomer, where it is told.
    newcomer: Option<usize>,
    asked_for: For,
}

/// Who asks a question.
#[derive(Clone, Copy)]
enum Asker {
    Admission(u64),
    Newcomer {
        machine: usize,
        epoch: u64,
    },
    /// The leader invites a member once more.
    Invite {
        machine: usize,
        epoch: u64,
        member: MemberId,
    },
}

struct Ask {
    asker: Asker,
    from: usize,
    to: usize,
    question: Question,
    /// The run of the member that has it.
    taken_in: Option<u64>,
}

/// See the module.
#[derive(Default)]
pub struct Hosting {
    admissions: BTreeMap<u64, Hosted>,
    asks: BTreeMap<u64, Ask>,
    /// Requests of admissions under way: whose, and whether it is to be confirmed only.
    requests: BTreeMap<u64, (u64, bool)>,
    next: u64,
}

impl Hosting {
    pub fn is_idle(&self) -> bool {
        self.admissions.is_empty() && self.asks.is_empty()
    }

    pub fn describe(&self) -> String {
        format!("{} admissions, {} questions", self.admissions.len(), self.asks.len())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl World {
    fn hosting(&mut self) -> &mut Hosting {
        &mut self.newcomers.as_mut().expect("a world with newcomers").hosting
    }

    fn hosts(&mut self, machine: usize) -> bool {
        let epoch = self.machines[machine].epoch;
        self.hosting().admissions.values().any(|hosted| (hosted.host, hosted.epoch) == (machine, epoch))
    }

    /// Whether somebody is admitting the member of this machine.
    pub(super) fn is_on_its_way(&mut self, machine: usize) -> bool {
        self.hosting().admissions.values().any(|hosted| hosted.newcomer == Some(machine))
    }

    fn patience(&self) -> Patience {
        let election_timeout_nanos = self.settings.tick_nanos * self.settings.election_ticks as u64;
        Patience { request_timeout_nanos: 3 * SECOND + 2 * election_timeout_nanos, election_timeout_nanos }
    }

    pub(super) fn absorb(&mut self, host: usize, called: &str, machine: usize, wants_vote: bool) -> Checked {
        let now = self.machines[host].now(self.events.now());
        let patience = self.patience();
        let (admission, wanted) = Admission::absorbing(called, &url(machine), wants_vote, patience, now);
        self.begin_admission(host, admission, Some(machine), For::Operator, wanted)
    }

    fn begin_admission(
        &mut self,
        host: usize,
        admission: Admission,
        newcomer: Option<usize>,
        asked_for: For,
        wanted: Wanted,
    ) -> Checked {
        let epoch = self.machines[host].epoch;
        let id = self.hosting().number();
        let hosted = Hosted { host, epoch, admission, newcomer, asked_for };
        self.hosting().admissions.insert(id, hosted);
        self.admission_wants(id, wanted)
    }

    fn admission_wants(&mut self, id: u64, wanted: Wanted) -> Checked {
        let Some(hosted) = self.hosting().admissions.get(&id) else { return Ok(()) };
        let (host, epoch) = (hosted.host, hosted.epoch);
        match wanted {
            Wanted::Confirm => self.request(host, id, true, |seq| LogInput::Read { seq }),
            Wanted::Change(request) => {
                self.note_newcomer(&request);
                self.request(host, id, false, |seq| LogInput::ChangeMembership { seq, request })
            }
            Wanted::Ask { url, question } => {
                if matches!(question, Question::Absorb(_)) {
                    self.crash_near(host);
                }
                self.put_question(Asker::Admission(id), host, &url, question);
                Ok(())
            }
            Wanted::Pause { nanos } => {
                self.events.after(nanos, Event::Paused { admission: id, epoch });
                Ok(())
            }
            Wanted::Done(outcome) => {
                let hosted = self.hosting().admissions.remove(&id).expect("it was there");
                self.trace(|| format!("m{host} admission {id}: {outcome:?}"));
                self.count(match &outcome {
                    Ok(_) => "joins: admitted",
                    Err(JoinError::Refused(_)) => "joins: refused",
                    Err(_) => "joins: cut short",
                });
                if let For::Ask(ask) = hosted.asked_for {
                    self.send_reply(ask, outcome.into());
                }
                Ok(())
            }
        }
    }

    fn request(
        &mut self,
        host: usize,
        id: u64,
        confirms: bool,
        input: impl FnOnce(u64) -> LogInput,
    ) -> Checked {
        let epoch = self.machines[host].epoch;
        let alive = self.hosting().admissions.get(&id).is_some_and(|hosted| hosted.epoch == epoch);
        if !alive || self.machines[host].running.is_none() {
            return Ok(());
        }
        let (seq, _) = self.next_seq(host);
        let operation = self.hosting().number();
        self.hosting().requests.insert(operation, (id, confirms));
        self.asked.insert((host, epoch, seq), (HOST, operation));
        let timeout = self.patience().request_timeout_nanos;
        self.events.after(timeout, Event::Heard { client: HOST, operation, delivery: Delivery::TimedOut });
        self.push(host, Input::Log(input(seq)))
    }

    /// An admission hears what came of its request.
    pub(super) fn admission_heard(&mut self, operation: u64, delivery: Delivery) -> Checked {
        let Some((id, confirms)) = self.hosting().requests.remove(&operation) else { return Ok(()) };
        self.asked.retain(|_, asked| *asked != (HOST, operation));
        let failed = |error| if confirms { Came::Confirmed(Err(error)) } else { Came::Changed(Err(error)) };
        let came = match delivery {
            Delivery::Answer(_) => Came::Changed(Ok(())),
            Delivery::ReadFrom { .. } => Came::Confirmed(Ok(())),
            Delivery::Refused(error) => failed(error),
            Delivery::TimedOut => failed(RequestError::TimedOut),
            Delivery::Gone => {
                self.end_admission(id);
                return Ok(());
            }
            Delivery::Lease(_) => return Ok(()),
        };
        self.admission_came(id, came)
    }

    pub(super) fn admission_paused(&mut self, id: u64, epoch: u64) -> Checked {
        let there = self.hosting().admissions.get(&id).is_some_and(|hosted| hosted.epoch == epoch);
        if there { self.admission_came(id, Came::Paused) } else { Ok(()) }
    }

    fn admission_came(&mut self, id: u64, came: Came) -> Checked {
        let now = self.events.now();
        let Some(newcomers) = &mut self.newcomers else { return Ok(()) };
        let Some(hosted) = newcomers.hosting.admissions.get_mut(&id) else { return Ok(()) };
        let machine = &self.machines[hosted.host];
        let running = machine.running.as_ref().filter(|_| machine.epoch == hosted.epoch);
        let Some(running) = running else {
            self.end_admission(id);
            return Ok(());
        };
        let members = running.members.to_vec();
        let view = View { me: machine.identity, members: &members, now: machine.now(now) };
        let wanted = hosted.admission.came(came, view);
        self.admission_wants(id, wanted)
    }

    /// The host died: whoever waits for it sees the connection break.
    fn end_admission(&mut self, id: u64) {
        let Some(hosted) = self.hosting().admissions.remove(&id) else { return };
        if let For::Ask(ask) = hosted.asked_for {
            self.events.after(MILLI, Event::NoReply { ask });
        }
    }

    /// A machine's run ended: what it had in hand is gone.
    pub(super) fn hosting_ended(&mut self, machine: usize) {
        if self.newcomers.is_none() {
            return;
        }
        let mine = |hosted: &Hosted| hosted.host == machine;
        let ended: Vec<u64> =
            self.hosting().admissions.iter().filter(|(_, hosted)| mine(hosted)).map(|(id, _)| *id).collect();
        for id in ended {
            self.end_admission(id);
        }
        let taken: Vec<u64> = self
            .hosting()
            .asks
            .iter()
            .filter(|(_, ask)| ask.to == machine && ask.taken_in.is_some())
            .map(|(id, _)| *id)
            .collect();
        for ask in taken {
            self.events.after(MILLI, Event::NoReply { ask });
        }
        self.machines[machine].asking = None;
    }

    /// Crashes come where they hurt most: when a founding is given up, and when it is being offered a place.
    fn crash_near(&mut self, member: usize) {
        let newcomers = self.newcomers.as_mut().expect("a world with newcomers");
        let rng = &mut newcomers.rng;
        if !self.storm || !self.plan.crashes || !rng.one_in(5) {
            return;
        }
        let kind = if self.plan.power_loss && rng.one_in(2) { CrashKind::Power } else { CrashKind::Process };
        let (wait, down_nanos) = (rng.below(15 * MILLI), rng.between(1, 4_000) * MILLI);
        let epoch = self.machines[member].epoch;
        self.events.after(wait, Event::Crash { member, epoch, kind, down_nanos });
    }

    // ---- questions ----

    fn put_question(&mut self, asker: Asker, from: usize, url: &str, question: Question) {
        let now = self.events.now();
        let Some(to) = self.machine_at(url) else { return };
        let id = ASKS | self.hosting().number();
        self.hosting().asks.insert(id, Ask { asker, from, to, question, taken_in: None });
        self.count("question: about joining");
        self.events.after(ANSWER_NANOS_MAX, Event::NoReply { ask: id });
        match self.network.send(now, from, to, Lane::Bulk as u8, false, QUESTION_BYTES) {
            Fate::Arrives { at, .. } => self.events.at(at, Event::Put { ask: id }),
            Fate::Broken { .. } | Fate::Corrupt { .. } | Fate::Lost => {
                self.events.after(50 * MILLI, Event::NoReply { ask: id })
            }
        }
    }

    /// A question arrives.
    pub(super) fn question_put(&mut self, ask: u64) -> Checked {
        let now = self.events.now();
        let Some(newcomers) = &mut self.newcomers else { return Ok(()) };
        let Some(asked) = newcomers.hosting.asks.get_mut(&ask) else { return Ok(()) };
        let to = asked.to;
        let machine = &self.machines[to];
        if machine.serving(now).is_none() || machine.paused_until > now {
            self.events.after(MILLI, Event::NoReply { ask });
            return Ok(());
        }
        asked.taken_in = Some(machine.epoch);
        match asked.question.clone() {
            Question::Admit(newcomer) => {
                let members = machine.running.as_ref().expect("it serves").members.to_vec();
                let view = View { me: machine.identity, members: &members, now: machine.now(now) };
                let patience = self.patience();
                let (admission, wanted) = Admission::of(&newcomer, patience, view);
                self.begin_admission(to, admission, None, For::Ask(ask), wanted)
            }
            question => {
                let hosts = self.hosts(to);
                if matches!(question, Question::Absorb(_)) {
                    self.crash_near(to);
                }
                self.push(to, Input::Log(LogInput::JoinQuestion { ask, question, hosts }))
            }
        }
    }

    /// The one that was asked answers.
    pub(super) fn send_reply(&mut self, ask: u64, reply: Reply) {
        let now = self.events.now();
        let Some(asked) = self.hosting().asks.get(&ask) else { return };
        let (from, to) = (asked.to, asked.from);
        match self.network.send(now, from, to, Lane::Bulk as u8, false, QUESTION_BYTES) {
            Fate::Arrives { at, .. } => self.events.at(at, Event::Reply { ask, reply }),
            Fate::Broken { .. } | Fate::Corrupt { .. } | Fate::Lost => {
                self.events.after(50 * MILLI, Event::NoReply { ask })
            }
        }
    }

    pub(super) fn is_about_joining(ask: u64) -> bool {
        ask & ASKS != 0
    }

    pub(super) fn reply_came(&mut self, ask: u64, answer: Result<Reply, String>) -> Checked {
        let now = self.events.now();
        let Some(Ask { asker, .. }) = self.hosting().asks.remove(&ask) else { return Ok(()) };
        match asker {
            Asker::Admission(id) => self.admission_came(id, Came::Answered(answer)),
            Asker::Newcomer { machine, epoch } => {
                let here = &mut self.machines[machine];
                let at = Monotonic(here.clock.monotonic(now));
                let Some(asking) = here.asking.as_mut().filter(|_| here.epoch == epoch) else {
                    return Ok(());
                };
                let wants = asking.answered(answer, at);
                self.asking_wants(machine, wants)
            }
            Asker::Invite { machine, epoch, member } => {
                let refused = matches!(answer, Ok(Reply::Refused(_)));
                if refused && self.machines[machine].epoch == epoch {
                    return self.push(machine, Input::Log(LogInput::InvitationRefused { member }));
                }
                Ok(())
            }
        }
    }

    pub(super) fn invite(&mut self, from: usize, urls: &[String], offer: Offer) {
        let epoch = self.machines[from].epoch;
        self.count("joins: invited once more");
        let asker = Asker::Invite { machine: from, epoch, member: offer.member };
        if let Some(url) = urls.first() {
            self.put_question(asker, from, url, Question::Absorb(offer));
        }
    }

    // ---- giving a founding up ----

    pub(super) fn give_up(&mut self, member: usize, at: u64, ask: u64, offer: Offer) -> Checked {
        let cluster = self.machines[member].identity.cluster;
        let oracle = self.oracle_at(member);
        ensure!(
            !oracle.holds_anything() && oracle.members.ever() == 1,
            "m{member} gives up its cluster {cluster}, which holds commands or had other members"
        );
        self.trace(|| format!("m{member} gives up its cluster for {offer:?}"));
        self.crash_near(member);
        if self.storm && self.plan.disk_errors && self.newcomers_draw(2) == 0 {
            let often = Ppm(300_000);
            let faults = DiskFaults {
                write_error: often,
                sync_error: often,
                error_budget: 1,
                ..DiskFaults::default()
            };
            self.machines[member].errors = true;
            self.machines[member].disk.set_faults(faults);
            self.events.after(100 * MILLI, Event::HealDisk { member });
        }
        let machine = &mut self.machines[member];
        machine.disk.begin(at);
        let moved = move_to(&machine.disk.clone(), &offer);
        let (durable_at, epoch) = (machine.disk.busy_until(), machine.epoch);
        let reply = reply_to_offer(&moved);
        self.events.at(durable_at, Event::Moved { member, epoch, ask, offer, reply });
        Ok(())
    }

    /// The record of a move is durable, or can't be written.
    pub(super) fn moved(
        &mut self,
        member: usize,
        epoch: u64,
        ask: u64,
        offer: Offer,
        reply: Reply,
    ) -> Checked {
        if self.machines[member].epoch != epoch {
            return Ok(());
        }
        match reply {
            Reply::Absorbed => {
                self.count("joins: a founding given up");
                self.machines[member].moved = Some(offer);
                self.send_reply(ask, Reply::Absorbed);
                self.hosting().asks.entry(ask).and_modify(|asked| asked.taken_in = None);
                let again = self.newcomers_draw(20) * MILLI;
                self.crash(member, CrashKind::Process, again);
                Ok(())
            }
            reply => {
                self.count("joins: a move that can't be noted");
                if matches!(reply, Reply::Refused(_)) {
                    self.machines[member].refused = Some(offer.member);
                }
                self.send_reply(ask, reply);
                let reason = "moving to another cluster could not be noted".to_owned();
                self.push(member, Input::Log(LogInput::Failed { reason }))
            }
        }
    }

    fn newcomers_draw(&mut self, below: u64) -> u64 {
        self.newcomers.as_mut().expect("a world with newcomers").rng.below(below)
    }

    // ---- asking to be admitted ----

    pub(super) fn begin_asking(&mut self, machine: usize) {
        let now = self.events.now();
        let name = self.called(machine);
        let newcomers = self.newcomers.as_mut().expect("a world with newcomers");
        let rng = &mut newcomers.rng;
        let newcomer = Newcomer {
            name,
            incarnation: Incarnation(rng.draw().max(1)),
            peer_urls: vec![url(machine)],
            client_urls: Vec::new(),
            wants_vote: false,
        };
        // Some of the peers that its settings name may not run.
        let first = rng.below(self.plan.members as u64) as usize;
        let peers: Vec<String> =
            (0..self.plan.members).map(|at| url((first + at) % self.plan.members)).collect();
        let until = Monotonic(self.machines[machine].clock.monotonic(now)).plus(5 * SECOND);
        let (asking, wants) = Asking::begin(newcomer, &peers, until);
        self.machines[machine].asking = Some(asking);
        self.trace(|| format!("m{machine} asks to be admitted"));
        self.count("joins: a machine asks to be admitted");
        let AskingWants::Ask { url, question } = wants else { return };
        let epoch = self.machines[machine].epoch;
        self.put_question(Asker::Newcomer { machine, epoch }, machine, &url, question);
    }

    fn asking_wants(&mut self, machine: usize, wants: AskingWants) -> Checked {
        let epoch = self.machines[machine].epoch;
        match wants {
            AskingWants::Ask { url, question } => {
                self.put_question(Asker::Newcomer { machine, epoch }, machine, &url, question);
            }
            AskingWants::Pause { nanos } => {
                self.events.after(nanos, Event::AskAgain { machine, epoch });
            }
            AskingWants::Done(Ok(offer)) => {
                let now = self.events.now();
                let here = &mut self.machines[machine];
                here.asking = None;
                here.disk.begin(now);
                let disk: Arc<dyn Disk> = Arc::new(here.disk.clone());
                let noted = move_to(disk.as_ref(), &offer);
                let durable_at = here.disk.busy_until();
                self.trace(|| format!("m{machine} was admitted as {}: {noted:?}", offer.member));
                self.crash_near(machine);
                self.events.at(durable_at, Event::Restart { member: machine });
            }
            AskingWants::Done(Err(refusal)) => {
                self.machines[machine].asking = None;
                self.trace(|| format!("m{machine} was not admitted: {refusal:?}"));
                self.count("joins: not admitted, and started again");
                let wait = self.newcomers_draw(2_000) * MILLI;
                self.restart_after(machine, wait);
            }
        }
        Ok(())
    }

    pub(super) fn ask_again(&mut self, machine: usize, epoch: u64) -> Checked {
        let here = &mut self.machines[machine];
        let Some(asking) = here.asking.as_mut().filter(|_| here.epoch == epoch) else { return Ok(()) };
        let wants = asking.paused();
        self.asking_wants(machine, wants)
    }
}
