//! What clients ask for: a seeded mix of commands, reads and watches over few keys, so that they get in each other's way.
//!
//! Invariant: every value that is ever put is unique, so that a value names the request that wrote it.

mod tree;

use bytes::Bytes;
use quorate_ids::Revision;
use quorate_models::keys::{
    Command, Compare, CompareOp, CompareTarget, DeleteRange, Move, Op, Put, RangeEnd, RangeQuery, SortOrder,
    SortTarget, Txn,
};

use crate::rng::Rng;
pub use tree::{TreeMix, TreeWish, TreeWishes};

/// How often each kind of request comes, relative to the others.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub put: u64,
    pub read: u64,
    pub serializable_read: u64,
    pub swap: u64,
    pub count_up: u64,
    pub delete: u64,
    pub compact: u64,
    pub lease: u64,
    pub keys: u64,
    pub value_bytes_max: u64,
    pub ttl_seconds_max: u64,
}

impl Mix {
    /// A mix of its own for each seed; some kinds are left out.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut some = |most: u64| if rng.one_in(5) { 0 } else { rng.below(most) };
        let mix = Self {
            put: 1,
            read: some(30),
            serializable_read: some(15),
            swap: some(20),
            count_up: some(20),
            delete: some(10),
            compact: some(4),
            lease: some(8),
            keys: 0,
            value_bytes_max: 0,
            ttl_seconds_max: 8,
        };
        let keys = *rng.pick(&[1, 5, 20, 200]);
        let value_bytes_max = *rng.pick(&[16, 16, 200, 4_000, 60_000]);
        Self { put: rng.between(10, 40), keys, value_bytes_max, ..mix }
    }

    /// The mix of one that only keeps leases, short ones: cut off together with its leader, it goes on believing that one.
    #[must_use]
    pub fn of_leases() -> Self {
        Self {
            put: 0,
            read: 0,
            serializable_read: 0,
            swap: 0,
            count_up: 0,
            delete: 0,
            compact: 0,
            lease: 1,
            keys: 1,
            value_bytes_max: 16,
            ttl_seconds_max: 2,
        }
    }

    fn total(&self) -> u64 {
        self.put
            + self.read
            + self.serializable_read
            + self.swap
            + self.count_up
            + self.delete
            + self.compact
            + self.lease
    }
}

/// What a client does next.
#[derive(Clone, Debug)]
pub enum Wish {
    Command(Command),
    Read { query: RangeQuery, linearizable: bool },
    KeepAlive { lease: i64 },
}

/// Draws one client's wishes.
pub struct Wishes {
    rng: Rng,
    /// Apart, so that all other wishes are what they were before keys could be moved.
    move_rng: Rng,
    moves: bool,
    client: usize,
    mix: Mix,
    made: u64,
    leases: Vec<i64>,
    /// The newest revision that this client has seen, for reads of the past and for compaction.
    pub seen: Revision,
    /// The key that this client last read, and its mod revision there (0: absent).
    pub last_read: Option<(Bytes, Revision)>,
}

impl Wishes {
    #[must_use]
    pub fn new(rng: Rng, client: usize, mix: Mix) -> Self {
        let mut move_rng = rng.clone().fork(0x6d6f_7665);
        // A third of the clients never moves keys.
        let moves = mix.put > 0 && !move_rng.one_in(3);
        Self {
            rng,
            move_rng,
            moves,
            client,
            mix,
            made: 0,
            leases: Vec::new(),
            seen: Revision(1),
            last_read: None,
        }
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k{:03}", self.rng.below(self.mix.keys)))
    }

    fn end(&mut self) -> RangeEnd {
        match self.rng.below(4) {
            0 => RangeEnd::Unbounded,
            1 => RangeEnd::Before(self.key()),
            _ => RangeEnd::Single,
        }
    }

    fn value(&mut self) -> Bytes {
        self.made += 1;
        let mut value = format!("{}.{}.", self.client, self.made).into_bytes();
        let len = if self.rng.one_in(4) { self.rng.below(self.mix.value_bytes_max) } else { 0 };
        value.resize(value.len() + len as usize, b'a' + (self.made % 26) as u8);
        Bytes::from(value)
    }

    fn put(&mut self) -> Put {
        let lease =
            if !self.leases.is_empty() && self.rng.one_in(4) { *self.rng.pick(&self.leases) } else { 0 };
        let ignore_value = self.rng.one_in(20);
        let ignore_lease = lease == 0 && self.rng.one_in(20);
        let value = if ignore_value { Bytes::new() } else { self.value() };
        Put { key: self.key(), value, lease, prev_kv: self.rng.one_in(3), ignore_value, ignore_lease }
    }

    fn query(&mut self) -> RangeQuery {
        let revision = if self.rng.one_in(5) {
            Revision(self.rng.between(1, self.seen.0.max(1)))
        } else {
            Revision::ZERO
        };
        RangeQuery {
            key: self.key(),
            end: self.end(),
            limit: if self.rng.one_in(5) { self.rng.between(1, 5) } else { 0 },
            revision,
            sort_order: if self.rng.one_in(8) { SortOrder::Descend } else { SortOrder::None },
            sort_target: SortTarget::Key,
            keys_only: self.rng.one_in(8),
            count_only: self.rng.one_in(8),
            min_mod_revision: Revision::ZERO,
            max_mod_revision: Revision::ZERO,
            min_create_revision: Revision::ZERO,
            max_create_revision: Revision::ZERO,
        }
    }

