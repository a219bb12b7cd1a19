//! Leases.

use anyhow::bail;
use clap::{Args, Subcommand};
use quorate::client::{Client, ErrorKind};
use serde_json::json;

use super::json::{self, Object};
use super::printer::{Output, Printer};
use super::table::Table;

/// A lease's id as it is given: hexadecimal.
pub fn id(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    i64::from_str_radix(digits, 16).map_err(|_| "must be a lease's id, in hexadecimal".to_owned())
}

/// A lease's id as it is shown.
pub fn shown(id: i64) -> String {
    format!("{id:016x}")
}

#[derive(Debug, Subcommand)]
pub enum Lease {
    /// Grant a lease.
    Grant {
        /// Time to live, in seconds.
        ttl: i64,
    },
    /// End a lease: its keys are deleted.
    Revoke {
        #[arg(value_parser = id)]
        id: i64,
    },
    /// How long a lease has left.
    Timetolive {
        #[arg(value_parser = id)]
        id: i64,
        /// Its keys, too.
        #[arg(long)]
        keys: bool,
    },
    /// All leases.
    List,
    /// Keep a lease alive until interrupted.
    KeepAlive(KeepAlive),
}

#[derive(Debug, Args)]
pub struct KeepAlive {
    #[arg(value_parser = id)]
    id: i64,
    /// Only once.
    #[arg(long)]
    once: bool,
}

impl Lease {
    pub fn has_table(&self) -> bool {
        matches!(self, Self::List)
    }

    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        match self {
            Self::Grant { ttl } => {
                let answer = client.lease_grant(ttl).await?;
                let json = Object::new()
                    .some("header", json::header(answer.header.as_ref()))
                    .always("ID", answer.id)
                    .always("TTL", answer.ttl)
                    .end();
                out.either(format!("lease {} granted with TTL({}s)", shown(answer.id), answer.ttl), &json)
            }
            Self::Revoke { id } => {
                let answer = client.lease_revoke(id).await?;
                out.either(format!("lease {} revoked", shown(id)), &json::only_header(answer.header.as_ref()))
            }
            Self::Timetolive { id, keys } => time_to_live(id, keys, client, out).await,
            Self::List => list(client, out).await,
            Self::KeepAlive(keep_alive) => keep_alive.run(client, out).await,
        }
    }
}

async fn time_to_live(id: i64, with_keys: bool, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
    let Some(left) = client.lease_time_to_live(id, with_keys).await? else {
        let json = json!({ "id": id, "ttl": -1, "granted-ttl": 0, "keys": null });
        return out.either(format!("lease {} already expired", shown(id)), &json);
    };
    let mut line = format!(
        "lease {} granted with TTL({}s), remaining({}s)",
        shown(id),
        left.granted_seconds,
        left.remaining_seconds
    );
    if with_keys {
        let keys: Vec<_> = left.keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
        line.push_str(&format!(", attached keys([{}])", keys.join(" ")));
    }
    let keys: Vec<String> = left.keys.iter().map(|key| json::base64(key)).collect();
    let json = json!({
        "id": id, "ttl": left.remaining_seconds, "granted-ttl": left.granted_seconds, "keys": keys,
    });
    out.either(line, &json)
}

async fn list(client: &Client, out: &mut Printer) -> anyhow::Result<()> {
    let answer = client.lease_list().await?;
    match out.output() {
        Output::Json => {
            let leases: Vec<_> = answer.leases.iter().map(|lease| json!({ "id": lease.id })).collect();
            let header = json::header(answer.header.as_ref());
            out.json(&Object::new().some("header", header).always("leases", leases).end())
        }
        Output::Table => {
            let mut table = Table::new(&["LEASE"]);
            answer.leases.iter().for_each(|lease| table.row([shown(lease.id)]));
            out.table(&table)
        }
        Output::Simple => {
            out.line(format!("found {} leases", answer.leases.len()))?;
            answer.leases.iter().try_for_each(|lease| out.line(shown(lease.id)))
        }
    }
}

impl KeepAlive {
    async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let id = self.id;
        let mut told = |ttl: i64| {
            out.either(
                format!("lease {} keepalived with TTL({ttl})", shown(id)),
                &json!({ "ID": id, "TTL": ttl }),
            )
        };
        if self.once {
            return match client.lease_keep_alive_once(id).await {
                Err(error) if error.kind() == ErrorKind::LeaseNotFound => bail!("{}", gone(id)),
                renewed => told(renewed?),
            };
        }
        let mut alive = match client.lease_keep_alive(id).await {
            Err(error) if error.kind() == ErrorKind::LeaseNotFound => bail!("{}", gone(id)),
            alive => alive?,
        };
        if let Some(ttl) = alive.ttl_seconds() {
            told(ttl)?;
        }
        loop {
            match alive.renewed().await {
                Ok(ttl) => told(ttl)?,
                Err(why) => bail!("lease {}: {why}", shown(id)),
            }
        }
    }
}

fn gone(id: i64) -> String {
    format!("lease {} expired or revoked.", shown(id))
}
