//! What people see of a node on its console: the lines that balsa's users know, with their fields in their order.
//!
//! Raft's own lines are made from the member's events, so that each tells of something that happened. Texts of others
//! (names, keys) are quoted where they could pass for something else; no line has a second one in it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quorate_member::event::{ConfigurationChange, Peer};
use quorate_member::{Event, Events};

/// Where lines go.
pub trait Sink: Send + Sync + 'static {
    /// What a program prints.
    fn out(&self, line: &str);
    /// What it logs.
    fn log(&self, line: &str);
}

/// Nobody looks.
pub struct Quiet;

impl Sink for Quiet {
    fn out(&self, _: &str) {}
    fn log(&self, _: &str) {}
}

/// One node's console.
pub struct Console {
    sink: Arc<dyn Sink>,
    /// Where this node listens for the others, as its lines name it.
    address: String,
    started: Instant,
}

impl Console {
    #[must_use]
    pub fn new(sink: Arc<dyn Sink>, address: String) -> Self {
        Self { sink, address, started: Instant::now() }
    }

    /// A line as it is.
    pub fn say(&self, text: &str) {
        self.sink.out(&one_line(text));
    }

    /// A line with date and time.
    pub fn log(&self, text: &str) {
        let Civil { year, month, day, hour, minute, second, .. } = Civil::now();
        let text = one_line(text);
        self.sink.log(&format!("{year:04}/{month:02}/{day:02} {hour:02}:{minute:02}:{second:02} {text}"));
    }

    /// A line with the seconds since the start, and where in the program it comes from.
    pub fn info(&self, text: &str, source: &str) {
        let seconds = self.started.elapsed().as_secs();
        self.sink.log(&format!("INFO[{seconds:04}] {} source=\"{source}\"", one_line(text)));
    }

    /// Shows events until there will be no more.
    pub fn follow(&self, events: &Events) {
        let (mut begun, mut again) = (false, false);
        while let Some(event) = events.wait() {
            // A node that is joined begins anew in another cluster, and for people it is still the same one.
            match &event {
                Event::InitialConfiguration { .. } => {
                    again = begun;
                    begun = true;
                }
                Event::Follower { leader: None } => {}
                _ => again = false,
            }
            if again {
                continue;
            }
            let (level, text) = self.line(&event);
            let at = Civil::now().with_millis();
            self.sink.log(&format!("{at} [{level}] raft: {text}"));
        }
    }

    fn node(&self, state: &str) -> String {
        format!("\"Node at {} [{state}]\"", self.address)
    }

    /// An event's line: how much it matters, and what it says.
    fn line(&self, event: &Event) -> (&'static str, String) {
        let address =
            |peer: &Option<Peer>| peer.as_ref().map(|peer| field(&peer.address)).unwrap_or_default();
        match event {
            Event::InitialConfiguration { index, servers } => {
                ("INFO", format!("initial configuration: index={index} servers={}", field(&list(servers))))
            }
            Event::Follower { leader } => {
                let (node, leader) = (self.node("Follower"), address(leader));
                ("INFO", format!("entering follower state: follower={node} leader={leader}"))
            }
            Event::ElectionTimeout { again: true, .. } => {
                ("WARN", "Election timeout reached, restarting election".to_owned())
            }
            Event::ElectionTimeout { last_leader, again: false } => {
                let last = address(last_leader);
                ("WARN", format!("heartbeat timeout reached, starting election: last-leader={last}"))
            }
            Event::Candidate { term } => {
                ("INFO", format!("entering candidate state: node={} term={term}", self.node("Candidate")))
            }
            Event::VotesNeeded { needed } => ("DEBUG", format!("votes: needed={needed}")),
            Event::VoteGranted { from, term, tally } => {
                ("DEBUG", format!("vote granted: from={} term={term} tally={tally}", name(from)))
            }
            Event::VoteRefused { from, term } => {
                ("DEBUG", format!("vote refused: from={} term={term}", name(from)))
            }
            Event::ElectionWon { tally } => ("INFO", format!("election won: tally={tally}")),
            Event::Leader { .. } => {
                ("INFO", format!("entering leader state: leader={}", self.node("Leader")))
            }
            Event::UpdatingConfiguration { change, server, servers } => {
                ("INFO", updating(*change, server, servers))
            }
            Event::AddedPeer { peer } => {
                ("INFO", format!("added peer, starting replication: peer={}", name(peer)))
            }
            Event::RemovedPeer { peer, last } => {
                let name = name(peer);
                ("INFO", format!("removed peer, stopping replication: peer={name} last-index={last}"))
            }
            Event::AppendRejected { peer, next } => {
                let peer = server(peer);
                ("WARN", format!("appendEntries rejected, sending older logs: peer={peer} next={next}"))
            }
            Event::Pipelining { peer } => ("INFO", format!("pipelining replication: peer={}", server(peer))),
            Event::PreviousMissing { previous, last } => (
                "WARN",
                format!(
                    "failed to get previous log: previous-index={previous} last-index={last} error=\"log not found\""
                ),
            ),
            Event::PreviousDiffers { ours, theirs, .. } => {
                ("WARN", format!("previous log term mis-match: ours={ours} remote={theirs}"))
            }
            Event::Lost { count } => ("WARN", format!("events came too fast to be shown: count={count}")),
        }
    }
}

