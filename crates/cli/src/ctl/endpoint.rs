//! The state of the members at the endpoints, each asked by itself and all at the same time.

use std::future::Future;
use std::time::Instant;

use anyhow::bail;
use clap::{Args, Subcommand};
use quorate::client::{Client, Error, ErrorKind, HashKvResponse, StatusResponse};
use serde_json::json;
use tokio::task::JoinSet;

use super::json::{self, Object};
use super::printer::{Output, Printer};
use super::table::Table;

/// A key to read for its own sake.
const KEY_OF_HEALTH: &str = "health";

#[derive(Debug, Subcommand)]
pub enum Endpoint {
    /// Version, size, role and place in the log.
    Status(All),
    /// Whether each can serve a linearizable read, and how long that takes.
    Health(All),
    /// Hash of the keys: at equal revisions all members have the same.
    Hashkv {
        /// As of this revision; 0: the newest.
        #[arg(long, default_value_t = 0)]
        rev: i64,
        #[command(flatten)]
        all: All,
    },
}

#[derive(Debug, Args)]
pub struct All {
    /// Ask all members of the cluster, at the client URLs that they announce.
    #[arg(long)]
    cluster: bool,
}

impl All {
    /// The endpoints to ask.
    pub async fn endpoints(&self, client: &Client) -> anyhow::Result<Vec<String>> {
        if !self.cluster {
            return Ok(client.endpoints());
        }
        let members = client.member_list().await?.members;
        let urls: Vec<String> = members.into_iter().flat_map(|member| member.client_ur_ls).collect();
        if urls.is_empty() {
            bail!("the members announce no client URLs");
        }
        Ok(urls)
    }
}

/// Asks all at the same time; the answers are in the order of those asked.
pub async fn each<W, T, F, Fut>(whom: impl IntoIterator<Item = W>, ask: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(W) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let mut asking = JoinSet::new();
    for (number, whom) in whom.into_iter().enumerate() {
        let answer = ask(whom);
        asking.spawn(async move { (number, answer.await) });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

impl Endpoint {
    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        match self {
            Self::Status(all) => {
                let endpoints = all.endpoints(client).await?;
                let ask = |endpoint: String| {
                    let client = client.clone();
                    async move {
                        let answer = client.status(&endpoint).await;
                        (endpoint, answer)
                    }
                };
                let answers = successes("status", each(endpoints, ask).await);
                print_status(&answers.found, out)?;
                answers.complete()
            }
            Self::Health(all) => health(all.endpoints(client).await?, client, out).await,
            Self::Hashkv { rev, all } => {
                let endpoints = all.endpoints(client).await?;
                let ask = |endpoint: String| {
                    let client = client.clone();
                    async move {
                        let answer = client.hash_kv(&endpoint, rev).await;
                        (endpoint, answer)
                    }
                };
                let answers = successes("hash", each(endpoints, ask).await);
                print_hashes(&answers.found, out)?;
                answers.complete()
            }
        }
    }
}

/// Those that answered, and whether others did not.
struct Answers<T> {
    found: Vec<(String, T)>,
    failed: usize,
}

/// Says of those that failed why.
fn successes<T>(what: &str, answers: Vec<(String, Result<T, Error>)>) -> Answers<T> {
    let mut found = Vec::new();
    let mut failed = 0;
    for (endpoint, answer) in answers {
        match answer {
            Ok(answer) => found.push((endpoint, answer)),
            Err(error) => {
                eprintln!("Failed to get the {what} of endpoint {endpoint} ({})", error.message());
                failed += 1;
            }
        }
    }
    Answers { found, failed }
}

impl<T> Answers<T> {
    fn complete(&self) -> anyhow::Result<()> {
        match self.failed {
            0 => Ok(()),
            failed => bail!("{failed} of {} endpoints did not answer", failed + self.found.len()),
        }
    }
}

/// A number of bytes for people: three digits, decimal units.
pub fn human(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && size < 10.0);
    format!("{size:.digits$} {}", UNITS[unit])
}

