//! What clients ask of the tree: few nodes, so that they get in each other's way.
//!
//! Invariant: every value that is ever written is unique, so that a value names the request that wrote it.

use bytes::Bytes;
use quorate_ids::TreeIndex;
use quorate_models::tree::{
    AuthChange, AuthRevision, Authority, Command, Conditions, Get, ImportedNode, NameStyle, Node, Path, Role,
    User, Value, Write,
};

use crate::rng::Rng;

/// Two parts, and three times the end.
const IMPORT_STEPS: u64 = 5;

/// A request of the tree model.
#[derive(Clone, Debug)]
pub enum TreeWish {
    Command(Command),
    Read { get: Get, linearizable: bool },
}

/// How much of what clients ask is for the tree. A seed has none, some or much of it.
#[derive(Clone, Copy, Debug)]
pub struct TreeMix {
    /// Of a thousand requests; 0: the seed has no tree.
    pub per_mille: u64,
    /// In thousandths of what changes the tree.
    ttl_per_mille: u64,
    /// Events that history keeps, where the seed sets it.
    window: Option<u64>,
    begins_after: u64,
    /// A client begins the tree with one that it brings from elsewhere.
    imports: bool,
    /// Of a thousand changes: those of users and roles, among commands that all name an auth revision. 0: none does.
    auth_per_mille: u64,
}

impl TreeMix {
    /// For a client that asks nothing of the tree.
    #[must_use]
    pub fn none() -> Self {
        Self {
            imports: false,
            per_mille: 0,
            ttl_per_mille: 0,
            window: None,
            begins_after: 0,
            auth_per_mille: 0,
        }
    }

    /// Drawn from the seed itself, apart from all else: a seed without a tree is what it was before there were trees.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x7472_6565);
        let mut auth_rng = Rng::new(seed ^ 0x6175_7468);
        Self {
            imports: Rng::new(seed ^ 0x696d_706f).one_in(3),
            auth_per_mille: *auth_rng.pick(&[0, 0, 20, 200]),
            per_mille: *rng.pick(&[0, 0, 300, 700]),
            ttl_per_mille: *rng.pick(&[0, 100, 500]),
            window: *rng.pick(&[None, None, Some(5), Some(60)]),
            begins_after: *rng.pick(&[0, 3]),
        }
    }
}

/// Draws one client's wishes about the tree.
pub struct TreeWishes {
    rng: Rng,
    /// Apart, so that a seed without users and roles is what it was before there were any.
    auth_rng: Rng,
    /// The auth revision that this client was told of last.
    revision: AuthRevision,
    client: usize,
    mix: TreeMix,
    made: u64,
    /// What is left of an import: steps, the last of which end it.
    import: u64,
    /// A file that this client read last.
    last_read: Option<(Path, Bytes, TreeIndex)>,
}

impl TreeWishes {
    #[must_use]
    pub fn new(seed: u64, client: usize, mix: TreeMix) -> Self {
        let rng = Rng::new(seed ^ 0x7769_7368).fork(client as u64);
        let auth_rng = Rng::new(seed ^ 0x7573_6572).fork(client as u64);
        let import = if mix.imports && client == 0 { IMPORT_STEPS } else { 0 };
        Self {
            rng,
            auth_rng,
            revision: AuthRevision::default(),
            client,
            mix,
            made: 0,
            import,
            last_read: None,
        }
    }

