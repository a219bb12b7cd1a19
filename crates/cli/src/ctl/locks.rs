//! Looking at locks, and taking them away.

use anyhow::bail;
use clap::Subcommand;
use quorate::client::Client;
use quorate::storage::{Cluster, LockState, force_unlock, inspect_lock, list_locks};
use serde_json::json;

use super::json;
use super::lease;
use super::printer::{Output, Printer};
use super::table::Table;

#[derive(Debug, Subcommand)]
pub enum LockAction {
    /// The locks that are held, and by whom: those whose names begin with PREFIX.
    Ls {
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Take a lock away from its holder. Commits under its fencing token fail from then on.
    Unlock {
        name: String,
        /// Only if this lease holds it, as 'ls' shows it.
        #[arg(long, value_parser = lease::id)]
        lease: Option<i64>,
    },
}

impl LockAction {
    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let storage = Cluster::new(client.clone());
        match self {
            Self::Ls { prefix } => show(&list_locks(&storage, prefix.as_bytes()).await?, out),
            Self::Unlock { name, lease } => unlock(&storage, &name, lease, out).await,
        }
    }
}

fn show(locks: &[LockState], out: &mut Printer) -> anyhow::Result<()> {
    if out.output() == Output::Json {
        return out.json(&json!({ "locks": locks.iter().map(as_json).collect::<Vec<_>>() }));
    }
    let mut table = Table::new(&["NAME", "OWNER", "LEASE", "TOKEN", "SECONDS LEFT", "WAITING"]);
    for lock in locks {
        let cells = cells(lock);
        if out.output() == Output::Table {
            table.row(cells);
        } else {
            out.line(cells.join(", "))?;
        }
    }
    if out.output() == Output::Table { out.table(&table) } else { Ok(()) }
}

fn cells(lock: &LockState) -> [String; 6] {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    [
        text(&lock.name),
        text(&lock.holder.owner),
        lease::shown(lock.holder.lease),
        lock.holder.token.number().to_string(),
        lock.seconds_left.map_or_else(|| "ended".to_owned(), |seconds| seconds.to_string()),
        lock.waiting.to_string(),
    ]
}

fn as_json(lock: &LockState) -> serde_json::Value {
    json!({
        "name": json::base64(&lock.name),
        "owner": json::base64(&lock.holder.owner),
        "lease": lock.holder.lease,
        "token": lock.holder.token.number(),
        "seconds_left": lock.seconds_left,
        "waiting": lock.waiting,
    })
}

async fn unlock(storage: &Cluster, name: &str, lease: Option<i64>, out: &mut Printer) -> anyhow::Result<()> {
    let Some(found) = inspect_lock(storage, name.as_bytes()).await? else {
        bail!("nobody holds the lock {name:?}");
    };
    if let Some(lease) = lease.filter(|lease| *lease != found.holder.lease) {
        bail!(
            "the lock {name:?} is held by lease {}, not {}; nothing was done",
            lease::shown(found.holder.lease),
            lease::shown(lease)
        );
    }
    // From whom it was shown to be held, and nobody else: another may have it by now.
    match force_unlock(storage, name.as_bytes(), Some(&found.holder.token)).await? {
        Some(holder) => {
            let text = format!("lock {name} taken from lease {}", lease::shown(holder.lease));
            out.either(text, &as_json(&found))
        }
        None => bail!("the lock {name:?} changed hands meanwhile; look again with 'lock ls'"),
    }
}
