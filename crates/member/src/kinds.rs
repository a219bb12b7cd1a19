//! Which kinds of commands a cluster may have in its log.
//!
//! A member that meets a kind that it does not know stops applying; so one is proposed only once every member knows it.
//! Programs have a *level*, and [`TABLE`] says since which level programs know each kind. Members tell each other their
//! levels, all the time; one that has told none is of [`Level::BASE`], as the programs are that came before this rule. The
//! cluster's level is the least of its members'. The leader refuses what is beyond it, and a follower passes nothing on
//! that its leader would not know. Adding a kind, or a version of one: a row here, at a level of its own.
//!
//! Invariant: what a member tells of itself is what its [`TABLE`] goes up to, so a kind is in no log before all of its
//! members could apply it. (One that is added later and is older stops, and says so.)

use bytes::Bytes;
use quorate_models::{ModelId, tree};

/// How much of what may stand in a log a program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(pub u16);

impl Level {
    /// Everything that there was before members told each other their levels.
    pub const BASE: Self = Self(1);
}

/// Kinds of commands from one number to another, in one version, and since when programs know them.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub model: ModelId,
    pub first: u8,
    pub last: u8,
    pub version: u8,
    pub since: Level,
}

const fn row(model: ModelId, first: u8, last: u8, version: u8, since: Level) -> Row {
    Row { model, first, last, version, since }
}

/// See the module. The numbers are those of `docs/formats`.
pub const TABLE: &[Row] = &[
    row(ModelId::KEYS, 1, 8, 1, Level::BASE),
    row(ModelId::KEYS, 10, 10, 1, Level::BASE),
    row(ModelId::TREE, 1, 12, 1, Level::BASE),
    row(ModelId::TREE, 20, 21, 1, Level::BASE),
    // Version and code stand the other way round in a membership request.
    row(ModelId::MEMBER, 1, 8, 1, Level::BASE),
];

/// What one program knows, and since which level.
#[derive(Clone, Copy, Debug)]
pub struct Kinds {
    pub table: &'static [Row],
    /// The level of this program.
    pub own: Level,
}

impl Default for Kinds {
    fn default() -> Self {
        let own = TABLE.iter().map(|row| row.since).max().unwrap_or(Level::BASE);
        Self { table: TABLE, own }
    }
}

impl Kinds {
    /// The level that a command needs; `None`: this program does not know it.
    #[must_use]
    pub fn needs(&self, model: ModelId, command: &Bytes) -> Option<Level> {
        let (kind, version) = match *command.get(..2)? {
            [version, code] if model == ModelId::MEMBER => (code, version),
            [kind, version] => (kind, version),
            _ => return None,
        };
        let outer = self.since(model, kind, version)?;
        // A command of the tree may carry another one.
        match tree::carried(command).filter(|_| model == ModelId::TREE) {
            Some((kind, version)) => Some(outer.max(self.since(model, kind, version)?)),
            None => Some(outer),
        }
    }

    fn since(&self, model: ModelId, kind: u8, version: u8) -> Option<Level> {
        let is_it = |row: &&Row| {
            row.model == model && (row.first..=row.last).contains(&kind) && row.version == version
        };
        self.table.iter().find(is_it).map(|row| row.since).filter(|since| *since <= self.own)
    }
}

#[cfg(test)]
mod tests {
    use quorate_ids::{MemberId, Revision};
    use quorate_models::{keys, tree};

    use super::*;
    use crate::membership::MembershipRequest;

    #[test]
    fn every_command_that_there_is_has_its_row() {
        let known = |model, command: Bytes| Kinds::default().needs(model, &command);
        let compact = keys::encode(&keys::Command::Compact { revision: Revision(1) });
        assert_eq!(known(ModelId::KEYS, compact), Some(Level::BASE));
        let begin = tree::Command::Begin { index: quorate_ids::TreeIndex(1) };
        assert_eq!(known(ModelId::TREE, tree::encode(&begin)), Some(Level::BASE));
        let remove = MembershipRequest::Remove { id: MemberId(1) };
        assert_eq!(known(ModelId::MEMBER, remove.encode()), Some(Level::BASE));
        for (model, first, version) in [(ModelId::KEYS, 9, 1), (ModelId::TREE, 13, 1), (ModelId::TREE, 1, 2)]
        {
            assert_eq!(known(model, vec![first, version].into()), None, "{first} {version}");
        }
        assert_eq!(known(ModelId::MEMBER, vec![1, 9].into()), None);
        assert_eq!(known(ModelId(9), vec![1, 1].into()), None);
        for short in [&[][..], &[1]] {
            assert_eq!(known(ModelId::KEYS, Bytes::copy_from_slice(short)), None);
        }
    }

    #[test]
    fn what_a_command_carries_counts_too() {
        const CARRIED_IS_NEW: &[Row] =
            &[row(ModelId::TREE, 20, 20, 1, Level(1)), row(ModelId::TREE, 6, 6, 1, Level(2))];
        let delete = tree::Command::Delete {
            path: tree::Path::clean(b"/a").expect("a path"),
            dir: false,
            recursive: false,
        };
        let authority = tree::Authority { revision: tree::AuthRevision(300), user: Some("u".to_owned()) };
        let carried = tree::encode(&tree::Command::Authorised { authority, command: Box::new(delete) });
        let needs = |own| Kinds { table: CARRIED_IS_NEW, own }.needs(ModelId::TREE, &carried);
        assert_eq!((needs(Level(2)), needs(Level(1))), (Some(Level(2)), None));
    }
}
