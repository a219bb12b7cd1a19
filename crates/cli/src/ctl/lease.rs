//! Leases.

use anyhow::bail;
use clap::{Args, Subcommand};
use quorate::client::{Client, ErrorKind, LeaseKeepAliveResponse, LeaseLost};
use serde_json::json;

use super::json;
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
                let json = json::with_header_fields(answer.header.as_ref())
                    .always("ID", answer.id)
                    .always("TTL", answer.ttl)
                    .always("Error", answer.error)
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
    let left = client.lease_time_to_live_answer(id, with_keys).await?;
    // As etcdctl, which shows a list only where there is something in it.
    let keys: Vec<String> = left.keys.iter().map(|key| json::base64(key)).collect();
    let json = json::with_header_fields(left.header.as_ref())
        .always("id", id)
        .always("ttl", left.ttl)
        .always("granted-ttl", left.granted_ttl)
        .always("keys", (!keys.is_empty()).then_some(keys))
        .end();
    if left.ttl < 0 {
        return out.either(format!("lease {} already expired", shown(id)), &json);
    }
    let mut line =
        format!("lease {} granted with TTL({}s), remaining({}s)", shown(id), left.granted_ttl, left.ttl);
    if with_keys {
        let keys: Vec<_> = left.keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
        line.push_str(&format!(", attached keys([{}])", keys.join(" ")));
    }
    out.either(line, &json)
}

async fn list(client: &Client, out: &mut Printer) -> anyhow::Result<()> {
    let answer = client.lease_list().await?;
    match out.output() {
        Output::Json => {
            let leases: Vec<_> = answer.leases.iter().map(|lease| json!({ "id": lease.id })).collect();
            out.json(&json::with_header_fields(answer.header.as_ref()).always("leases", leases).end())
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
        if self.once {
            // What is not there is an error here, with etcd's words for it.
            return told(&client.lease_keep_alive_once_answer(id).await.map_err(named)?, out);
        }
        let mut alive = match client.lease_keep_alive(id).await {
            Err(error) if error.kind() == ErrorKind::LeaseNotFound => return gone(id, out),
            alive => alive?,
        };
        loop {
            if let Some(renewal) = alive.last_renewal() {
                told(&renewal, out)?;
            }
            match alive.renewed().await {
                Ok(_) => {}
                Err(LeaseLost::Gone) => return gone(id, out),
                Err(why @ LeaseLost::NotRenewed) => bail!("lease {}: {why}", shown(id)),
            }
        }
    }
}

/// A renewal.
fn told(renewal: &LeaseKeepAliveResponse, out: &mut Printer) -> anyhow::Result<()> {
    let json = json::with_header_fields(renewal.header.as_ref())
        .always("ID", renewal.id)
        .always("TTL", renewal.ttl)
        .end();
    out.either(format!("lease {} keepalived with TTL({})", shown(renewal.id), renewal.ttl), &json)
}

/// The end of a lease that was to be kept alive: no failure, as in etcdctl, which has no JSON for it.
fn gone(id: i64, out: &mut Printer) -> anyhow::Result<()> {
    if out.output() == Output::Json {
        return Ok(());
    }
    out.line(format!("lease {} expired or revoked.", shown(id)))
}

/// A server says of a renewed lease that it is not there by a TTL of 0; etcd's clients have words for it.
fn named(error: quorate::client::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::LeaseNotFound {
        anyhow::anyhow!("etcdserver: requested lease not found")
    } else {
        error.into()
    }
}
