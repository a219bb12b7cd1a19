//! The members of the cluster, and changing them.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use quorate::client::{Client, Member as Info, MemberUpdated};
use serde_json::json;

use super::json;
use super::printer::{Output, Printer};
use super::table::Table;

/// A member's id as it is given: hexadecimal.
fn id(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| "must be a member's id, in hexadecimal".to_owned())
}

#[derive(Debug, Subcommand)]
pub enum Member {
    /// All members.
    List,
    /// Add a member; start it afterwards, with the settings that are printed.
    Add(Add),
    /// Remove a member for good.
    Remove {
        #[arg(value_parser = id)]
        id: u64,
    },
    /// Change the peer URLs of a member.
    Update {
        #[arg(value_parser = id)]
        id: u64,
        /// Where the other members reach it.
        #[arg(long, required = true, value_delimiter = ',', value_name = "URL,...")]
        peer_urls: Vec<String>,
    },
    /// Make a learner that has caught up a voter.
    Promote {
        #[arg(value_parser = id)]
        id: u64,
    },
}

#[derive(Debug, Args)]
pub struct Add {
    name: String,
    /// Where the other members will reach it.
    #[arg(long, required = true, value_delimiter = ',', value_name = "URL,...")]
    peer_urls: Vec<String>,
    /// As a learner, which catches up first and has no vote.
    #[arg(long)]
    learner: bool,
}

impl Member {
    pub fn has_table(&self) -> bool {
        matches!(self, Self::List)
    }

    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        match self {
            Self::List => list(client, out).await,
            Self::Add(add) => add.run(client, out).await,
            Self::Remove { id } => changed(id, "removed from", &client.member_remove(id).await?, out),
            Self::Update { id, peer_urls } => {
                changed(id, "updated in", &client.member_update(id, peer_urls).await?, out)
            }
            Self::Promote { id } => changed(id, "promoted in", &client.member_promote(id).await?, out),
        }
    }
}

fn changed(id: u64, how: &str, answer: &MemberUpdated, out: &mut Printer) -> anyhow::Result<()> {
    let cluster = answer.header.map_or(0, |header| header.cluster_id);
    let json = json::members(answer.header.as_ref(), &answer.members).end();
    out.either(format!("Member {id:16x} {how} cluster {cluster:16x}"), &json)
}

fn columns(member: &Info) -> [String; 6] {
    let status = if member.name.is_empty() { "unstarted" } else { "started" };
    [
        format!("{:x}", member.id),
        status.to_owned(),
        member.name.clone(),
        member.peer_ur_ls.join(","),
        member.client_ur_ls.join(","),
        member.is_learner.to_string(),
    ]
}

async fn list(client: &Client, out: &mut Printer) -> anyhow::Result<()> {
    let answer = client.member_list().await?;
    match out.output() {
        Output::Json => out.json(&json::members(answer.header.as_ref(), &answer.members).end()),
        Output::Table => {
            let mut table = Table::new(&["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"]);
            answer.members.iter().for_each(|member| table.row(columns(member)));
            out.table(&table)
        }
        Output::Simple => answer.members.iter().try_for_each(|member| out.line(columns(member).join(", "))),
    }
}

impl Add {
    async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let answer = client.member_add(self.peer_urls.clone(), self.learner).await?;
        let added = answer.member.context("the answer does not name the member that was added")?;
        if out.output() == Output::Json {
            let members = json::members(answer.header.as_ref(), &answer.members);
            return out.json(&members.always("member", json::member(&added)).end());
        }
        let cluster = answer.header.map_or(0, |header| header.cluster_id);
        out.line(format!("Member {:16x} added to cluster {cluster:16x}\n", added.id))?;
        let name =
            |member: &Info| if member.id == added.id { self.name.clone() } else { member.name.clone() };
        let places: Vec<String> = answer
            .members
            .iter()
            .flat_map(|member| member.peer_ur_ls.iter().map(|url| format!("{}={url}", name(member))))
            .collect();
        for (variable, text) in [
            ("ETCD_NAME", self.name.as_str()),
            ("ETCD_INITIAL_CLUSTER", &places.join(",")),
            ("ETCD_INITIAL_ADVERTISE_PEER_URLS", &self.peer_urls.join(",")),
            ("ETCD_INITIAL_CLUSTER_STATE", "existing"),
        ] {
            out.line(format!("{variable}=\"{text}\""))?;
        }
        Ok(())
    }
}

/// Hand leadership to another member.
#[derive(Debug, Args)]
pub struct MoveLeader {
    /// The member that is to lead.
    #[arg(value_parser = id)]
    id: u64,
}

impl MoveLeader {
    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let from = client.status(&client.leader_endpoint().await?).await?.leader;
        client.move_leader(self.id).await?;
        let line = format!("Leadership transferred from {from:x} to {:x}", self.id);
        out.either(line, &json!({ "from": from, "to": self.id }))
    }
}