fn updating(change: ConfigurationChange, server: &Peer, servers: &[Peer]) -> String {
    let (command, address) = match change {
        // Whoever is to vote is brought up to date first.
        ConfigurationChange::AddLearner if server.wants_vote => ("AddStaging", field(&server.address)),
        ConfigurationChange::AddLearner => ("AddNonvoter", field(&server.address)),
        ConfigurationChange::AddVoter => ("AddStaging", field(&server.address)),
        ConfigurationChange::Promote => ("Promote", field(&server.address)),
        ConfigurationChange::Remove => ("RemoveServer", String::new()),
        ConfigurationChange::Demote => ("DemoteVoter", String::new()),
    };
    let (name, servers) = (name(server), field(&list(servers)));
    format!(
        "updating configuration: command={command} server-id={name} server-addr={address} servers={servers}"
    )
}

/// What a node is for the cluster.
pub(super) fn suffrage(votes: bool) -> &'static str {
    if votes { "Voter" } else { "Nonvoter" }
}

/// A configuration: whether each node votes, its name, and its address.
pub(super) fn servers<'a>(all: impl Iterator<Item = (bool, &'a str, &'a str)>) -> String {
    // By name: their order by id would tell nobody anything.
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|(_, name, _)| *name);
    let all = all.into_iter().map(|(votes, name, address)| {
        format!("{{Suffrage:{} ID:{name} Address:{address}}}", suffrage(votes))
    });
    format!("[{}]", all.collect::<Vec<_>>().join(" "))
}

/// Whether a node votes, or will as soon as it is up to date.
fn votes(peer: &Peer) -> bool {
    !peer.is_learner || peer.wants_vote
}

fn list(peers: &[Peer]) -> String {
    servers(peers.iter().map(|peer| (votes(peer), &*peer.name, &*peer.address)))
}

fn server(peer: &Peer) -> String {
    field(&format!("{{{} {} {}}}", suffrage(votes(peer)), peer.name, peer.address))
}

/// The name of a node; its id as long as it has none.
fn name(peer: &Peer) -> String {
    if peer.name.is_empty() { peer.id.to_string() } else { field(&peer.name) }
}

/// A field's value: quoted where it holds anything that ends a value or a line.
fn field(value: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=');
    if value.chars().all(plain) { value.to_owned() } else { format!("{value:?}") }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A moment as people write it, in universal time.
#[derive(Debug, PartialEq, Eq)]
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    milli: u32,
}

impl Civil {
    fn now() -> Self {
        Self::of(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn of(since_1970: Duration) -> Self {
        const DAYS_PER_ERA: u64 = 146_097;
        const DAYS_TO_1970: u64 = 719_468;
        let seconds = since_1970.as_secs();
        // Years that begin in March: the day that a leap year adds is the last one.
        let days = seconds / 86_400 + DAYS_TO_1970;
        let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            milli: since_1970.subsec_millis(),
        }
    }

    fn with_millis(&self) -> String {
        let Self { year, month, day, hour, minute, second, milli } = self;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}+0000")
    }
}

#[cfg(test)]
mod tests {
    use quorate_ids::{LogIndex, MemberId, Term};

    use super::*;

    fn peer(number: u64, is_learner: bool) -> Peer {
        let address = format!("127.0.0.1:{}", 8999 + number);
        let name = format!("n{number}");
        Peer { id: MemberId(number), name, address, is_learner, wants_vote: false }
    }

    fn shown(event: &Event) -> String {
        let console = Console::new(Arc::new(Quiet), "127.0.0.1:9000".to_owned());
        let (level, text) = console.line(event);
        format!("[{level}] raft: {text}")
    }

