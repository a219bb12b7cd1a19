//! The `quorate` binary.
//!
//! Exit status: 0 after a clean end, 1 when the work can't be done, 2 when the command line is not understood.

#![forbid(unsafe_code)]

mod balsa;
mod cluster;
mod command_tree;
mod ctl;
mod dev;
mod etcd2;
mod invoked_as;
mod logging;
mod migrate;
mod print;
mod process;
mod server;
mod snet;
mod version;

use std::process::ExitCode;

use quorate_settings as settings;

const USAGE: &str = "\
Quorate: a replicated store that speaks the protocols of the systems people already run.

Usage: quorate COMMAND [flags]

Commands:
  server       run one member of a cluster; takes etcd's flags
  etcd2        run one machine of a cluster; takes the flags of etcd 0.4
  balsa        run one node of a balsa cluster; takes its environment variables
  dev          run a cluster of three in this process, to try things out
  ctl          read and write keys, hold leases and locks, look after members
  cluster      look at a cluster as a whole: quorate cluster info
  migrate      turn the data folder of a stopped etcd 0.4, 2.x or 3.x (v2 API) into one of Quorate's
  completions  print what makes bash, zsh or fish complete commands and flags
  man          print a manual page, or write all of them: quorate man --dir FOLDER
  version      print the version
  help         print this page, or that of a command: quorate help server

'quorate COMMAND --help' explains a command's flags.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let mut arguments = arguments.map(|argument| argument.into_string());
    let arguments: Vec<String> = match arguments.by_ref().collect() {
        Ok(arguments) => arguments,
        Err(bad) => return misused(&format!("the argument {bad:?} is not valid UTF-8")),
    };
    // Called by balsa's name, as a link or a copy.
    if program.as_deref().map(std::path::Path::new).and_then(std::path::Path::file_name)
        == Some("balsa".as_ref())
    {
        return balsa::main(&arguments);
    }
    if let Some(chosen) = invoked_as::chosen(program.as_deref(), &arguments, &process::variables().collect())
    {
        return match chosen.command {
            "etcd2" => etcd2::main(&arguments, Some(chosen.notice)),
            _ => server::main(&arguments, Some(chosen.notice)),
        };
    }
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match command {
        "server" => server::main(rest, None),
        "etcd2" => etcd2::main(rest, None),
        "balsa" => balsa::main(rest),
        "dev" => dev::main(rest),
        "ctl" => ctl::main(rest),
        "cluster" => cluster::main(rest),
        "migrate" => migrate::main(rest),
        "completions" => command_tree::completions(rest),
        "man" => command_tree::man(rest),
        "version" | "--version" | "-version" => print::line(&version::text()),
        "help" | "--help" | "-help" | "-h" => help(rest),
        other => misused(&format!("{other:?} is no command of quorate")),
    }
}

fn help(topics: &[String]) -> ExitCode {
    match topics.first().map(String::as_str) {
        None => print::text(USAGE),
        Some("server") => print::text(&settings::server::page()),
        Some("etcd2") => print::text(&settings::etcd2::page()),
        Some("balsa") => print::text(balsa::USAGE),
        Some("dev") => print::text(dev::USAGE),
        Some("ctl") => ctl::main(&asking_for_help(topics)),
        Some("cluster") => cluster::main(&asking_for_help(topics)),
        Some("migrate") => migrate::main(&asking_for_help(topics)),
        Some("completions") => command_tree::completions(&asking_for_help(topics)),
        Some("man") => command_tree::man(&asking_for_help(topics)),
        Some(other) => misused(&format!("there is no help on {other:?}")),
    }
}

/// The command line that answers 'help ctl get' is 'ctl get --help'.
fn asking_for_help(topics: &[String]) -> Vec<String> {
    topics.iter().skip(1).cloned().chain(["--help".to_owned()]).collect()
}

fn misused(what: &str) -> ExitCode {
    eprintln!("quorate: {what}\n");
    eprint!("{USAGE}");
    ExitCode::from(2)
}
