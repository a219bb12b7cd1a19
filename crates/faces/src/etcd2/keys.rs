//! `/v2/keys`: reads and writes of the tree.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode, request};
use quorate_ids::{LogIndex, Term, TreeIndex};
use quorate_member::{Applied, ModelReply, RequestError};
use quorate_models::{ModelId, tree};
use tokio::sync::OwnedSemaphorePermit;

use super::auth::{self, Need};
use super::errors::{
    COMPARE_FAILED, DIRECTORY_NOT_EMPTY, DURING_ELECTION, EVENT_INDEX_CLEARED, Error, INVALID_FIELD,
    INVALID_FORM, KEY_EXISTS, KEY_NOT_FOUND, NOT_A_DIRECTORY, NOT_A_FILE, RAFT_INTERNAL, ROOT_READ_ONLY,
    TTL_NOT_A_NUMBER,
};
use super::json::{self, Lifetime};
use super::params::{Change, Conditions, Get, New, Write};
use super::stats::unix_nanos;
use super::{Answer, Dialect, JSON, Thread, set};
use crate::listener::Body;

/// A read up to this size is done by the net thread itself; a larger one by a thread that may take its time.
const SMALL_READ_BYTES_MAX: usize = 16 * 1024;
/// A listing is at most this large.
const LISTING_BYTES_MAX: usize = 32 << 20;

impl From<tree::TreeError> for Error {
    fn from(error: tree::TreeError) -> Self {
        use tree::TreeError as E;
        let text = error.to_string();
        match error {
            E::NotFound { path } => Self::new(KEY_NOT_FOUND, path.to_string()),
            E::CompareFailed(failure) => Self::new(COMPARE_FAILED, compare_cause(&failure)),
            E::NotFile { path } => Self::new(NOT_A_FILE, path.to_string()),
            E::NotDirectory { path } => Self::new(NOT_A_DIRECTORY, path.to_string()),
            E::Exists { path } => Self::new(KEY_EXISTS, path.to_string()),
            E::RootReadOnly => Self::new(ROOT_READ_ONLY, "/"),
            E::NotEmpty { path } => Self::new(DIRECTORY_NOT_EMPTY, path.to_string()),
            E::HistoryCleared { .. } => Self::new(EVENT_INDEX_CLEARED, text),
            E::ValueTooLong { .. } => {
                Self::new(INVALID_FORM, text).with_status(StatusCode::PAYLOAD_TOO_LARGE)
            }
            E::TtlTooLong { .. } => Self::new(TTL_NOT_A_NUMBER, text),
            E::Path(_)
            | E::HistoryWindow { .. }
            | E::ListingTooLarge { .. }
            | E::TooManyAuthRecords { .. } => Self::new(INVALID_FIELD, text),
            E::Overtaken | E::Unreadable { .. } | E::Import(_) | E::Importing => {
                Self::new(RAFT_INTERNAL, text)
            }
        }
    }
}

/// What was asked for and what is there, for each condition that does not hold.
fn compare_cause(failure: &tree::CompareFailure) -> String {
    let value = failure.value.as_ref().map(|(asked, there)| {
        format!("[{} != {}]", String::from_utf8_lossy(asked), String::from_utf8_lossy(there))
    });
    let index = failure.index.map(|(asked, there)| format!("[{asked} != {there}]"));
    value.into_iter().chain(index).collect::<Vec<_>>().join(" ")
}

/// The path that a request's key means.
pub(super) fn path_of(key: &[u8]) -> Result<tree::Path, Error> {
    tree::Path::clean(key).map_err(|error| Error::new(INVALID_FIELD, error.to_string()))
}

