//! What the leader does for the cluster: it gives standbys a vote while there is room, takes votes where there are too
//! many or where a voter is silent, and keeps the tree's list of machines equal to the member list.
//!
//! Invariant: one machine decides at a time, and each change is conditional on what it read, so that a leader that does
//! not know yet that it was replaced changes nothing wrongly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_member::core::votes;
use quorate_member::{Handle, Member, MembershipRequest, RequestError};

use super::registry::{Entry, MACHINES, Registry, RegistryError, STANDBYS, is_ours, value_of};
use super::settings::ClusterSettings;

/// Between two looks at the member list.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The tree is compared this often even where the member list has not changed.
const COMPARE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks for voters that are silent.
const SILENCE_INTERVAL: Duration = Duration::from_secs(1);
/// A listed machine that no member is called like goes after so long. Who removes a machine takes it off the list
/// himself; between the removal of a machine and the admission of the one that replaces it the name stands for nobody.
const NAMELESS_MAX: Duration = Duration::from_secs(10);

/// A listed machine is written anew once its addresses have been the same for so long: one that moved tells its peer and
/// its client address one after the other, and both are to take one index.
const ADDRESSES_REST: Duration = Duration::from_secs(1);

/// What the leader saw of machines, and since when.
#[derive(Default)]
struct Seen {
    /// Listed machines that no member is called like.
    nameless: BTreeMap<String, Instant>,
    /// What is to be written of listed machines that moved.
    moved: BTreeMap<String, (String, Instant)>,
}

impl Seen {
    /// Whether the addresses of a listed machine have come to rest.
    fn rests(&mut self, name: &str, value: &str) -> bool {
        match self.moved.get(name) {
            Some((known, since)) if known == value => since.elapsed() >= ADDRESSES_REST,
            _ => {
                self.moved.insert(name.to_owned(), (value.to_owned(), Instant::now()));
                false
            }
        }
    }
}

/// Goes on until it is dropped.
pub async fn keep(handle: Handle, founded: ClusterSettings) {
    let registry = Registry { handle: handle.clone() };
    let mut settled: Option<(Arc<Vec<Member>>, Instant)> = None;
    let mut seen = Seen::default();
    let mut silence_looked_at = Instant::now();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        if !handle.status().is_leader {
            settled = None;
            seen = Seen::default();
            continue;
        }
        let members = handle.members();
        if silence_looked_at.elapsed() > SILENCE_INTERVAL {
            silence_looked_at = Instant::now();
            if let Err(error) = replace_silent(&registry, &members, founded).await {
                tracing::debug!(%error, "whether a machine is silent is not known");
            }
        }
        let is_settled = settled
            .as_ref()
            .is_some_and(|(known, since)| Arc::ptr_eq(known, &members) && since.elapsed() < COMPARE_INTERVAL);
        if is_settled {
            continue;
        }
        match reconcile(&registry, &members, founded, &mut seen).await {
            Ok(true) => settled = Some((members, Instant::now())),
            Ok(false) => {}
            // Tried again at once: elections, races with another leader, and a list that changed meanwhile pass.
            Err(error) => tracing::debug!(%error, "the list of machines is not up to date yet"),
        }
    }
}

/// Makes the tree, and who votes, what the member list and the settings say. False: there is more to do.
async fn reconcile(
    registry: &Registry,
    members: &[Member],
    founded: ClusterSettings,
    seen: &mut Seen,
) -> Result<bool, RegistryError> {
    registry.handle.read_index().await?;
    let settings = registry.settings(founded).await?;
    let room_for_votes = usize::try_from(settings.active_size).unwrap_or(usize::MAX);
    let votes = members.iter().filter(|member| !member.is_learner).count();
    let me = registry.handle.identity().member;
    let changes = votes::towards(members, me, room_for_votes);
    let mut done = changes.is_empty();
    // One that is refused has not caught up yet, or does not answer.
    if let Some(changed) = change_one(registry, changes).await? {
        tracing::info!(
            ?changed,
            room_for_votes,
            "gave a machine its vote, or took one: the active size says so"
        );
    }
    let machines = registry.list(MACHINES).await?;
    let standbys = registry.list(STANDBYS).await?;
    let is_full = votes >= room_for_votes;
    let mut named: Vec<&Member> = members.iter().filter(|member| !member.name.is_empty()).collect();
    named.sort_by(|one, other| one.name.cmp(&other.name));
    for member in named {
        let Some(value) = value_of(member) else {
            done = false;
            continue;
        };
        if !member.is_learner {
            done &= write_if_it_differs(registry, MACHINES, &machines, &member.name, value, seen).await?;
        } else if is_full {
            done &= write_if_it_differs(registry, STANDBYS, &standbys, &member.name, value, seen).await?;
        }
    }
    let named = |entry: &Entry| members.iter().find(|member| member.name == entry.name);
    let listed =
        machines.iter().map(|entry| (MACHINES, entry)).chain(standbys.iter().map(|entry| (STANDBYS, entry)));
    seen.nameless.retain(|name, _| members.iter().all(|member| member.name != *name));
    for (directory, entry) in listed.filter(|(_, entry)| is_ours(&entry.value)) {
        let goes = match named(entry) {
            Some(member) if directory == STANDBYS => !member.is_learner,
            // One that is about to get its vote keeps its place, and with it the index at which it was made.
            Some(member) => member.is_learner && is_full,
            None => {
                let since = *seen.nameless.entry(entry.name.clone()).or_insert_with(Instant::now);
                since.elapsed() > NAMELESS_MAX
            }
        };
        if goes {
            registry.remove(directory, &entry.name).await?;
        }
    }
    Ok(done)
}

/// Makes the first of these changes that is not refused.
async fn change_one(
    registry: &Registry,
    changes: Vec<MembershipRequest>,
) -> Result<Option<MembershipRequest>, RegistryError> {
    for request in changes {
        match registry.handle.change_membership(request.clone()).await {
            Ok(_) => return Ok(Some(request)),
            Err(RequestError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// A voter that was silent for longer than the cluster's promotion delay stands by from now on, where a standby is
/// ready to take its place.
async fn replace_silent(
    registry: &Registry,
    members: &[Member],
    founded: ClusterSettings,
) -> Result<(), RegistryError> {
    if !members.iter().any(|member| member.is_learner) {
        return Ok(());
    }
    let delay = Duration::from_secs_f64(registry.settings(founded).await?.promote_delay_seconds);
    let silent_nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
    let changes = votes::of_silent(members, registry.handle.identity().member, silent_nanos);
    if let Some(changed) = change_one(registry, changes).await? {
        tracing::warn!(
            ?changed,
            ?delay,
            "took a machine's vote: nothing was heard of it for longer than the promotion delay"
        );
    }
    Ok(())
}

/// False: it is to be written, and will be once it is what it stays.
async fn write_if_it_differs(
    registry: &Registry,
    directory: &'static [u8],
    known: &[Entry],
    name: &str,
    value: String,
    seen: &mut Seen,
) -> Result<bool, RegistryError> {
    let known = known.iter().find(|entry| entry.name == name);
    if known.is_some_and(|known| known.value != value) && !seen.rests(name, &value) {
        return Ok(false);
    }
    seen.moved.remove(name);
    if known.is_none_or(|known| known.value != value) {
        registry.put(directory, name, value, known).await?;
    }
    Ok(true)
}