    /// A put if the key is as this client last read it.
    fn swap(&mut self) -> Command {
        let Some((key, at)) = self.last_read.clone() else { return Command::Put(self.put()) };
        let target = CompareTarget::Mod(at.0 as i64);
        let put = Put { key: key.clone(), lease: 0, ignore_value: false, ignore_lease: false, ..self.put() };
        let value = if put.value.is_empty() { self.value() } else { put.value.clone() };
        let read =
            RangeQuery { key: key.clone(), end: RangeEnd::Single, revision: Revision::ZERO, ..self.query() };
        Command::Txn(Txn {
            compare: vec![Compare { key, end: RangeEnd::Single, op: CompareOp::Equal, target }],
            success: vec![Op::Put(Put { value, ..put })],
            failure: vec![Op::Range(read)],
        })
    }

    /// Several changes in one revision, under a compare of many keys, sometimes nested.
    fn count_up(&mut self) -> Command {
        let counter = Bytes::from(format!("n{}", self.rng.below(3)));
        let mut put = self.put();
        put.key = counter.clone();
        put.ignore_value = false;
        put.ignore_lease = false;
        if put.value.is_empty() {
            put.value = self.value();
        }
        let version = self.rng.below(50) as i64;
        let target = match self.rng.below(3) {
            0 => CompareTarget::Version(version),
            1 => CompareTarget::Create(self.seen.0 as i64 / 2),
            _ => CompareTarget::Value(Bytes::from(format!("{}", self.rng.below(10)))),
        };
        let end =
            if self.rng.one_in(3) { RangeEnd::Before(Bytes::from_static(b"z")) } else { RangeEnd::Single };
        let op =
            *self.rng.pick(&[CompareOp::Equal, CompareOp::Greater, CompareOp::Less, CompareOp::NotEqual]);
        let delete = DeleteRange {
            key: Bytes::from_static(b"k"),
            end: RangeEnd::Before(Bytes::from_static(b"k003")),
            prev_kv: self.rng.one_in(2),
        };
        let query = self.query();
        let query = RangeQuery { revision: Revision::ZERO, ..query };
        let mut success = vec![Op::Put(put.clone()), Op::Range(query.clone())];
        if self.rng.one_in(3) {
            success.push(Op::DeleteRange(delete));
        }
        let inner = Txn { compare: Vec::new(), success: vec![Op::Range(query)], failure: Vec::new() };
        let failure = vec![Op::Put(put), Op::Txn(Box::new(inner))];
        Command::Txn(Txn { compare: vec![Compare { key: counter, end, op, target }], success, failure })
    }

    /// Whether all that it asks for is about leases.
    #[must_use]
    pub fn only_keeps(&self) -> bool {
        self.mix.put == 0
    }

    /// A keep-alive came to nothing. One that only keeps leases leaves them to themselves then, so that nothing but what it
    /// was told last keeps them alive.
    pub fn lost_touch(&mut self) {
        if self.only_keeps() {
            self.leases.clear();
        }
    }

    fn lease(&mut self) -> Wish {
        let keeps = self.only_keeps() && !self.leases.is_empty() && !self.rng.one_in(1_000);
        if keeps || (!self.leases.is_empty() && self.rng.one_in(2)) {
            return Wish::KeepAlive { lease: *self.rng.pick(&self.leases) };
        }
        if !self.leases.is_empty() && self.rng.one_in(3) {
            let at = self.rng.below(self.leases.len() as u64) as usize;
            return Wish::Command(Command::LeaseRevoke { id: self.leases.swap_remove(at) });
        }
        self.made += 1;
        let id = (self.client as i64 + 1) << 32 | self.made as i64;
        self.leases.push(id);
        if self.leases.len() > 8 {
            self.leases.remove(0);
        }
        Wish::Command(Command::LeaseGrant {
            id,
            ttl_seconds: self.rng.between(1, self.mix.ttl_seconds_max) as i64,
        })
    }

    /// All keys that begin one way begin another way from then on.
    fn moving(&mut self) -> Command {
        let rng = &mut self.move_rng;
        let mut prefix = || {
            let text = format!("k{:03}", rng.below(self.mix.keys));
            Bytes::copy_from_slice(&text.as_bytes()[..rng.between(2, 4) as usize])
        };
        let (from, to) = (prefix(), prefix());
        let count = rng.one_in(5).then(|| rng.below(4));
        Command::Move(Move { from, to, replace: rng.one_in(2), count })
    }

    pub fn draw(&mut self) -> Wish {
        if self.moves && self.move_rng.one_in(40) {
            return Wish::Command(self.moving());
        }
        let mix = self.mix;
        let mut at = self.rng.below(mix.total());
        let mut falls = |weight: u64| {
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        };
        if falls(mix.put) {
            return Wish::Command(Command::Put(self.put()));
        }
        if falls(mix.read) {
            return Wish::Read { query: self.query(), linearizable: true };
        }
        if falls(mix.serializable_read) {
            return Wish::Read { query: self.query(), linearizable: false };
        }
        if falls(mix.swap) {
            return Wish::Command(self.swap());
        }
        if falls(mix.count_up) {
            return Wish::Command(self.count_up());
        }
        if falls(mix.delete) {
            let delete = DeleteRange { key: self.key(), end: self.end(), prev_kv: self.rng.one_in(3) };
            return Wish::Command(Command::DeleteRange(delete));
        }
        if falls(mix.compact) {
            let to = self.seen.0.saturating_sub(self.rng.below(30)).max(1);
            return Wish::Command(Command::Compact { revision: Revision(to) });
        }
        self.lease()
    }
}
