//! `quorate migrate`: a stopped etcd's data folder becomes one that a member starts from.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use quorate::migrate::{Command, Form, Kind, Source, Target, Written, check, migrate, read};

use crate::ctl;

/// Turn the data folder of a stopped etcd into one that Quorate starts from.
///
/// Of etcd 0.4 it takes the whole tree, of etcd 2.x and 3.x what the v2 API wrote: keys with the indexes that created
/// and modified them, the index of the last change, and TTLs. The keys of the v3 API are not read.
///
/// The new folder is that of a cluster of one. Start it, then let the other machines join it with empty folders. The
/// etcd's own folder is not changed; a folder that holds something already is not written to.
///
/// Of a cluster, stop every machine and take the folder whose log goes furthest: --dry-run tells, and the greatest term
/// counts first, then the greatest entry.
#[derive(Debug, Parser)]
#[command(
    name = "quorate-migrate",
    bin_name = "quorate migrate",
    after_help = "Example: one machine of etcd 0.4\n  \
    quorate migrate --from machines/machine1 --data-dir moved/machine1 --name machine1\n  \
    quorate etcd2 -data-dir moved/machine1 -name machine1\n\n\
    Example: etcd 2.3, or 3.4 with --enable-v2\n  \
    quorate migrate --from /var/lib/etcd/default --data-dir /var/lib/quorate --name m1 --peer-url http://10.0.0.1:2380\n  \
    quorate server --data-dir /var/lib/quorate --name m1 --enable-v2 --initial-advertise-peer-urls http://10.0.0.1:2380 \\\n    \
    --listen-peer-urls http://10.0.0.1:2380"
)]
pub struct Migrate {
    /// The data folder of the stopped etcd
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// Where that etcd kept its log, if it had a folder of its own
    #[arg(long, value_name = "FOLDER")]
    wal_dir: Option<PathBuf>,
    /// The folder to make
    #[arg(long, value_name = "FOLDER", required_unless_present = "dry_run")]
    data_dir: Option<PathBuf>,
    /// The member's name; the host's for etcd2, 'default' for server, if not given
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// What the folder will be started with; etcd2 for a folder of 0.4, else server
    #[arg(long = "for", value_name = "COMMAND")]
    command: Option<CommandName>,
    /// Where the member's peers will reach it; http://127.0.0.1:7001 for etcd2, http://localhost:2380 for server
    #[arg(long, value_name = "URL")]
    peer_url: Option<String>,
    /// As what the tree is taken over: for the v2 API, as keys of the v3 API, or as both
    #[arg(long, value_name = "API", default_value = "v2")]
    to: Api,
    /// What stands before the path in a key of the v3 API
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// Only read, and tell what is there
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CommandName {
    Etcd2,
    Server,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Api {
    V2,
    V3,
    Both,
}

/// Runs the command.
pub fn main(arguments: &[String]) -> ExitCode {
    let migrate = match ctl::parse::<Migrate>("quorate migrate", arguments) {
        Ok(migrate) => migrate,
        Err(status) => return status,
    };
    ctl::finish(run(&migrate))
}

fn run(asked: &Migrate) -> anyhow::Result<ExitCode> {
    let target = |kind: Kind| -> anyhow::Result<Option<Target>> {
        let Some(data_dir) = asked.data_dir.clone().filter(|_| !asked.dry_run) else { return Ok(None) };
        let target = asked.target(data_dir, kind)?;
        check(&target)?;
        Ok(Some(target))
    };
    let source = read(&asked.from, asked.wal_dir.as_deref())?;
    ctl::write(told(&source, asked).as_bytes())?;
    if let Some(target) = target(source.kind)? {
        let written = migrate(&source, &target)?;
        ctl::write(done(&source, &target, written).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Migrate {
    fn target(&self, data_dir: PathBuf, kind: Kind) -> anyhow::Result<Target> {
        let command = match (self.command, kind) {
            (Some(CommandName::Etcd2), _) | (None, Kind::V04) => Command::Etcd2,
            (Some(CommandName::Server), _) | (None, Kind::V2) => Command::Server,
        };
        let name = match (&self.name, command) {
            (Some(name), _) => name.clone(),
            (None, Command::Server) => "default".to_owned(),
            (None, Command::Etcd2) => quorate_settings::etcd2::host_name()
                .context("--name: this host has no name; give the machine one")?,
        };
        let peer_url = self.peer_url.clone().unwrap_or_else(|| {
            match command {
                Command::Etcd2 => "http://127.0.0.1:7001",
                Command::Server => "http://localhost:2380",
            }
            .to_owned()
        });
        let prefix = self.prefix.clone();
        let form = match self.to {
            Api::V2 => Form::Tree,
            Api::V3 => Form::Keys { prefix },
            Api::Both => Form::Both { prefix },
        };
        Ok(Target { data_dir, name, command, peer_url, form })
    }
}

fn told(source: &Source, asked: &Migrate) -> String {
    let log = source.log;
    let mut text = format!(
        "read     {} ({}): {} nodes, the last change took index {}\n         the log ends at entry {} of term {}; a \
         snapshot stands for {}, {} were noted as committed\n",
        asked.from.display(),
        source.kind,
        source.nodes.len(),
        source.index,
        log.index,
        log.term,
        if log.snapshot == 0 { "none of it".to_owned() } else { format!("entries up to {}", log.snapshot) },
        log.committed
    );
    for note in &source.notes {
        text += &format!("note     {note}\n");
    }
    text
}

fn done(source: &Source, target: &Target, written: Written) -> String {
    let folder = target.data_dir.display();
    let mut text = String::new();
    if !matches!(target.form, Form::Keys { .. }) {
        text += &format!(
            "wrote    {} nodes with their indexes into {folder}; history starts after index {}\n",
            written.nodes, source.index
        );
    }
    if !matches!(target.form, Form::Tree) {
        text += &format!(
            "wrote    {} keys of v3 into {folder}; {} had expired, {} directories have no key\n",
            written.keys, written.expired, written.directories
        );
    }
    let name = &target.name;
    text += &match target.command {
        Command::Etcd2 => format!("start it quorate etcd2 -data-dir {folder} -name {name}\n"),
        Command::Server => format!(
            "start it quorate server --data-dir {folder} --name {name} --initial-advertise-peer-urls {}{}\n",
            target.peer_url,
            if matches!(target.form, Form::Keys { .. }) { "" } else { " --enable-v2" }
        ),
    };
    text
}
