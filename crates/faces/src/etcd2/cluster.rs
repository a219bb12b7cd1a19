//! Who leads, and where the machines are.
//!
//! In 0.4 the machines stand in the tree, under `/_etcd/machines`, where clients read them too; a machine that is not
//! there (yet), and all of 2.x, is known from the list of members.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use quorate_ids::MemberId;
use quorate_member::Member;
use quorate_models::tree;

use super::errors::{DURING_ELECTION, Error, RAFT_INTERNAL};
use super::form::Form;
use super::{Answer, Dialect, Thread, keys, text};

/// Where machines stand in the tree.
const MACHINES: &[u8] = b"/_etcd/machines";
/// More than this is no list of machines.
const MACHINES_BYTES_MAX: usize = 256 * 1024;

/// A machine of the cluster, as it is told to clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub name: String,
    pub client_url: String,
    pub peer_url: String,
}

impl Machine {
    fn of(member: &Member) -> Self {
        let first = |urls: &[String]| urls.first().cloned().unwrap_or_default();
        Self {
            name: member.name.clone(),
            client_url: first(&member.client_urls),
            peer_url: first(&member.peer_urls),
        }
    }

    /// From what stands in the tree: `etcd=<client URL>&raft=<peer URL>`, escaped.
    fn registered(name: &str, value: &[u8]) -> Option<Self> {
        let mut form = Form::default();
        form.read(value).ok()?;
        let url = |key| String::from_utf8(form.bytes(key)?.to_vec()).ok();
        Some(Self { name: name.to_owned(), client_url: url("etcd")?, peer_url: url("raft")? })
    }
}

/// Since when the leader leads, as far as this machine saw it.
#[derive(Default)]
pub(super) struct Leadership(Mutex<Option<(MemberId, Instant, SystemTime)>>);

impl Leadership {
    /// Takes note of who leads now, and tells since when.
    pub(super) fn look(&self, leader: MemberId) -> (Instant, SystemTime) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((who, since, wall)) if who == leader => (since, wall),
            _ => {
                let now = (Instant::now(), SystemTime::now());
                *known = Some((leader, now.0, now.1));
                now
            }
        }
    }
}

impl Thread {
    /// The machine that leads, as far as this one knows.
    pub(super) async fn leader(&self) -> Option<Machine> {
        let leader = self.handle().status().leader?;
        self.shared.leadership.look(leader);
        let members = self.handle().members();
        let member = members.iter().find(|member| member.id == leader)?;
        Some(self.machine(member).await)
    }

    /// What is known of a member.
    async fn machine(&self, member: &Member) -> Machine {
        if self.dialect() == Dialect::V04 && !member.name.is_empty() {
            let path = keys::path_of(&[MACHINES, b"/", member.name.as_bytes()].concat());
            if let Ok(path) = path
                && let Some(machine) = self.registered(path).await.into_iter().next()
            {
                return machine;
            }
        }
        Machine::of(member)
    }

    /// The machine that stands at a path, or those that stand in it.
    async fn registered(&self, path: tree::Path) -> Vec<Machine> {
        let get = tree::Get { path, recursive: false, bytes_max: MACHINES_BYTES_MAX };
        // Small, and read from memory but for its values.
        let Ok(reply) = tree::get(self.handle().store(), &get) else { return Vec::new() };
        let mut machines = Vec::new();
        for node in std::iter::once(&reply.node).chain(&reply.below) {
            let name = String::from_utf8_lossy(node.path.name()).into_owned();
            if let Ok(Some(value)) = self.value(&node.value).await {
                machines.extend(Machine::registered(&name, &value));
            }
        }
        machines
    }

    /// Where the leader takes clients' requests.
    pub(super) async fn leader_client_url(&self, code_without_leader: u16) -> Result<String, Error> {
        let leader = self.leader().await.ok_or_else(|| Error::new(code_without_leader, ""))?;
        if leader.client_url.is_empty() {
            return Err(Error::new(RAFT_INTERNAL, "the leader has not told its client address yet"));
        }
        Ok(leader.client_url)
    }

    /// All machines, the leader first.
    async fn machines(&self) -> Vec<Machine> {
        let leader = self.leader().await;
        let mut machines = match self.dialect() {
            Dialect::V04 => match keys::path_of(MACHINES) {
                Ok(path) => self.registered(path).await,
                Err(_) => Vec::new(),
            },
            Dialect::V2 => Vec::new(),
        };
        if machines.is_empty() {
            machines = self.handle().members().iter().map(Machine::of).collect();
            machines.sort_by(|one, other| one.name.cmp(&other.name));
        }
        if self.dialect() == Dialect::V04
            && let Some(leader) = leader
        {
            // Sorting keeps the order of the others.
            machines.sort_by_key(|machine| machine.name != leader.name);
        }
        machines
    }

    pub(super) async fn leader_text(&self) -> Answer {
        let leader = self.leader().await;
        let leader = leader.ok_or_else(|| Error::new(DURING_ELECTION, "").at(self.index()))?;
        Ok(text(leader.peer_url))
    }

    pub(super) async fn machines_text(&self) -> http::Response<crate::listener::Body> {
        let machines = self.machines().await.into_iter().map(|machine| machine.client_url);
        text(machines.filter(|url| !url.is_empty()).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_read_as_it_stands_in_the_tree() {
        let machine = Machine {
            name: "m1".to_owned(),
            client_url: "http://127.0.0.1:4001".to_owned(),
            peer_url: "http://127.0.0.1:7001".to_owned(),
        };
        for value in [
            "etcd=http%3A%2F%2F127.0.0.1%3A4001&raft=http%3A%2F%2F127.0.0.1%3A7001",
            "raft=http://127.0.0.1:7001&etcd=http://127.0.0.1:4001",
        ] {
            assert_eq!(Machine::registered("m1", value.as_bytes()), Some(machine.clone()));
        }
        for broken in ["", "etcd=http://a", "etcd=%zz&raft=b"] {
            assert_eq!(Machine::registered("m1", broken.as_bytes()), None, "{broken}");
        }
    }
}