    /// The client was shown these nodes.
    pub fn saw<'a>(&mut self, nodes: impl Iterator<Item = &'a Node>) {
        for node in nodes {
            if let Value::Here(value) = &node.value
                && self.rng.one_in(3)
            {
                self.last_read = Some((node.path.clone(), value.clone(), node.modified));
            }
        }
    }

    /// The client was told of an auth revision.
    pub fn saw_revision(&mut self, revision: AuthRevision) {
        self.revision = revision;
    }

    /// The command as a face would carry it that found `current` in its member's tables; now and then as one that looked
    /// long ago. Some become changes of users and roles.
    pub fn carried(&mut self, command: Command, current: AuthRevision) -> Command {
        if self.mix.auth_per_mille == 0 || !command.is_change() {
            return command;
        }
        let revision = if self.auth_rng.one_in(12) { self.revision } else { current };
        if self.auth_rng.below(1000) < self.mix.auth_per_mille {
            return Command::ChangeAuth { at: revision, change: self.auth_change() };
        }
        let user = self.auth_rng.one_in(2).then(|| format!("u{}", self.auth_rng.below(3)));
        Command::Authorised { authority: Authority { revision, user }, command: Box::new(command) }
    }

    fn auth_change(&mut self) -> AuthChange {
        let rng = &mut self.auth_rng;
        let name = format!("{}", rng.below(4));
        let mut list = |one: &str| {
            rng.one_in(4).then_some(Vec::new()).or_else(|| {
                let len = rng.below(4);
                rng.one_in(2).then(|| (0..len).map(|at| format!("{one}{at}*")).collect())
            })
        };
        let (first, second) = (list("/a"), list("/b"));
        match rng.below(8) {
            0..2 => AuthChange::PutUser(User { name, password: "$2b$04$hash".to_owned(), roles: first }),
            2 => AuthChange::RemoveUser(name),
            3..5 => AuthChange::PutRole(Role { name, read: first, write: second }),
            5 => AuthChange::RemoveRole(name),
            6 => AuthChange::Enable { role: Some(Role { name, read: first, write: second }) },
            _ => AuthChange::Disable,
        }
    }

    fn path(&mut self) -> Path {
        const NAMES: [&str; 4] = ["a", "b", "c", "_h"];
        let depth = self.rng.between(1, 3);
        let names: Vec<&str> = (0..depth).map(|_| *self.rng.pick(&NAMES)).collect();
        Path::clean(names.join("/").as_bytes()).expect("a short path")
    }

    fn write(&mut self, path: Path) -> Write {
        self.made += 1;
        let mut value = format!("{}.{}.", self.client, self.made).into_bytes();
        let len = if self.rng.one_in(6) { self.rng.below(3_000) } else { 0 };
        value.resize(value.len() + len as usize, b'a' + (self.made % 26) as u8);
        let ttl = self.rng.below(1000) < self.mix.ttl_per_mille;
        let ttl_seconds = if ttl { Some(self.rng.below(8)) } else { None };
        let dir = self.rng.one_in(8);
        let refresh = !dir && self.rng.one_in(12);
        let value = if dir || refresh { Bytes::new() } else { Bytes::from(value) };
        Write { path, value, dir, ttl_seconds, refresh }
    }

    /// Conditions that held when this client last looked, or one that never did.
    fn conditions(&mut self, path: Path) -> (Path, Conditions) {
        let Some((seen, value, index)) = self.last_read.clone() else {
            return (path, Conditions { value: Some("never".into()), index: None });
        };
        let by = self.rng.below(3);
        let conditions = Conditions { value: (by != 0).then_some(value), index: (by != 1).then_some(index) };
        (seen, conditions)
    }

    fn command(&mut self) -> Command {
        let path = self.path();
        match self.rng.below(100) {
            0..30 => Command::Set(self.write(path)),
            30..40 => Command::Create(self.write(path)),
            40..48 => {
                let style = *self.rng.pick(&[NameStyle::Plain, NameStyle::Padded]);
                Command::CreateInOrder { write: Write { refresh: false, ..self.write(path) }, style }
            }
            48..58 => Command::Update(self.write(path)),
            58..76 => {
                let (path, conditions) = self.conditions(path);
                Command::CompareAndSwap { write: self.write(path), conditions }
            }
            76..86 => {
                let (path, conditions) = self.conditions(path);
                Command::CompareAndDelete { path, conditions }
            }
            86..97 => Command::Delete { path, dir: self.rng.one_in(2), recursive: self.rng.one_in(2) },
            _ => match self.mix.window {
                Some(events) => Command::SetHistoryWindow { events: self.rng.between(1, events) },
                None => Command::Set(self.write(path)),
            },
        }
    }

    /// The next step of an import: two parts, then its end, asked for more than once where an answer got lost.
    fn importing(&mut self) -> Command {
        self.import -= 1;
        let step = IMPORT_STEPS - self.import;
        if step > 2 {
            return Command::EndImport { index: TreeIndex(40) };
        }
        let node = |name: u64, value: Option<Bytes>| {
            let text = if value.is_some() { format!("/i{step}/f{name}") } else { format!("/i{step}") };
            let path = Path::clean(text.as_bytes()).expect("a short path");
            let index = TreeIndex(step * 10 + name);
            ImportedNode { path, value, created: index, modified: index, expiration: None }
        };
        let files = (1..=3).map(|name| node(name, Some(Bytes::from(format!("imported.{step}.{name}")))));
        Command::Import { nodes: std::iter::once(node(0, None)).chain(files).collect() }
    }

    /// A wish about the tree, where this request is to be one.
    pub fn draw(&mut self) -> Option<TreeWish> {
        if self.mix.per_mille == 0 || self.rng.below(1000) >= self.mix.per_mille {
            return None;
        }
        if self.import > 0 {
            self.made = self.made.max(1);
            return Some(TreeWish::Command(self.importing()));
        }
        if self.made == 0 && self.mix.begins_after > 0 {
            self.made = 1;
            return Some(TreeWish::Command(Command::Begin { index: TreeIndex(self.mix.begins_after) }));
        }
        if self.rng.one_in(3) {
            let path = if self.rng.one_in(3) { Path::root() } else { self.path() };
            let get = Get { path, recursive: self.rng.one_in(2), bytes_max: 64 << 20 };
            return Some(TreeWish::Read { get, linearizable: !self.rng.one_in(3) });
        }
        Some(TreeWish::Command(self.command()))
    }
}