/// The command for a change of this dialect.
pub(super) fn command(dialect: Dialect, path: tree::Path, change: Change) -> tree::Command {
    let write = |path, new: New| tree::Write {
        path,
        value: if new.dir { Bytes::new() } else { new.value.into() },
        dir: new.dir,
        ttl_seconds: new.ttl_seconds,
        refresh: new.refresh,
    };
    let conditions = |asked: Conditions| tree::Conditions {
        value: asked.value.map(Bytes::from),
        index: asked.index.map(TreeIndex),
    };
    match change {
        Change::Set(new) => tree::Command::Set(write(path, new)),
        Change::Create(new) => tree::Command::Create(write(path, new)),
        Change::CreateInOrder(new) => {
            let style = match dialect {
                Dialect::V04 => tree::NameStyle::Plain,
                Dialect::V2 => tree::NameStyle::Padded,
            };
            tree::Command::CreateInOrder { write: write(path, new), style }
        }
        Change::Update(new) => tree::Command::Update(write(path, new)),
        Change::CompareAndSwap(new, asked) => {
            tree::Command::CompareAndSwap { write: write(path, new), conditions: conditions(asked) }
        }
        Change::Delete { dir, recursive } => tree::Command::Delete { path, dir, recursive },
        Change::CompareAndDelete(asked) => {
            tree::Command::CompareAndDelete { path, conditions: conditions(asked) }
        }
    }
}

/// An event whose values are in memory, as it is shown.
pub(super) fn shown(dialect: Dialect, event: &tree::Event) -> json::Event {
    let at = |node: &tree::Node| {
        let value = match &node.value {
            tree::Value::Here(value) => Some(value.clone()),
            tree::Value::At(_) | tree::Value::Absent => None,
        };
        shown_node(node, value, event.wall_time.0)
    };
    let mut node = at(&event.node);
    if dialect == Dialect::V04 && node.dir {
        match event.action {
            // 0.4 shows these two as if they were files.
            tree::Action::Update => (node.dir, node.value) = (false, Some(Bytes::new())),
            tree::Action::Expire => node.dir = false,
            _ => {}
        }
    }
    json::Event { action: event.action.name(), node: Some(node), previous: event.previous.as_ref().map(at) }
}

fn shown_node(node: &tree::Node, value: Option<Bytes>, now: u64) -> json::Node {
    json::Node {
        key: node.path.as_bytes().clone(),
        value,
        dir: node.dir,
        lifetime: node.expiration.map(|expiration| Lifetime::at(expiration.0, now)),
        nodes: Vec::new(),
        modified: node.modified.0,
        created: node.created.0,
    }
}

/// Nodes in the order of a walk, each with how deep it lies below the first: put into one another.
fn nested(nodes: impl Iterator<Item = (usize, json::Node)>) -> Option<json::Node> {
    fn close(open: &mut Vec<json::Node>, depth: usize) {
        while open.len() > depth.max(1) {
            let inner = open.pop().expect("more than one is open");
            open.last_mut().expect("one is left").nodes.push(inner);
        }
    }
    let mut open: Vec<json::Node> = Vec::new();
    for (depth, node) in nodes {
        close(&mut open, depth);
        open.push(node);
    }
    close(&mut open, 1);
    open.pop()
}

/// An answer that holds its share of the memory for large ones until the connection has taken it.
struct Held {
    text: String,
    _share: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// What was read, and what it holds.
pub(super) struct Read {
    pub index: TreeIndex,
    pub event: json::Event,
    share: Option<OwnedSemaphorePermit>,
}

impl Thread {
    /// The tree's index now.
    pub(super) fn index(&self) -> u64 {
        tree::current_index(&self.handle().store().read()).0
    }

    /// The headers of an answer about the tree.
    pub(super) async fn headers(&self, index: u64, raft: Option<(LogIndex, Term)>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        if self.dialect() == Dialect::V2 {
            set(&mut headers, "x-etcd-cluster-id", &self.handle().identity().cluster.to_string());
        }
        let (log_index, term) = raft.unwrap_or_else(|| {
            let visible = self.visible.borrow();
            (visible.index, visible.term)
        });
        set(&mut headers, "x-etcd-index", &index.to_string());
        set(&mut headers, "x-raft-index", &log_index.to_string());
        set(&mut headers, "x-raft-term", &term.to_string());
        self.leader_headers(&mut headers).await;
        headers
    }

    /// 0.4 says with each answer where the leader is.
    pub(super) async fn leader_headers(&self, headers: &mut HeaderMap) {
        if self.dialect() == Dialect::V04
            && let Some(leader) = self.leader().await
        {
            set(headers, "x-leader-client-url", &leader.client_url);
            set(headers, "x-leader-peer-url", &leader.peer_url);
        }
    }

