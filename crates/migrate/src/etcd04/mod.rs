//! The data folder of etcd 0.3 and 0.4: `log`, `conf`, and `snapshot/TERM_INDEX.ss`.

mod commands;
mod log;
mod snapshot;

use std::path::Path;

use serde::Deserialize;

use self::commands::Machines;
use crate::error::{Error, Fault};
use crate::replay::Store;
use crate::{Kind, Log, Source};

/// Where the cluster noted its own machines; they are no machines of the cluster that the tree moves to.
const OF_THE_CLUSTER: [&[u8]; 2] = [b"/_etcd/machines", b"/_etcd/standbys"];

#[derive(Deserialize)]
struct Conf {
    #[serde(rename = "commitIndex")]
    commit_index: u64,
}

pub(crate) fn read(folder: &Path) -> Result<Source, Error> {
    let mut notes = Vec::new();
    let found = snapshot::newest(&folder.join("snapshot"), &mut notes)?;
    let mut through = Log { committed: committed(&folder.join("conf"))?, ..Log::default() };
    let mut store = match found {
        None => Store::new(&[]),
        Some(found) => {
            (through.snapshot, through.term, through.index) = (found.index, found.term, found.index);
            found.store
        }
    };
    let file = folder.join("log");
    let entries = log::read(&file, &mut notes)?;
    if let Some(first) = entries.first().filter(|first| first.index > through.snapshot + 1) {
        let detail = format!(
            "{} begins at entry {}, and the snapshot in {} ends at entry {}",
            file.display(),
            first.index,
            folder.join("snapshot").display(),
            through.snapshot
        );
        return Err(Error::Incomplete { what: "its beginning", detail });
    }
    let mut machines = Machines::default();
    for entry in entries.into_iter().filter(|entry| entry.index > through.snapshot) {
        commands::apply(&mut store, &mut machines, &entry.name, &entry.command)
            .map_err(|fault| fault.at(&file, entry.offset))?;
        (through.term, through.index) = (entry.term, entry.index);
    }
    let is_of_the_cluster = |path: &[u8]| {
        OF_THE_CLUSTER
            .iter()
            .any(|own| path.strip_prefix(*own).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'))
    };
    let nodes = store.nodes(b"", is_of_the_cluster);
    Ok(Source { kind: Kind::V04, nodes, index: store.index, log: through, notes })
}

/// How far the machine had noted entries as committed. It did so seldom.
fn committed(file: &Path) -> Result<u64, Error> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::io("reading", file)(error)),
    };
    let conf: Conf =
        serde_json::from_slice(&text).map_err(|error| Fault::malformed("the file", error).at(file, 0))?;
    Ok(conf.commit_index)
}
