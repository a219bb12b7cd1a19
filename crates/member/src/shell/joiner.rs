//! What a member without data asks a running cluster: who it is (it was added before), or to be admitted.

use std::time::{Duration, Instant};

use quorate_ids::{Incarnation, Monotonic};

use super::log::with_callers_log;
use super::start::StartError;
use super::transport;
use crate::config::{Config, JoinConfig};
use crate::handle::Identity;
use crate::joining::{Asking, AskingWants, Newcomer, NotAdmitted, Offer, Question, Reply, Told, believed};

/// How long a joiner goes on asking the peers who the members are.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
const JOIN_PAUSE: Duration = Duration::from_millis(500);
/// How long the members may take to hear that this one was added.
const ADDED_PATIENCE: Duration = Duration::from_secs(2);
/// How long the peers may take to say that this member was removed while it was away.
const REMOVED_PATIENCE: Duration = Duration::from_secs(2);

/// Runs `ask` on a thread with a runtime of its own: the caller may be inside one.
fn on_own_thread<T: Send>(ask: impl FnOnce(tokio::runtime::Runtime) -> T + Send) -> Result<T, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::Io { what: "joining".to_owned(), source })?;
    Ok(std::thread::scope(|scope| {
        let asking = scope.spawn(with_callers_log(|| ask(runtime)));
        asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }))
}

/// Asks the listed peers, one after the other, to admit this member.
pub fn ask_to_join(
    config: &Config,
    join: &JoinConfig,
    incarnation: Incarnation,
) -> Result<Offer, StartError> {
    let newcomer = Newcomer {
        name: config.name.clone(),
        incarnation,
        peer_urls: config.advertise_peer_urls.clone(),
        client_urls: config.advertise_client_urls.clone(),
        wants_vote: join.wants_vote,
    };
    on_own_thread(|runtime| {
        let asked = runtime.block_on(ask_each(config, join, newcomer));
        // A name that does not resolve may hold a thread of the runtime up.
        runtime.shutdown_background();
        asked
    })?
}

async fn ask_each(config: &Config, join: &JoinConfig, newcomer: Newcomer) -> Result<Offer, StartError> {
    let begun = Instant::now();
    let since = |duration: Duration| Monotonic(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    let (mut asking, mut wants) = Asking::begin(newcomer, &join.peers, since(join.patience));
    loop {
        wants = match wants {
            AskingWants::Ask { url, question } => {
                let answer = transport::ask(&url, config.peer_tls.connector.as_deref(), &question).await;
                asking.answered(answer.map_err(|error| error.to_string()), since(begun.elapsed()))
            }
            AskingWants::Pause { nanos } => {
                tokio::time::sleep(Duration::from_nanos(nanos)).await;
                asking.paused()
            }
            AskingWants::Done(outcome) => {
                return outcome.map_err(|not_admitted| match not_admitted {
                    NotAdmitted::Refused { url, refusal } => StartError::JoinRefused { url, refusal },
                    NotAdmitted::NoPeers { last } => StartError::NoPeers { last },
                });
            }
        };
    }
}

/// Whether a peer says, soon, that member `me` was removed from its cluster.
pub fn peers_say_removed(config: &Config, join: &JoinConfig, me: Identity) -> Result<bool, StartError> {
    let own = &config.advertise_peer_urls;
    on_own_thread(|runtime| {
        let says = runtime.block_on(async {
            for url in join.peers.iter().filter(|url| !own.contains(url)) {
                let asking =
                    transport::ask_members(std::slice::from_ref(url), config.peer_tls.connector.as_deref());
                if let Ok(Ok((cluster, members))) = tokio::time::timeout(REMOVED_PATIENCE, asking).await
                    && cluster == me.cluster
                {
                    return members.was_removed(me.member);
                }
            }
            false
        });
        runtime.shutdown_background();
        says
    })
}

/// Asks the running cluster which member this is.
pub fn ask_who_we_are(config: &Config, incarnation: Incarnation) -> Result<Offer, StartError> {
    on_own_thread(|runtime| ask_until_told(&runtime, config, incarnation))?
}

fn ask_until_told(
    runtime: &tokio::runtime::Runtime,
    config: &Config,
    incarnation: Incarnation,
) -> Result<Offer, StartError> {
    let mut peers: Vec<String> = config
        .initial_cluster
        .iter()
        .filter(|(_, url)| !config.advertise_peer_urls.contains(url))
        .map(|(_, url)| url.clone())
        .collect();
    let own = &config.advertise_peer_urls;
    let deadline = Instant::now() + JOIN_PATIENCE;
    let added_until = Instant::now() + ADDED_PATIENCE;
    let mut last = "the initial cluster names no other member".to_owned();
    while Instant::now() < deadline {
        let mut answers = Vec::new();
        for url in &peers {
            let asking = transport::ask(url, config.peer_tls.connector.as_deref(), &Question::Members);
            match runtime.block_on(asking) {
                Ok(Reply::Members(told)) => answers.push(told),
                Ok(_) => last = format!("{url}: it answered something else"),
                Err(error) => last = format!("{url}: {error}"),
            }
            if let Some(Told { cluster, members, .. }) = believed(&answers, own) {
                let me = members.iter().find(|member| member.peer_urls.iter().any(|url| own.contains(url)));
                match me {
                    Some(me) if me.incarnation != Incarnation::ZERO => {
                        return Err(StartError::Wiped { member: me.id });
                    }
                    Some(me) => {
                        let (cluster, member, members) = (*cluster, me.id, members.clone());
                        return Ok(Offer { cluster, member, incarnation, members });
                    }
                    None if Instant::now() >= added_until => {
                        return Err(StartError::NotAdded { urls: own.join(",") });
                    }
                    // What was decided a moment ago, not every member knows yet.
                    None => last = format!("{url}: it does not know this member"),
                }
            } else if !answers.is_empty() {
                last = format!("{url}: too few of the members that it names answer");
            }
        }
        // The settings need not name all members: those that are named know the others.
        for url in answers.iter().flat_map(|told| told.members.iter()).flat_map(|member| &member.peer_urls) {
            if !own.contains(url) && !peers.contains(url) {
                peers.push(url.clone());
            }
        }
        if peers.is_empty() {
            break;
        }
        std::thread::sleep(JOIN_PAUSE);
    }
    Err(StartError::NoPeers { last })
}
