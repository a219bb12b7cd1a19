//! Locks and elections: what is held while a command runs, or until a signal comes.

use std::future::Future;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context as _, bail};
use clap::Args;
use quorate::client::{Client, LockLost};
use serde_json::json;

use super::json;
use super::locks::LockAction;
use super::printer::{Output, Printer};
use crate::process::StopSignals;

/// What a shell answers for a command that was ended by a signal, without the signal's number.
const STATUS_SIGNALLED: i32 = 128;

/// Take a lock and hold it: while a command runs, or until interrupted.
///
/// Without COMMAND it prints the key that holds the lock. COMMAND finds that key in ETCD_LOCK_KEY and, in ETCD_LOCK_REV,
/// a number that rises from holder to holder; its exit status is this one's. Where the lock is lost meanwhile, the
/// command is sent SIGTERM. Locks named 'ls' or 'unlock' can't be taken so.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Lock {
    #[command(subcommand)]
    action: Option<LockAction>,
    #[arg(required = true)]
    name: Option<String>,
    /// Seconds after which the lock is free if its holder vanishes.
    #[arg(long, default_value_t = 10)]
    ttl: i64,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Lock {
    pub fn has_table(&self) -> bool {
        matches!(self.action, Some(LockAction::Ls { .. }))
    }

    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<ExitCode> {
        if let Some(action) = self.action {
            return action.run(client, out).await.map(|()| ExitCode::SUCCESS);
        }
        let name = self.name.context("the name of a lock is needed")?;
        let mut signals = StopSignals::install()?;
        let lock = tokio::select! {
            lock = client.lock(&name, self.ttl) => lock?,
            signal = signals.next() => bail!("{signal} came before the lock was free"),
        };
        let key = String::from_utf8_lossy(lock.key()).into_owned();
        let status = if self.command.is_empty() {
            let json = json!({ "key": json::base64(lock.key()), "revision": lock.revision() });
            out.either(&key, &json)?;
            until_signal(&mut signals, lock.lost()).await.context("the lock was lost")?;
            ExitCode::SUCCESS
        } else {
            let revision = lock.revision().to_string();
            let variables = [("ETCD_LOCK_KEY", key.as_str()), ("ETCD_LOCK_REV", revision.as_str())];
            run(&self.command, &variables, &mut signals, lock.lost()).await?
        };
        lock.unlock().await.context("the lock is not freed before its time is over")?;
        Ok(status)
    }
}

async fn until_signal(
    signals: &mut StopSignals,
    lost: impl Future<Output = LockLost>,
) -> Result<(), LockLost> {
    tokio::select! {
        _ = signals.next() => Ok(()),
        why = lost => Err(why),
    }
}

/// Runs a command to its end. A signal to end is passed on to it; so is the loss of what it runs under.
async fn run(
    command: &[String],
    variables: &[(&str, &str)],
    signals: &mut StopSignals,
    lost: impl Future<Output = LockLost>,
) -> anyhow::Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command was given")?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .envs(variables.iter().copied())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    tokio::pin!(lost);
    let mut why_lost = None;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            signal = signals.next() => {
                // A terminal sends SIGINT to the command itself, as it is of the same process group.
                if signal == "SIGTERM" {
                    terminate(&child);
                }
            }
            why = &mut lost, if why_lost.is_none() => {
                terminate(&child);
                why_lost = Some(why);
            }
        }
    };
    if let Some(why) = why_lost {
        bail!("the lock was lost while {program} ran ({why}); it ended with {status}");
    }
    Ok(exit_code(status))
}

fn terminate(child: &tokio::process::Child) {
    // Without an id it has ended already.
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let number = status.code().or_else(|| status.signal().map(|signal| STATUS_SIGNALLED + signal));
    number.and_then(|number| u8::try_from(number).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Stand for election and lead until interrupted, or listen to who leads.
///
/// Once elected it prints the key and the value of its leadership.
#[derive(Debug, Args)]
pub struct Elect {
    name: String,
    /// What the others are told of the leader.
    #[arg(required_unless_present = "listen")]
    proposal: Option<String>,
    /// Only print who leads, each time that it changes.
    #[arg(short, long, conflicts_with = "proposal")]
    listen: bool,
    /// Seconds after which another one leads if the leader vanishes.
    #[arg(long, default_value_t = 10)]
    ttl: i64,
}

impl Elect {
    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<ExitCode> {
        let Some(proposal) = &self.proposal else { return self.listen(client, out).await };
        let mut signals = StopSignals::install()?;
        let leadership = tokio::select! {
            leadership = client.campaign(&self.name, proposal, self.ttl) => leadership?,
            signal = signals.next() => bail!("{signal} came before this one was elected"),
        };
        let kv = client.get(leadership.key()).await?.context("the leadership was lost at once")?;
        match out.output() {
            Output::Json => out.json(&json::key_value(&kv))?,
            _ => out.key_and_value(&kv)?,
        }
        until_signal(&mut signals, leadership.lost()).await.context("the leadership was lost")?;
        leadership.resign().await.context("the leadership does not end before its time is over")?;
        Ok(ExitCode::SUCCESS)
    }

    async fn listen(&self, client: &Client, out: &mut Printer) -> anyhow::Result<ExitCode> {
        let mut leaders = client.observe_election(&self.name);
        loop {
            let kv = leaders.next().await?;
            match out.output() {
                Output::Json => out.json(&json::key_value(&kv))?,
                _ => out.key_and_value(&kv)?,
            }
        }
    }
}
