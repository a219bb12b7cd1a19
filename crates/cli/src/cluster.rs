//! `quorate cluster info`: who is in the cluster, where, and who leads.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser, Subcommand};
use quorate::client::{Client, Member, StatusResponse};
use serde_json::{Value, json};

use crate::ctl::{self, Connection, Form, Output, Printer, Table, environment};
use crate::process;

/// Look at a cluster as a whole.
#[derive(Debug, Parser)]
#[command(name = "quorate-cluster", bin_name = "quorate cluster", disable_help_subcommand = true)]
pub struct Cluster {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: Form,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The members: names, hosts, ports, whether they answer, and who leads.
    Info,
}

/// Runs the command.
pub fn main(arguments: &[String]) -> ExitCode {
    let cluster = match ctl::parse::<Cluster>("quorate cluster", arguments) {
        Ok(cluster) => cluster,
        Err(status) => return status,
    };
    ctl::finish(run(&cluster))
}

fn run(cluster: &Cluster) -> anyhow::Result<ExitCode> {
    let Command::Info = cluster.command;
    let settings = cluster.connection.resolve(&environment)?;
    let mut out = cluster.form.printer(&environment, Output::Table)?;
    if out.output() == Output::Simple {
        bail!("there is no simple form of this; use --output table or --output json");
    }
    process::runtime()?.block_on(async {
        let client = settings.client()?;
        let members = client.member_list_local().await?.members;
        let ask = |member: Member| {
            let (client, patience) = (client.clone(), settings.dial_timeout);
            async move {
                let status = tokio::time::timeout(patience, status(&client, &member)).await.ok().flatten();
                Row { member, status }
            }
        };
        let mut rows = ctl::each(members, ask).await;
        rows.sort_by(|one, other| one.member.name.cmp(&other.member.name));
        print(&rows, &mut out)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// A member and what it says of itself, if it answers.
struct Row {
    member: Member,
    status: Option<StatusResponse>,
}

async fn status(client: &Client, member: &Member) -> Option<StatusResponse> {
    for url in &member.client_ur_ls {
        match client.status(url).await {
            Ok(status) if status.header.is_some_and(|header| header.member_id == member.id) => {
                return Some(status);
            }
            _ => {}
        }
    }
    None
}

impl Row {
    fn state(&self) -> &'static str {
        match (&self.status, self.member.name.is_empty()) {
            (Some(_), _) if self.member.is_learner => "learner",
            (Some(_), _) => "serving",
            (None, true) => "not started",
            (None, false) => "no answer",
        }
    }

    fn host(&self) -> String {
        let urls = self.member.client_ur_ls.first().or(self.member.peer_ur_ls.first());
        urls.map(|url| place(url).0).unwrap_or_default()
    }
}

/// Who leads, by the word of those that answer in the highest term.
fn leader(rows: &[Row]) -> Option<u64> {
    let known = rows.iter().filter_map(|row| row.status.as_ref()).filter(|status| status.leader != 0);
    known.max_by_key(|status| status.raft_term).map(|status| status.leader)
}

/// Host and port of a URL; the port is empty where it has none.
fn place(url: &str) -> (String, String) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or_default();
    match rest.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host.to_owned(), port.to_owned())
        }
        _ => (rest.to_owned(), String::new()),
    }
}

fn ports(urls: &[String]) -> String {
    urls.iter().map(|url| place(url).1).collect::<Vec<_>>().join(",")
}

fn print(rows: &[Row], out: &mut Printer) -> anyhow::Result<()> {
    let leader = leader(rows);
    let leads = |row: &Row| leader == Some(row.member.id);
    if out.output() == Output::Json {
        let members: Vec<Value> = rows.iter().map(|row| to_json(row, leads(row))).collect();
        return out.json(&json!({ "members": members }));
    }
    let mut table = Table::new(&["NAME", "HOST", "CLIENTPORT", "PEERPORT", "STATE", "LEADER"]);
    for row in rows {
        table.row([
            row.member.name.clone(),
            row.host(),
            ports(&row.member.client_ur_ls),
            ports(&row.member.peer_ur_ls),
            row.state().to_owned(),
            if leads(row) { "True" } else { "False" }.to_owned(),
        ]);
    }
    out.table(&table)
}

fn to_json(row: &Row, leads: bool) -> Value {
    let Row { member, status } = row;
    let mut value = json!({
        "name": member.name,
        "id": format!("{:x}", member.id),
        "host": row.host(),
        "clientURLs": member.client_ur_ls,
        "peerURLs": member.peer_ur_ls,
        "state": row.state(),
        "learner": member.is_learner,
        "leader": leads,
    });
    if let Some(status) = status {
        value["version"] = status.version.clone().into();
        value["raftTerm"] = status.raft_term.into();
        value["raftAppliedIndex"] = status.raft_applied_index.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cluster::command().debug_assert();
    }

    #[test]
    fn hosts_and_ports_of_urls() {
        for (url, host, port) in [
            ("http://127.0.0.1:2379", "127.0.0.1", "2379"),
            ("https://[::1]:7/", "[::1]", "7"),
            ("http://host", "host", ""),
            ("http://[::1]", "[::1]", ""),
        ] {
            assert_eq!(place(url), (host.to_owned(), port.to_owned()), "{url}");
        }
    }

    #[test]
    fn the_newest_term_says_who_leads() {
        let row = |id, leader, raft_term| Row {
            member: Member { id, ..Member::default() },
            status: Some(StatusResponse { leader, raft_term, ..StatusResponse::default() }),
        };
        let rows =
            [row(1, 1, 4), row(2, 3, 5), Row { member: Member::default(), status: None }, row(3, 0, 6)];
        assert_eq!(leader(&rows), Some(3));
        assert_eq!(leader(&rows[2..]), None);
        assert_eq!(rows[2].state(), "not started");
    }
}
