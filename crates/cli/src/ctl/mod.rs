//! `quorate ctl`: keys, leases, locks, members and their care, from the command line.
//!
//! Names, options and the lines of `--output simple` are etcdctl's where it has them, so that scripts and habits go on
//! working. Invariant: what can't be shown in the form that was asked for is refused before anything is done.

mod connection;
mod endpoint;
mod held;
mod json;
mod keys;
mod lease;
mod locks;
mod maintenance;
mod member;
mod printer;
mod table;
mod txn;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use connection::{Connection, environment};
pub use endpoint::each;
pub use printer::{Form, Output, Printer, write};
pub use table::Table;

use crate::process;

/// Read and write keys, hold leases and locks, and look after the members of a cluster.
///
/// It speaks etcd v3, to members of Quorate and to anything else that does.
#[derive(Debug, Parser)]
#[command(name = "quorate-ctl", bin_name = "quorate ctl", disable_help_subcommand = true)]
#[command(
    after_help = "Options can come from the environment: QUORATE_ENDPOINTS or ETCDCTL_ENDPOINTS and so on, \
    QUORATE_OUTPUT or ETCDCTL_WRITE_OUT. An option wins over QUORATE_..., and that over ETCDCTL_...."
)]
pub struct Ctl {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: Form,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read a key, or the keys of a range.
    Get(keys::Get),
    /// Write a key.
    Put(keys::Put),
    /// Delete a key, or the keys of a range.
    Del(keys::Del),
    /// Carry out a transaction that is read from standard input.
    Txn(txn::Txn),
    /// Print the changes of a key, or of the keys of a range, as they happen.
    Watch(watch::Watch),
    /// Forget the history before a revision.
    #[command(visible_alias = "compact")]
    Compaction(keys::Compaction),
    /// Grant leases, keep them alive, look at them, end them.
    #[command(subcommand)]
    Lease(lease::Lease),
    /// Take a lock and hold it: while a command runs, or until interrupted. Or list locks, or take one away.
    Lock(held::Lock),
    /// Stand for election and lead until interrupted, or listen to who leads.
    Elect(held::Elect),
    /// The members of the cluster, and changing them.
    #[command(subcommand)]
    Member(member::Member),
    /// Hand leadership to another member.
    MoveLeader(member::MoveLeader),
    /// The state of the members at the endpoints.
    #[command(subcommand)]
    Endpoint(endpoint::Endpoint),
    /// Alarms: what keeps the cluster from serving everything.
    #[command(subcommand)]
    Alarm(maintenance::Alarm),
    /// Ask members to defragment; Quorate's have no need to.
    Defrag(maintenance::Defrag),
}

impl Command {
    /// What it prints with `--output table`, if that is a table.
    fn has_table(&self) -> bool {
        match self {
            Self::Get(_) | Self::Endpoint(_) => true,
            Self::Member(command) => command.has_table(),
            Self::Lease(command) => command.has_table(),
            Self::Lock(command) => command.has_table(),
            Self::Alarm(command) => command.has_table(),
            _ => false,
        }
    }
}

/// Runs the command.
pub fn main(arguments: &[String]) -> ExitCode {
    let ctl = match parse::<Ctl>("quorate ctl", arguments) {
        Ok(ctl) => ctl,
        Err(status) => return status,
    };
    finish(run(ctl))
}

/// Reads a command line; where that ends the command, with help or with what is wrong, its exit status.
pub fn parse<T: Parser>(name: &str, arguments: &[String]) -> Result<T, ExitCode> {
    let all = std::iter::once(name).chain(arguments.iter().map(String::as_str));
    T::try_parse_from(all).map_err(|error| {
        let _ = error.print();
        u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

/// The exit status of a command, once its error has been told.
pub fn finish(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(status) => status,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Who read the output has read enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(ctl: Ctl) -> anyhow::Result<ExitCode> {
    let Ctl { connection, form, command } = ctl;
    let settings = connection.resolve(&environment)?;
    let mut out = form.printer(&environment, Output::Simple)?;
    if out.output() == Output::Table && !command.has_table() {
        anyhow::bail!("this command prints no table; use --output simple or --output json");
    }
    process::runtime()?.block_on(async {
        let client = settings.client()?;
        let done = match command {
            Command::Get(get) => get.run(&client, &mut out).await,
            Command::Put(put) => put.run(&client, &mut out).await,
            Command::Del(del) => del.run(&client, &mut out).await,
            Command::Txn(txn) => txn.run(&client, &mut out).await,
            Command::Watch(watch) => watch.run(&client, &mut out).await,
            Command::Compaction(compaction) => compaction.run(&client, &mut out).await,
            Command::Lease(lease) => lease.run(&client, &mut out).await,
            Command::Lock(lock) => return lock.run(&client, &mut out).await,
            Command::Elect(elect) => return elect.run(&client, &mut out).await,
            Command::Member(member) => member.run(&client, &mut out).await,
            Command::MoveLeader(move_leader) => move_leader.run(&client, &mut out).await,
            Command::Endpoint(endpoint) => endpoint.run(&client, &mut out).await,
            Command::Alarm(alarm) => alarm.run(&client, &mut out).await,
            Command::Defrag(defrag) => defrag.run(&client, &mut out).await,
        };
        done.map(|()| ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Ctl::command().debug_assert();
    }

    fn read(line: &str) -> Result<Ctl, clap::Error> {
        Ctl::try_parse_from(line.split(' '))
    }

    #[test]
    fn etcdctls_spellings_are_understood() {
        for line in [
            "ctl --endpoints=a:1,b:1 get k",
            "ctl get k --endpoints a:1 --prefix -w json",
            "ctl get k z --order=descend --sort-by=MODIFY --limit 3 --consistency=s",
            "ctl put k -- -v",
            "ctl put k v --lease=1a2b --prev-kv",
            "ctl del k --from-key",
            "ctl watch k --rev 3 --prefix -- sh -c true",
            "ctl lease keep-alive 1a2b --once",
            "ctl lease timetolive 1a2b --keys",
            "ctl lock l --ttl 5 sh -c true",
            "ctl lock l ls -la",
            "ctl lock ls",
            "ctl lock ls net/ -w table",
            "ctl lock unlock l --lease 1a2b",
            "ctl elect e -l",
            "ctl member add n --peer-urls=http://h:1,http://h:2 --learner",
            "ctl endpoint status --cluster --write-out=table",
            "ctl compaction 7 --physical",
            "ctl move-leader 8211f1d0f64f3269",
            "ctl alarm disarm",
        ] {
            assert!(read(line).is_ok(), "{line}: {}", read(line).expect_err("refused"));
        }
        for line in [
            "ctl get k --prefix --from-key",
            "ctl get k z --prefix",
            "ctl put k v --lease zz",
            "ctl fly",
            "ctl lock",
        ] {
            assert_eq!(read(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
