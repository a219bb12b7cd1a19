//! What the entries of the log do to the tree, the cluster's own included: they take indexes, too.

use prost::Message;
use serde::Deserialize;

use super::CLUSTER;
use super::records::{ConfChange, InternalRequest, Request};
use super::wal::Entry;
use crate::error::Fault;
use crate::replay::{Conditions, NameStyle, Store, Write, clean};

const COMMAND: i32 = 0;
const MEMBERS: i32 = 1;

const METHODS: [&[u8]; 7] = [b"GET", b"QGET", b"HEAD", b"POST", b"PUT", b"DELETE", b"SYNC"];
/// The first version that pads the names of keys created in order.
const PADS_SINCE: (u64, u64) = (2, 2);

/// Who is added or changed, as a change of the members says it.
#[derive(Deserialize, Default)]
struct Context {
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
    #[serde(rename = "isLearner", default)]
    is_learner: bool,
}

/// See the module.
pub(crate) struct Applier {
    pub store: Store,
    /// The cluster's version that comes later in the log, where none is known yet.
    version_to_come: Option<(u64, u64)>,
    keys_of_v3: u64,
}

fn version_of(text: &[u8]) -> Option<(u64, u64)> {
    let mut parts = std::str::from_utf8(text).ok()?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn version_key() -> Vec<u8> {
    [CLUSTER, b"/version"].concat()
}

/// What a command asks for.
enum Asked {
    Tree(Request),
    Other(InternalRequest),
}

/// A request of the v2 API stands in the log as it is, or within one of 3.x.
fn asked(data: &[u8]) -> Result<Asked, Fault> {
    if let Ok(request) = Request::decode(data)
        && METHODS.contains(&&request.method[..])
    {
        return Ok(Asked::Tree(request));
    }
    let mut request = InternalRequest::decode(data).map_err(|error| Fault::malformed("a request", error))?;
    Ok(request.v2.take().map_or(Asked::Other(request), Asked::Tree))
}

impl Applier {
    pub fn new(store: Store) -> Self {
        Self { store, version_to_come: None, keys_of_v3: 0 }
    }

    /// Finds the first version that the cluster gives itself.
    pub fn look_ahead<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        self.version_to_come = entries.filter(|entry| entry.kind == COMMAND).find_map(|entry| {
            match asked(&entry.data).ok()? {
                Asked::Tree(request) if clean(&request.path) == version_key() => version_of(&request.value),
                Asked::Tree(_) => None,
                Asked::Other(request) => version_of(request.cluster_version?.version.as_bytes()),
            }
        });
    }

    pub fn notes(&self) -> Option<String> {
        (self.keys_of_v3 > 0).then(|| {
            "the log has writes of the v3 API; its keys are not of the tree and are not taken over: copy them from a \
             running etcd, with 'etcdctl make-mirror' for one"
                .to_owned()
        })
    }

    pub fn apply(&mut self, entry: &Entry) -> Result<(), Fault> {
        match entry.kind {
            COMMAND if entry.data.is_empty() => Ok(()),
            COMMAND => match asked(&entry.data)? {
                Asked::Tree(request) => self.request(request),
                Asked::Other(request) => {
                    self.other(&request);
                    Ok(())
                }
            },
            MEMBERS => self.members(&entry.data),
            other => Err(Fault::malformed("an entry", format!("its kind is {other}"))),
        }
    }

    fn style(&self) -> NameStyle {
        let version = self.store.value(&version_key()).and_then(version_of).or(self.version_to_come);
        if version.is_none_or(|version| version >= PADS_SINCE) { NameStyle::Padded } else { NameStyle::Plain }
    }

    fn request(&mut self, request: Request) -> Result<(), Fault> {
        let path = clean(&request.path);
        let moment = |nanos: i64| u64::try_from(nanos).unwrap_or(0);
        let conditions = Conditions { value: request.previous_value.clone(), index: request.previous_index };
        let has_conditions = request.previous_index > 0 || !request.previous_value.is_empty();
        let write = Write {
            value: request.value,
            dir: request.dir,
            expires: (request.expiration != 0).then(|| moment(request.expiration)),
            refresh: request.refresh.unwrap_or(false),
        };
        let style = self.style();
        let store = &mut self.store;
        match &request.method[..] {
            b"POST" => store.create_in_order(&path, style, write),
            b"PUT" => match request.previous_exist {
                Some(true) if !has_conditions => store.update(&path, write),
                Some(false) => store.create(path, write),
                Some(true) => store.compare_and_swap(&path, &conditions, write),
                None if has_conditions => store.compare_and_swap(&path, &conditions, write),
                None if attributes_of(&path).is_some_and(|member| !store.is_there(&member)) => false,
                None => store.set(path, write),
            },
            b"DELETE" if has_conditions => store.compare_and_delete(&path, &conditions),
            b"DELETE" => store.delete(&path, request.dir || request.recursive, request.recursive),
            b"SYNC" => {
                store.expire(moment(request.time));
                true
            }
            // Reads.
            _ => true,
        };
        Ok(())
    }

    fn other(&mut self, request: &InternalRequest) {
        self.keys_of_v3 += u64::from(request.put.is_some() || request.txn.is_some());
        if let Some(set) = &request.cluster_version {
            let value = set.version.clone().into_bytes();
            self.store.set(version_key(), Write { value, ..Write::default() });
        }
        if let Some(set) = &request.member_attributes {
            let member = member_path(set.member);
            if self.store.is_there(&member) {
                self.store.set([&member[..], b"/attributes"].concat(), Write::default());
            }
        }
    }

    fn members(&mut self, data: &[u8]) -> Result<(), Fault> {
        let malformed = |error: &dyn std::fmt::Display| Fault::malformed("a change of the members", error);
        let change = ConfChange::decode(data).map_err(|error| malformed(&error))?;
        let context: Context = match change.context.as_deref() {
            None | Some([]) => Context::default(),
            Some(context) => serde_json::from_slice(context).map_err(|error| malformed(&error))?,
        };
        let member = member_path(change.node);
        let removed = removed_path(change.node);
        let known = self.store.is_there(&member);
        let attributes = [&member[..], b"/raftAttributes"].concat();
        let value = serde_json::json!({ "peerURLs": context.peer_urls, "isLearner": context.is_learner });
        let write = Write { value: value.to_string().into_bytes(), ..Write::default() };
        let was_removed = self.store.is_there(&removed);
        let is_taken = || self.urls_are_taken(change.node, &context.peer_urls);
        match change.kind {
            0 | 3 if was_removed => {}
            0 | 3 if context.is_promote => {
                if known {
                    let kept = self.store.value(&attributes).unwrap_or_default().to_vec();
                    self.store.update(&attributes, Write { value: kept, ..Write::default() });
                }
            }
            0 | 3 if !known && !is_taken() => {
                self.store.create(attributes, write);
            }
            1 if known && !was_removed => {
                self.store.delete(&member, true, true);
                self.store.create(removed, Write::default());
            }
            2 if known && !was_removed && !is_taken() => {
                self.store.update(&attributes, write);
            }
            0..=3 => {}
            other => return Err(malformed(&format!("its kind is {other}"))),
        }
        Ok(())
    }

    /// Whether another member has one of these peer URLs: such a change was refused.
    fn urls_are_taken(&self, node: u64, urls: &[String]) -> bool {
        let own = member_path(node);
        let members = [CLUSTER, b"/members"].concat();
        let mut others = self
            .store
            .below(&members)
            .filter(|path| path.ends_with(b"/raftAttributes") && !path.starts_with(&own));
        others.any(|path| {
            let context =
                self.store.value(path).and_then(|value| serde_json::from_slice::<Context>(value).ok());
            context.is_some_and(|context| context.peer_urls.iter().any(|url| urls.contains(url)))
        })
    }
}

fn member_path(node: u64) -> Vec<u8> {
    [CLUSTER, format!("/members/{node:x}").as_bytes()].concat()
}

fn removed_path(node: u64) -> Vec<u8> {
    [CLUSTER, format!("/removed_members/{node:x}").as_bytes()].concat()
}

/// The member whose attributes are at this path.
fn attributes_of(path: &[u8]) -> Option<Vec<u8>> {
    let member = path.strip_suffix(b"/attributes")?;
    let id = member.strip_prefix(&[CLUSTER, b"/members/"].concat()[..])?;
    (!id.is_empty() && !id.contains(&b'/')).then(|| member.to_vec())
}
