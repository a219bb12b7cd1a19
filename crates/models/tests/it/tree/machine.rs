//! One member's tables and tree, driven command by command, beside the reference.

use std::sync::Arc;

use bytes::Bytes;
use quorate_disk::{Disk, MemoryDisk};
use quorate_ids::{ClusterId, ClusterTime, Incarnation, LogIndex, MemberId, Term, TreeIndex, WallTime};
use quorate_models::tree::{
    self, Command, Event, Get, Node, Path, Reply, Tree, TreeError, Value, Write, load_event, load_value,
};
use quorate_models::{Cursor, Stamps, Step};
use quorate_store::{CheckpointMeta, Identity, RewriteStep, Store, StoreConfig, Unpaced};

use super::reference::Reference;

const IDENTITY: Identity =
    Identity { cluster: ClusterId(1), member: MemberId(1), incarnation: Incarnation(1) };

pub struct Machine {
    disk: Arc<dyn Disk>,
    pub store: Store,
    pub tree: Tree,
    pub reference: Reference,
    pub log_index: u64,
    pub term: u64,
    pub seconds: u64,
    pub events: Vec<Arc<Event>>,
    /// Records that a slice may touch.
    pub slice_records: usize,
    /// Slices of the last command.
    pub slices: usize,
    /// The member starts anew between any two slices.
    pub restarts: bool,
}

/// Bodies leave memory with each checkpoint.
fn config() -> StoreConfig {
    StoreConfig { body_cache_bytes: 0, segment_bytes_max: 16 << 10, ..StoreConfig::default() }
}

impl Machine {
    pub fn new() -> Self {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let store = Store::create(disk.clone(), config(), IDENTITY, 0).expect("a store");
        let tree = Tree::open(&store.read());
        Self {
            disk,
            store,
            tree,
            reference: Reference::default(),
            log_index: 0,
            term: 1,
            seconds: 0,
            events: Vec::new(),
            slice_records: quorate_models::SLICE_RECORDS_MAX,
            slices: 0,
            restarts: false,
        }
    }

    pub fn stamps(&self) -> Stamps {
        Stamps {
            index: LogIndex(self.log_index),
            term: Term(self.term),
            cluster_time: ClusterTime(self.seconds * 1_000_000_000),
            wall_time: WallTime((1_700_000_000 + self.seconds) * 1_000_000_000),
        }
    }

    /// Applies a command here and to the reference, and compares all there is to compare.
    pub fn apply(&mut self, command: &Command) -> Reply {
        self.apply_with(command, &mut |_, _| {})
    }

    /// As [`Self::apply`]; `between` runs between slices.
    pub fn apply_with(&mut self, command: &Command, between: &mut dyn FnMut(&Store, &Reference)) -> Reply {
        let encoded = tree::encode(command);
        assert_eq!(tree::decode(&encoded).as_ref(), Ok(command), "a command comes back from its bytes");
        self.log_index += 1;
        let stamps = self.stamps();
        let expected = self.reference.apply(command, &stamps);
        let mut cursor = Cursor::default();
        self.store.write().begin(stamps.index);
        self.slices = 0;
        self.tree.slice_records(self.slice_records);
        let reply = loop {
            let step = self.tree.apply(&mut self.store.write(), command, &stamps, &mut cursor);
            self.slices += 1;
            match step {
                Step::Done(reply) => break reply,
                Step::More => {
                    between(&self.store, &self.reference);
                    if self.restarts {
                        self.events.extend(self.tree.take_events());
                        self.tree = Tree::open(&self.store.read());
                        self.tree.slice_records(self.slice_records);
                    }
                }
                Step::Need(bodies) => {
                    assert!(!bodies.is_empty(), "a need names bodies");
                    for at in bodies {
                        cursor.loaded.insert(at, self.store.load(at).expect("a body"));
                    }
                }
            }
        };
        self.events.extend(self.tree.take_events());
        let reply = self.loaded(reply);
        assert_eq!(reply, expected, "{command:?}");
        reply
    }

    fn loaded(&self, reply: Reply) -> Reply {
        match reply {
            Reply::Changed(event) => {
                Reply::Changed(Arc::new(load_event(&self.store, &event).expect("values")))
            }
            other => other,
        }
    }

    pub fn get(&self, path: &str, recursive: bool) -> Result<(TreeIndex, Node, Vec<Node>), TreeError> {
        read(&self.store, &path_of(path), recursive)
    }

