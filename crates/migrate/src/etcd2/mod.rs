//! The data folder of etcd 2.x, and of 3.x: `wal/SEQUENCE-INDEX.wal` and `snap/TERM-INDEX.snap`.
//!
//! The tree of users is what the store has below `/1`; below `/0` the cluster notes its members, below `/2` users and
//! roles.

mod apply;
mod in_use;
mod records;
mod snapshot;
mod wal;

use std::path::Path;

use self::apply::Applier;
use crate::error::Error;
use crate::replay::Store;
use crate::{Kind, Log, Source};

const CLUSTER: &[u8] = b"/0";
const USERS_TREE: &[u8] = b"/1";
const AUTH: &[u8] = b"/2";
const FIXED: [&[u8]; 2] = [CLUSTER, USERS_TREE];

/// Reads the folder that has `wal` and `snap`; `wal`: where the log is, if it is elsewhere.
pub(crate) fn read(folder: &Path, wal: Option<&Path>) -> Result<Source, Error> {
    let mut notes = Vec::new();
    let own = folder.join("wal");
    let wal = wal.unwrap_or(&own);
    in_use::check(wal)?;
    let found = snapshot::newest(&folder.join("snap"), &mut notes)?;
    let (mut through, store) = match found {
        None => (Log::default(), Store::new(&FIXED)),
        Some(found) => {
            (Log { snapshot: found.index, term: found.term, index: found.index, committed: 0 }, found.store)
        }
    };
    let log = wal::read(wal, through.snapshot, &mut notes)?;
    through.committed = log.committed.max(through.snapshot);
    let mut applier = Applier::new(store);
    applier.look_ahead(log.entries.iter().filter(|entry| entry.index > through.snapshot));
    let mut last = through.snapshot;
    for entry in log.entries.iter().filter(|entry| entry.index > through.snapshot) {
        if entry.index != last + 1 {
            let detail = format!(
                "entry {} in {} follows after entry {last}, where the snapshot or the log before it ends",
                entry.index,
                log.files[entry.file].display()
            );
            return Err(Error::Incomplete { what: "entries", detail });
        }
        applier.apply(entry).map_err(|fault| fault.at(&log.files[entry.file], entry.offset))?;
        last = entry.index;
        (through.term, through.index) = (entry.term, entry.index);
    }
    notes.extend(applier.notes());
    let store = applier.store;
    if store.below(AUTH).next().is_some() {
        notes.push("users and roles of the v2 API are not taken over; create them again".to_owned());
    }
    let nodes = store.nodes(USERS_TREE, |_| false);
    Ok(Source { kind: Kind::V2, nodes, index: store.index, log: through, notes })
}