    /// A member that has failed, because its data differ from the others' for one, shows nothing of it any more.
    pub(super) fn check_serving(&self) -> Result<(), Error> {
        match self.handle().status().failed {
            None => Ok(()),
            Some(reason) => Err(Error::from(RequestError::Stopped { reason }).at(self.index())),
        }
    }

    /// Waits until this member's tree, users and roles may be shown without asking the others.
    pub(super) async fn may_read(&self) -> Result<(), Error> {
        self.handle().replayed().await.map_err(|error| Error::from(error).at(self.index()))
    }

    /// Reads a node and what is in it.
    pub(super) async fn read(&self, path: tree::Path, recursive: bool) -> Result<Read, Error> {
        self.check_serving()?;
        let index = || self.index();
        let small = tree::Get { path, recursive, bytes_max: SMALL_READ_BYTES_MAX };
        let mut share = None;
        let reply = match tree::get(self.handle().store(), &small) {
            Err(tree::TreeError::ListingTooLarge { .. }) => {
                let large = tree::Get { bytes_max: LISTING_BYTES_MAX, ..small };
                // Closed never: the face outlives its calls.
                share = self.shared.large_reads.clone().acquire_owned().await.ok();
                let read = self.handle().blocking(move |store| tree::get(store, &large)).await;
                read.ok_or_else(|| Error::new(RAFT_INTERNAL, "the member is stopping"))?
            }
            reply => reply,
        };
        let reply = reply.map_err(|error| {
            self.shared.count_read(false);
            Error::from(error).at(index())
        })?;
        let now = unix_nanos(std::time::SystemTime::now());
        let depth = reply.node.path.depth();
        let mut nodes = Vec::with_capacity(1 + reply.below.len());
        for node in std::iter::once(&reply.node).chain(&reply.below) {
            let value = self.value(&node.value).await?;
            nodes.push((node.path.depth() - depth, shown_node(node, value, now)));
        }
        self.shared.count_read(true);
        let event = json::Event { action: "get", node: nested(nodes.into_iter()), previous: None };
        Ok(Read { index: reply.index, event, share })
    }

    /// A value, read where it lies.
    pub(super) async fn value(&self, value: &tree::Value) -> Result<Option<Bytes>, Error> {
        match value {
            tree::Value::Absent => Ok(None),
            tree::Value::Here(value) => Ok(Some(value.clone())),
            tree::Value::At(at) => match self.handle().load(*at).await {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(Error::new(RAFT_INTERNAL, format!("a value can't be read: {error}"))),
            },
        }
    }

    /// Answers a get.
    pub(super) async fn get(&self, head: &request::Parts, path: tree::Path, get: Get, need: &Need) -> Answer {
        if get.consistent
            && let Some(redirect) = self.redirect_to_leader(head, DURING_ELECTION).await?
        {
            return Ok(redirect);
        }
        if get.quorum || get.consistent {
            self.handle().read_index().await.map_err(|error| Error::from(error).at(self.index()))?;
        }
        self.authorise(head, need).await?;
        let Read { index, event, share } = self.read(path, get.recursive).await?;
        let text = event.text(self.dialect());
        let mut response = Response::new(Body::whole(Bytes::from_owner(Held { text, _share: share })));
        *response.headers_mut() = self.headers(index.0, None).await;
        Ok(response)
    }

    /// 0.4's followers answer this way what only the leader may answer. `None`: this machine may.
    pub(super) async fn redirect_to_leader(
        &self,
        head: &request::Parts,
        code_without_leader: u16,
    ) -> Result<Option<Response<Body>>, Error> {
        if self.shared.config.forward || self.handle().status().is_leader {
            return Ok(None);
        }
        match self.leader_client_url(code_without_leader).await {
            Ok(url) => Ok(Some(Self::redirect(&url, head))),
            Err(error) => Err(error.at(self.index())),
        }
    }

