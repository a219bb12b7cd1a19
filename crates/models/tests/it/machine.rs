//! One member's tables and model, driven command by command.

use std::sync::Arc;

use bytes::Bytes;
use quorate_disk::MemoryDisk;
use quorate_ids::{ClusterId, ClusterTime, Incarnation, LogIndex, MemberId, Revision, Term, WallTime};
use quorate_models::keys::watch::RevisionEvents;
use quorate_models::keys::{self, Command, DeleteRange, Keys, Put, RangeEnd, RangeQuery, RangeReply, Reply};
use quorate_models::{Cursor, Stamps, Step};
use quorate_store::{CheckpointMeta, Identity, RewriteStep, Store, StoreConfig, Unpaced};

pub struct Machine {
    pub store: Store,
    pub keys: Keys,
    pub index: u64,
    pub term: u64,
    pub events: Vec<Arc<RevisionEvents>>,
    /// Slices that the last command took.
    pub slices: usize,
    /// Bodies that had to be loaded for commands.
    pub loaded: usize,
}

impl Machine {
    pub fn new() -> Self {
        Self::over(Store::in_memory())
    }

    /// A member whose bodies leave memory with each checkpoint.
    pub fn cold() -> Self {
        let config =
            StoreConfig { body_cache_bytes: 0, segment_bytes_max: 16 << 10, ..StoreConfig::default() };
        let identity = Identity { cluster: ClusterId(1), member: MemberId(1), incarnation: Incarnation(1) };
        Self::over(Store::create(Arc::new(MemoryDisk::new()), config, identity, 0).expect("a store"))
    }

    pub fn checkpoint(&mut self) {
        let meta = CheckpointMeta { applied_index: LogIndex(self.index), ..CheckpointMeta::default() };
        let frozen = self.store.write().freeze(meta).expect("no front is frozen yet");
        self.store.checkpoint(&frozen, &mut Unpaced).expect("a checkpoint");
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

    fn over(store: Store) -> Self {
        let keys = Keys::open(&store.read());
        Self { store, keys, index: 0, term: 1, events: Vec::new(), slices: 0, loaded: 0 }
    }

    pub fn apply(&mut self, command: &Command) -> Reply {
        self.apply_with(command, &mut |_, _| {})
    }

    /// Applies a command; `between` runs between its slices.
    pub fn apply_with(&mut self, command: &Command, between: &mut dyn FnMut(&Store, &mut Keys)) -> Reply {
        let encoded = keys::encode(command);
        assert_eq!(keys::decode(&encoded).as_ref(), Ok(command), "a command comes back from its bytes");
        self.index += 1;
        let stamps = Stamps {
            index: LogIndex(self.index),
            term: Term(self.term),
            cluster_time: ClusterTime(self.index * 1000),
            wall_time: WallTime(0),
        };
        let mut cursor = Cursor::default();
        self.store.write().begin(stamps.index);
        self.slices = 0;
        let reply = loop {
            let step = self.keys.apply(&mut self.store.write(), command, &stamps, &mut cursor);
            self.slices += 1;
            match step {
                Step::Done(reply) => break reply,
                Step::More => between(&self.store, &mut self.keys),
                Step::Need(bodies) => {
                    assert!(!bodies.is_empty(), "a need names bodies");
                    self.loaded += bodies.len();
                    for at in bodies {
                        cursor.loaded.insert(at, self.store.load(at).expect("a body"));
                    }
                }
            }
        };
        self.events.extend(self.keys.take_events());
        reply
    }

    pub fn range(&self, query: &RangeQuery) -> RangeReply {
        keys::range(&self.store, query).expect("a range that can be read")
    }

    pub fn put(&mut self, key: &str, value: &str) -> Reply {
        self.apply(&Command::Put(put(key, value)))
    }

    pub fn delete(&mut self, key: &str, end: RangeEnd) -> Reply {
        self.apply(&Command::DeleteRange(DeleteRange { key: bytes(key), end, prev_kv: true }))
    }

    pub fn compact_fully(&mut self) {
        while self.keys.compact_step(&mut self.store.write(), 3) {}
    }

    pub fn hashes(&self) -> Vec<u128> {
        let tables = self.store.read();
        keys::HASHED_TABLES.iter().map(|table| tables.hash(*table)).collect()
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> Put {
    Put {
        key: bytes(key),
        value: bytes(value),
        lease: 0,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }
}

pub fn at(query: RangeQuery, revision: u64) -> RangeQuery {
    RangeQuery { revision: Revision(revision), ..query }
}
