//! What the tree tells of the cluster, under `/_etcd`: machines, standbys, and the cluster's settings.
//!
//! The member list is what counts; the tree repeats it for clients. Invariant: a change of the tree is made only where
//! it differs from the member list, and on the condition that it is as it was read. So no start, no election and no
//! second try takes an index.

use bytes::Bytes;
use quorate_ids::TreeIndex;
use quorate_member::{Handle, Member, ModelReply, RequestError};
use quorate_models::ModelId;
use quorate_models::tree::{self, Command, Conditions, Get, Path, Reply, TreeError, Write};

use super::settings::ClusterSettings;

pub const MACHINES: &[u8] = b"/_etcd/machines";
pub const STANDBYS: &[u8] = b"/_etcd/standbys";
const SETTINGS: &[u8] = b"/_etcd/config";
/// What a listing of machines may weigh.
const LISTING_BYTES_MAX: usize = 1 << 20;

/// Why the tree can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("the tree answered with something else than a change")]
    Odd,
}

/// A file in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub value: String,
    pub modified: TreeIndex,
}

/// See the module.
#[derive(Clone)]
pub struct Registry {
    pub handle: Handle,
}

impl Registry {
    /// The files of a directory; none where there is no directory.
    pub async fn list(&self, directory: &'static [u8]) -> Result<Vec<Entry>, RegistryError> {
        self.read(move |store| {
            let query = Get { path: path(directory)?, recursive: false, bytes_max: LISTING_BYTES_MAX };
            let reply = match tree::get(store, &query) {
                Err(TreeError::NotFound { .. }) => return Ok(Vec::new()),
                reply => reply?,
            };
            let files = reply.below.iter().filter(|node| !node.dir);
            files.map(|node| entry(store, node)).collect()
        })
        .await
    }

    /// One file.
    async fn file(&self, at: Path) -> Result<Option<Entry>, RegistryError> {
        self.read(move |store| {
            let query = Get { path: at, recursive: false, bytes_max: LISTING_BYTES_MAX };
            match tree::get(store, &query) {
                Err(TreeError::NotFound { .. } | TreeError::NotDirectory { .. }) => Ok(None),
                reply => {
                    let reply = reply?;
                    if reply.node.dir { Ok(None) } else { entry(store, &reply.node).map(Some) }
                }
            }
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&quorate_store::Store) -> Result<T, TreeError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let read = self.handle.blocking(read).await;
        Ok(read.ok_or_else(|| RequestError::Stopped { reason: "the member is stopping".to_owned() })??)
    }

    /// The member with this name, as the tree has it among the machines or the standbys.
    pub async fn is_known(&self, name: &str) -> Result<bool, RegistryError> {
        for directory in [MACHINES, STANDBYS] {
            if self.file(path(directory)?.child(name.as_bytes()).map_err(TreeError::from)?).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes the file of `name` have this value; `known` is what was read of it.
    pub async fn put(
        &self,
        directory: &'static [u8],
        name: &str,
        value: String,
        known: Option<&Entry>,
    ) -> Result<(), RegistryError> {
        let at = path(directory)?.child(name.as_bytes()).map_err(TreeError::from)?;
        self.write(at, value, known).await
    }

    async fn write(&self, at: Path, value: String, known: Option<&Entry>) -> Result<(), RegistryError> {
        let write = Write::file(at, Bytes::from(value));
        let command = match known {
            None => Command::Create(write),
            Some(known) => Command::CompareAndSwap {
                write,
                conditions: Conditions { value: None, index: Some(known.modified) },
            },
        };
        self.propose(&command).await
    }

    /// Takes the file of `name` away.
    pub async fn remove(&self, directory: &'static [u8], name: &str) -> Result<(), RegistryError> {
        let at = path(directory)?.child(name.as_bytes()).map_err(TreeError::from)?;
        match self.propose(&Command::Delete { path: at, dir: false, recursive: false }).await {
            Err(RegistryError::Tree(TreeError::NotFound { .. })) => Ok(()),
            outcome => outcome,
        }
    }

    async fn propose(&self, command: &Command) -> Result<(), RegistryError> {
        let applied = self.handle.propose(ModelId::TREE, tree::encode(command)).await?;
        match applied.reply {
            ModelReply::Tree(Reply::Changed(_)) => Ok(()),
            ModelReply::Tree(Reply::Refused { error, .. }) => Err(error.into()),
            _ => Err(RegistryError::Odd),
        }
    }

    /// The cluster's settings: those that were put, or else `founded`.
    pub async fn settings(&self, founded: ClusterSettings) -> Result<ClusterSettings, RegistryError> {
        Ok(match self.file(path(SETTINGS)?).await? {
            Some(entry) => founded.changed_by(entry.value.as_bytes()).unwrap_or(founded),
            None => founded,
        })
    }

    /// Stores the cluster's settings.
    pub async fn put_settings(&self, settings: ClusterSettings) -> Result<(), RegistryError> {
        let at = path(SETTINGS)?;
        let known = self.file(at.clone()).await?;
        if known.as_ref().is_some_and(|known| known.value == settings.json()) {
            return Ok(());
        }
        self.write(at, settings.json(), known.as_ref()).await
    }
}

fn path(text: &'static [u8]) -> Result<Path, TreeError> {
    Ok(Path::clean(text)?)
}

fn entry(store: &quorate_store::Store, node: &tree::Node) -> Result<Entry, TreeError> {
    Ok(Entry {
        name: String::from_utf8_lossy(node.path.name()).into_owned(),
        value: String::from_utf8_lossy(&tree::load_value(store, &node.value)?).into_owned(),
        modified: node.modified,
    })
}

/// What the tree has of a member: a form of its first client URL and its first peer URL, in this order.
#[must_use]
pub fn value_of(member: &Member) -> Option<String> {
    let (client, peer) = (member.client_urls.first()?, member.peer_urls.first()?);
    Some(format!("etcd={}&raft={}", percent_encoded(client), percent_encoded(peer)))
}

/// Whether a value has the form of [`value_of`].
#[must_use]
pub fn is_ours(value: &str) -> bool {
    value.starts_with("etcd=") && value.contains("&raft=")
}

/// `text` as a form or a query holds it.
#[must_use]
pub fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_value_is_a_form_with_the_client_url_first() {
        let mut member = Member {
            name: "machine1".to_owned(),
            peer_urls: vec!["http://127.0.0.1:7001".to_owned()],
            ..Member::default()
        };
        assert_eq!(value_of(&member), None, "not before it has told where clients reach it");
        member.client_urls = vec!["http://127.0.0.1:4001".to_owned()];
        let value = value_of(&member).expect("both URLs are known");
        assert_eq!(value, "etcd=http%3A%2F%2F127.0.0.1%3A4001&raft=http%3A%2F%2F127.0.0.1%3A7001");
        assert!(is_ours(&value) && !is_ours("somebody's own"));
    }
}