    /// Carries a command out: answered once it is committed and applied here.
    pub(super) async fn propose(&self, command: &tree::Command) -> Result<(tree::Reply, Applied), Error> {
        // Before the first change, not beside it: the task that does so at the start may be slower.
        if let Some(begin) = self.shared.beginning() {
            let begun = self.handle().propose(ModelId::TREE, tree::encode(&begin)).await;
            begun.map_err(|error| Error::from(error).at(self.index()))?;
        }
        let outcome = self.handle().propose(ModelId::TREE, tree::encode(command)).await;
        let applied = outcome.map_err(|error| Error::from(error).at(self.index()))?;
        match &applied.reply {
            ModelReply::Tree(reply) => Ok((reply.clone(), applied)),
            ModelReply::Keys(_) | ModelReply::Members(_) => {
                unreachable!("a command of the tree is answered by the tree")
            }
        }
    }

    /// The same for a command that changes a node: the event, with its values.
    pub(super) async fn change(&self, command: &tree::Command) -> Result<(tree::Event, Applied), Error> {
        let (reply, applied) = self.propose(command).await?;
        self.changed(reply, applied).await
    }

    async fn changed(&self, reply: tree::Reply, applied: Applied) -> Result<(tree::Event, Applied), Error> {
        match reply {
            tree::Reply::Changed(event) => {
                let event = self.loaded(&event).await?;
                Ok((event, applied))
            }
            tree::Reply::Refused { index, error } => Err(Error::from(error).at(index.0)),
            tree::Reply::Expired { index, .. }
            | tree::Reply::Began { index }
            | tree::Reply::HistoryWindow { index, .. }
            | tree::Reply::Imported { index }
            | tree::Reply::AuthChanged { index, .. }
            | tree::Reply::Outdated { index, .. } => {
                Err(Error::new(RAFT_INTERNAL, "the answer is not one of a change").at(index.0))
            }
        }
    }

    /// An event with its values in memory.
    pub(super) async fn loaded(&self, event: &tree::Event) -> Result<tree::Event, Error> {
        let on_disk = |node: &tree::Node| matches!(node.value, tree::Value::At(_));
        if !on_disk(&event.node) && !event.previous.as_ref().is_some_and(on_disk) {
            return Ok(event.clone());
        }
        let load = || async {
            let event = event.clone();
            let loaded = self.handle().blocking(move |store| tree::load_event(store, &event)).await;
            loaded.ok_or_else(|| Error::new(RAFT_INTERNAL, "the member is stopping"))
        };
        let mut loaded = load().await?;
        if let Err(tree::TreeError::Unreadable { .. }) = loaded {
            // Reading a damaged value by itself waits for its mending.
            for node in [Some(&event.node), event.previous.as_ref()].into_iter().flatten() {
                if let tree::Value::At(at) = node.value {
                    let _ = self.handle().load(at).await;
                }
            }
            loaded = load().await?;
        }
        loaded.map_err(|error| Error::from(error).at(event.index.0))
    }

    /// The same on a client's behalf. Where users change on the way, the client is judged anew.
    async fn change_for(
        &self,
        head: &request::Parts,
        need: &Need,
        command: tree::Command,
    ) -> Result<(tree::Event, Applied), Error> {
        let mut command = Box::new(command);
        for _ in 0..auth::TRIES_MAX {
            let authority = self.authorise(head, need).await?;
            let carried = tree::Command::Authorised { authority, command };
            let (reply, applied) = self.propose(&carried).await?;
            if !matches!(reply, tree::Reply::Outdated { .. }) {
                return self.changed(reply, applied).await;
            }
            let tree::Command::Authorised { command: again, .. } = carried else {
                unreachable!("it was made two lines above")
            };
            command = again;
        }
        let cause = "users and roles change faster than this can be judged; ask again";
        Err(Error::new(RAFT_INTERNAL, cause).at(self.index()))
    }