    /// Everything that clients can see equals what the reference has.
    pub fn compare(&self) {
        compare(&self.store, &self.reference);
        let tables = self.store.read();
        assert_eq!(tables.len(quorate_models::tables::TREE_ORPHANS), 0, "nothing that was cut off is left");
        for table in tree::HASHED_TABLES {
            assert_eq!(tables.hash(table), tables.rehash(table));
        }
    }

    pub fn checkpoint(&mut self) {
        let meta = CheckpointMeta { applied_index: LogIndex(self.log_index), ..CheckpointMeta::default() };
        let frozen = self.store.write().freeze(meta).expect("no front is frozen yet");
        self.store.checkpoint(&frozen, &mut Unpaced).expect("a checkpoint");
    }

    /// The member stops and starts again from its last checkpoint, which the caller has just made.
    pub fn restart(&mut self) {
        let (store, _) = Store::open(self.disk.clone(), config(), IDENTITY, 0).expect("the store opens");
        self.store = store;
        self.tree = Tree::open(&self.store.read());
    }

    /// Moves the live records out of segments that are mostly dead, and gives those up.
    pub fn rewrite(&mut self) {
        for _ in 0..20 {
            match self.store.rewrite_step(8 << 10).expect("rewriting") {
                RewriteStep::Idle => break,
                RewriteStep::Damaged { .. } => panic!("nothing is damaged"),
                RewriteStep::Full | RewriteStep::More { .. } | RewriteStep::Vacated { .. } => {
                    self.checkpoint()
                }
            }
        }
        self.store.collect().expect("collected");
    }
}

pub fn read(store: &Store, path: &Path, recursive: bool) -> Result<(TreeIndex, Node, Vec<Node>), TreeError> {
    let get = Get { path: path.clone(), recursive, bytes_max: 64 << 20 };
    let reply = tree::get(store, &get)?;
    let load = |node: Node| {
        let value = match &node.value {
            Value::Absent => Value::Absent,
            value => Value::Here(load_value(store, value).expect("a value")),
        };
        Node { value, ..node }
    };
    Ok((reply.index, load(reply.node), reply.below.into_iter().map(load).collect()))
}

/// What readers of `store` see is what the reference has.
pub fn compare(store: &Store, reference: &Reference) {
    let (index, node, below) = read(store, &Path::root(), true).expect("the root");
    assert_eq!(index, reference.index());
    assert_eq!((node, below), reference.get(&Path::root(), true).expect("the root"));
    let (start, events) = {
        let tables = store.read();
        assert_eq!(tree::statistics(&tables), reference.statistics);
        assert_eq!(tree::current_index(&tables), reference.index());
        let start = tree::history_start(&tables);
        (start, tree::events(&tables, start, usize::MAX).expect("history from its start"))
    };
    assert_eq!(start, reference.history_start());
    compare_users(store, reference);
    let events: Vec<Event> = events.iter().map(|event| load_event(store, event).expect("values")).collect();
    let expected: Vec<Event> = reference.events.range(start.0..).map(|(_, event)| event.clone()).collect();
    assert_eq!(events, expected);
}

fn compare_users(store: &Store, reference: &Reference) {
    let tables = store.read();
    let state = tree::auth_state(&tables);
    let auth = &reference.auth;
    assert_eq!((state.revision.0, state.enabled), (auth.revision, auth.enabled));
    assert_eq!((state.users, state.roles), (auth.users.len() as u64, auth.roles.len() as u64));
    assert!(tree::user_names(&tables).iter().eq(auth.users.keys()));
    assert!(tree::role_names(&tables).iter().eq(auth.roles.keys()));
    for (name, user) in &auth.users {
        assert_eq!(tree::user(&tables, name).as_ref(), Some(user));
    }
    for (name, role) in &auth.roles {
        assert_eq!(tree::role(&tables, name).as_ref(), Some(role));
    }
    assert_eq!((tree::user(&tables, "none"), tree::role(&tables, "none")), (None, None));
}

pub fn path_of(text: &str) -> Path {
    Path::clean(text.as_bytes()).expect("a path")
}

pub fn file(path: &str, value: &str) -> Write {
    Write::file(path_of(path), Bytes::copy_from_slice(value.as_bytes()))
}

pub fn directory(path: &str) -> Write {
    Write { dir: true, ..file(path, "") }
}