    #[test]
    fn raft_tells_in_the_words_that_people_know() {
        let n2 = peer(2, false);
        let staged = Peer { wants_vote: true, ..peer(2, true) };
        for (event, expected) in [
            (
                Event::InitialConfiguration { index: LogIndex(0), servers: vec![] },
                "[INFO] raft: initial configuration: index=0 servers=[]",
            ),
            (
                Event::Follower { leader: None },
                "[INFO] raft: entering follower state: follower=\"Node at 127.0.0.1:9000 [Follower]\" leader=",
            ),
            (
                Event::Follower { leader: Some(n2.clone()) },
                "[INFO] raft: entering follower state: follower=\"Node at 127.0.0.1:9000 [Follower]\" \
                 leader=127.0.0.1:9001",
            ),
            (
                Event::ElectionTimeout { last_leader: None, again: false },
                "[WARN] raft: heartbeat timeout reached, starting election: last-leader=",
            ),
            (
                Event::Candidate { term: Term(2) },
                "[INFO] raft: entering candidate state: node=\"Node at 127.0.0.1:9000 [Candidate]\" term=2",
            ),
            (Event::VotesNeeded { needed: 1 }, "[DEBUG] raft: votes: needed=1"),
            (
                Event::VoteGranted { from: peer(1, false), term: Term(2), tally: 1 },
                "[DEBUG] raft: vote granted: from=n1 term=2 tally=1",
            ),
            (Event::ElectionWon { tally: 1 }, "[INFO] raft: election won: tally=1"),
            (
                Event::Leader { term: Term(2) },
                "[INFO] raft: entering leader state: leader=\"Node at 127.0.0.1:9000 [Leader]\"",
            ),
            (
                Event::UpdatingConfiguration {
                    change: ConfigurationChange::AddLearner,
                    server: staged.clone(),
                    servers: vec![peer(1, false), staged.clone()],
                },
                "[INFO] raft: updating configuration: command=AddStaging server-id=n2 server-addr=127.0.0.1:9001 \
                 servers=\"[{Suffrage:Voter ID:n1 Address:127.0.0.1:9000} {Suffrage:Voter ID:n2 \
                 Address:127.0.0.1:9001}]\"",
            ),
            (
                Event::UpdatingConfiguration {
                    change: ConfigurationChange::AddLearner,
                    server: peer(2, true),
                    servers: vec![peer(1, false), peer(2, true)],
                },
                "[INFO] raft: updating configuration: command=AddNonvoter server-id=n2 server-addr=127.0.0.1:9001 \
                 servers=\"[{Suffrage:Voter ID:n1 Address:127.0.0.1:9000} {Suffrage:Nonvoter ID:n2 \
                 Address:127.0.0.1:9001}]\"",
            ),
            (Event::AddedPeer { peer: n2.clone() }, "[INFO] raft: added peer, starting replication: peer=n2"),
            (
                Event::AppendRejected { peer: staged, next: LogIndex(3) },
                "[WARN] raft: appendEntries rejected, sending older logs: peer=\"{Voter n2 127.0.0.1:9001}\" next=3",
            ),
            (
                Event::Pipelining { peer: n2 },
                "[INFO] raft: pipelining replication: peer=\"{Voter n2 127.0.0.1:9001}\"",
            ),
            (
                Event::PreviousMissing { previous: LogIndex(3), last: LogIndex(2) },
                "[WARN] raft: failed to get previous log: previous-index=3 last-index=2 error=\"log not found\"",
            ),
        ] {
            assert_eq!(shown(&event), expected);
        }
    }

    /// Keeps what it is told.
    #[derive(Default)]
    struct Kept(std::sync::Mutex<Vec<String>>);

    impl Sink for Kept {
        fn out(&self, line: &str) {
            self.0.lock().expect("no panic").push(line.to_owned());
        }

        fn log(&self, line: &str) {
            self.out(line);
        }
    }

    #[test]
    fn a_node_that_is_joined_does_not_begin_a_second_time() {
        let (observer, events) = quorate_member::observer(16);
        let initial = |servers| Event::InitialConfiguration { index: LogIndex(0), servers };
        for event in [
            initial(vec![]),
            Event::Follower { leader: None },
            Event::Leader { term: Term(2) },
            initial(vec![peer(1, false)]),
            Event::Follower { leader: None },
            Event::PreviousMissing { previous: LogIndex(3), last: LogIndex(0) },
            Event::Follower { leader: Some(peer(1, false)) },
            Event::Follower { leader: None },
        ] {
            observer.tell(event);
        }
        drop(observer);
        let kept = Arc::new(Kept::default());
        Console::new(kept.clone(), "127.0.0.1:9001".to_owned()).follow(&events);
        let lines = kept.0.lock().expect("no panic").clone();
        let starts: Vec<&str> =
            lines.iter().filter_map(|line| line.split("raft: ").nth(1)?.split([':', '=']).next()).collect();
        assert_eq!(
            starts,
            [
                "initial configuration",
                "entering follower state",
                "entering leader state",
                "failed to get previous log",
                "entering follower state",
                "entering follower state"
            ]
        );
    }

    #[test]
    fn a_name_cannot_pass_for_a_line_or_a_field() {
        let forged = Peer { name: "n2\nfrom=n9 tally=5".to_owned(), ..peer(2, true) };
        let line = shown(&Event::VoteGranted { from: forged.clone(), term: Term(2), tally: 1 });
        assert_eq!(line, "[DEBUG] raft: vote granted: from=\"n2\\nfrom=n9 tally=5\" term=2 tally=1");
        assert!(!shown(&Event::Pipelining { peer: forged }).contains('\n'));
        assert_eq!(one_line("a\r\nb"), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn moments_are_told_as_people_write_them() {
        let at = |seconds: u64, millis: u64| Civil::of(Duration::from_millis(seconds * 1000 + millis));
        assert_eq!(at(0, 0).with_millis(), "1970-01-01T00:00:00.000+0000");
        assert_eq!(at(1_612_249_288, 7).with_millis(), "2021-02-02T07:01:28.007+0000");
        assert_eq!(at(951_782_400, 0).with_millis(), "2000-02-29T00:00:00.000+0000");
        assert_eq!(at(4_107_542_399, 999).with_millis(), "2100-02-28T23:59:59.999+0000");
    }
}