    /// Answers a write.
    pub(super) async fn write(
        &self,
        head: &request::Parts,
        path: tree::Path,
        write: Write,
        need: &Need,
    ) -> Answer {
        if let Some(redirect) = self.redirect_to_leader(head, RAFT_INTERNAL).await? {
            return Ok(redirect);
        }
        // To all servers of this protocol the root is no file, where it is compared, before it is read only.
        let compares_root = path.is_root() && matches!(write.change, Change::CompareAndDelete(_));
        let no_file = if self.dialect() == Dialect::V04 { "/" } else { "" };
        let command = command(self.dialect(), path, write.change);
        let changed = self.change_for(head, need, command).await;
        let (event, applied) = changed.map_err(|error| match error.code {
            ROOT_READ_ONLY if compares_root => Error::new(NOT_A_FILE, no_file).at(error.index),
            _ => error,
        })?;
        let mut shown = shown(self.dialect(), &event);
        let status = if shown.created() { StatusCode::CREATED } else { StatusCode::OK };
        if write.no_value && !event.action.deletes() {
            (shown.node, shown.previous) = (None, None);
        }
        let mut response = Response::new(Body::whole(shown.text(self.dialect()).into()));
        *response.status_mut() = status;
        *response.headers_mut() = self.headers(event.index.0, Some((applied.index, applied.term))).await;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use quorate_ids::WallTime;

    use super::*;

    fn path(text: &str) -> tree::Path {
        tree::Path::clean(text.as_bytes()).expect("a path")
    }

    fn node(text: &str) -> json::Node {
        json::Node { key: Bytes::copy_from_slice(text.as_bytes()), ..json::Node::default() }
    }

    fn keys(node: &json::Node) -> String {
        let inner: Vec<String> = node.nodes.iter().map(keys).collect();
        let key = String::from_utf8_lossy(&node.key).into_owned();
        if inner.is_empty() { key } else { format!("{key}({})", inner.join(" ")) }
    }

    #[test]
    fn a_walk_is_put_into_one_another() {
        let walk = ["/", "/a", "/a/b", "/a/b/c", "/a/d", "/e", "/f", "/f/g"];
        let nodes = walk.map(|text| (path(text).depth(), node(text)));
        let root = nested(nodes.into_iter()).expect("a root");
        assert_eq!(keys(&root), "/(/a(/a/b(/a/b/c) /a/d) /e /f(/f/g))");
        assert_eq!(nested([(0, node("/x"))].into_iter()).map(|node| keys(&node)).as_deref(), Some("/x"));
        assert_eq!(nested(std::iter::empty()), None);
    }

    #[test]
    fn compare_causes_name_what_does_not_hold() {
        let value = Some((Bytes::from_static(b"z"), Bytes::from_static(b"1")));
        let index = Some((TreeIndex(9999), TreeIndex(11)));
        for (value, index, cause) in [
            (value.clone(), None, "[z != 1]"),
            (None, index, "[9999 != 11]"),
            (value, index, "[z != 1] [9999 != 11]"),
        ] {
            let error = Error::from(tree::TreeError::CompareFailed(tree::CompareFailure { value, index }));
            assert_eq!((error.code, &*error.cause), (COMPARE_FAILED, cause));
        }
    }

    #[test]
    fn a_directory_whose_lifetime_changed_is_shown_as_each_dialect_shows_it() {
        const SECOND: u64 = 1_000_000_000;
        let dir = tree::Node {
            path: path("/d"),
            dir: true,
            value: tree::Value::Absent,
            created: TreeIndex(4),
            modified: TreeIndex(7),
            expiration: Some(WallTime(60 * SECOND)),
        };
        let before = tree::Node { modified: TreeIndex(4), expiration: None, ..dir.clone() };
        let event = tree::Event {
            action: tree::Action::Update,
            index: TreeIndex(7),
            node: dir,
            previous: Some(before),
            wall_time: WallTime(10 * SECOND),
            refresh: false,
        };
        let text = |dialect| shown(dialect, &event).text(dialect);
        assert_eq!(
            text(Dialect::V04),
            r#"{"action":"update","node":{"key":"/d","value":"","expiration":"1970-01-01T00:01:00Z","ttl":50,"modifiedIndex":7,"createdIndex":4},"prevNode":{"key":"/d","dir":true,"modifiedIndex":4,"createdIndex":4}}"#
        );
        assert!(text(Dialect::V2).contains(r#""node":{"key":"/d","dir":true,"expiration""#));
    }

    #[test]
    fn names_in_order_are_padded_in_one_dialect() {
        let style = |dialect| match command(dialect, path("/q"), Change::CreateInOrder(New::default())) {
            tree::Command::CreateInOrder { style, .. } => style,
            other => panic!("{other:?}"),
        };
        assert_eq!(style(Dialect::V04), tree::NameStyle::Plain);
        assert_eq!(style(Dialect::V2), tree::NameStyle::Padded);
    }
}