fn print_status(answers: &[(String, StatusResponse)], out: &mut Printer) -> anyhow::Result<()> {
    let columns = |(endpoint, status): &(String, StatusResponse)| {
        let id = status.header.map_or(0, |header| header.member_id);
        [
            endpoint.clone(),
            format!("{id:x}"),
            status.version.clone(),
            human(status.db_size),
            (status.leader == id).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
        ]
    };
    match out.output() {
        Output::Json => {
            let all: Vec<_> = answers
                .iter()
                .map(|(endpoint, status)| json!({ "Endpoint": endpoint, "Status": json::status(status) }))
                .collect();
            out.json(&all.into())
        }
        Output::Table => {
            let mut table = Table::new(&[
                "ENDPOINT",
                "ID",
                "VERSION",
                "DB SIZE",
                "IS LEADER",
                "IS LEARNER",
                "RAFT TERM",
                "RAFT INDEX",
                "RAFT APPLIED INDEX",
                "ERRORS",
            ]);
            answers.iter().for_each(|answer| table.row(columns(answer)));
            out.table(&table)
        }
        Output::Simple => answers.iter().try_for_each(|answer| out.line(columns(answer).join(", "))),
    }
}

fn print_hashes(answers: &[(String, HashKvResponse)], out: &mut Printer) -> anyhow::Result<()> {
    match out.output() {
        Output::Json => {
            let one = |(endpoint, answer): &(String, HashKvResponse)| {
                let hash = Object::new()
                    .some("header", json::header(answer.header.as_ref()))
                    .some("hash", answer.hash)
                    .some("compact_revision", answer.compact_revision)
                    .some("hash_revision", answer.hash_revision)
                    .end();
                json!({ "Endpoint": endpoint, "HashKV": hash })
            };
            out.json(&answers.iter().map(one).collect::<Vec<_>>().into())
        }
        Output::Table => {
            let mut table = Table::new(&["ENDPOINT", "HASH", "HASH REVISION"]);
            for (endpoint, answer) in answers {
                table.row([endpoint.clone(), answer.hash.to_string(), answer.hash_revision.to_string()]);
            }
            out.table(&table)
        }
        Output::Simple => {
            answers.iter().try_for_each(|(endpoint, answer)| out.line(format!("{endpoint}, {}", answer.hash)))
        }
    }
}

/// Reads a key, and looks for alarms.
async fn probe(client: &Client, endpoint: &str) -> Result<(), String> {
    let alone = client.at(endpoint).map_err(|error| error.message().to_owned())?;
    match alone.get(KEY_OF_HEALTH).await {
        Ok(_) => {}
        // Who is told that the key is not theirs has been answered by a quorum.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error.message().to_owned()),
    }
    let alarms = alone.alarm_list().await.map_err(|error| error.message().to_owned())?;
    if alarms.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = alarms.iter().map(super::maintenance::alarm_name).collect();
    Err(format!("Active Alarm(s): {}", names.join(", ")))
}

async fn health(endpoints: Vec<String>, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
    let ask = |endpoint: String| {
        let client = client.clone();
        async move {
            let start = Instant::now();
            let outcome = probe(&client, &endpoint).await;
            (endpoint, (outcome, start.elapsed()))
        }
    };
    let answers = each(endpoints, ask).await;
    match out.output() {
        Output::Json => {
            let one = |(endpoint, (outcome, took)): &(String, (Result<(), String>, _))| {
                Object::new()
                    .always("endpoint", endpoint.as_str())
                    .always("health", outcome.is_ok())
                    .always("took", format!("{took:?}"))
                    .some("error", outcome.as_ref().err().cloned())
                    .end()
            };
            out.json(&answers.iter().map(one).collect::<Vec<_>>().into())?;
        }
        Output::Table => {
            let mut table = Table::new(&["ENDPOINT", "HEALTH", "TOOK", "ERROR"]);
            for (endpoint, (outcome, took)) in &answers {
                table.row([
                    endpoint.clone(),
                    outcome.is_ok().to_string(),
                    format!("{took:?}"),
                    outcome.as_ref().err().cloned().unwrap_or_default(),
                ]);
            }
            out.table(&table)?;
        }
        Output::Simple => {
            for (endpoint, (outcome, took)) in &answers {
                match outcome {
                    Ok(()) => out.line(format!(
                        "{endpoint} is healthy: successfully committed proposal: took = {took:?}"
                    ))?,
                    Err(why) => eprintln!("{endpoint} is unhealthy: failed to commit proposal: {why}"),
                }
            }
        }
    }
    if answers.iter().any(|(_, (outcome, _))| outcome.is_err()) {
        bail!("unhealthy cluster");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_units() {
        for (bytes, shown) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (20_480, "20 kB"), (2_500_000, "2.5 MB")]
        {
            assert_eq!(human(bytes), shown);
        }
    }
}
