//! The `quorate` binary.
//!
//! Exit status: 0 after a clean end, 1 when the work can't be done, 2 when the command line is not understood.

#![forbid(unsafe_code)]

mod auto_compaction;
mod dev;
mod flags;
mod logging;
mod process;
mod server;
mod version;

use std::process::ExitCode;

const USAGE: &str = "\
Quorate: a replicated store that speaks the protocols of the systems people already run.

Usage: quorate COMMAND [flags]

Commands:
  server    run one member of a cluster; takes etcd's flags
  dev       run a cluster of three in this process, to try things out
  version   print the version
  help      print this page, or that of a command: quorate help server

'quorate COMMAND --help' explains a command's flags.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(|argument| argument.into_string());
    let arguments: Vec<String> = match arguments.by_ref().collect() {
        Ok(arguments) => arguments,
        Err(bad) => return misused(&format!("the argument {bad:?} is not valid UTF-8")),
    };
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match command {
        "server" => server::main(rest),
        "dev" => dev::main(rest),
        "version" | "--version" | "-version" => {
            println!("{}", version::text());
            ExitCode::SUCCESS
        }
        "help" | "--help" | "-help" | "-h" => help(rest),
        other => misused(&format!("{other:?} is no command of quorate")),
    }
}

fn help(topics: &[String]) -> ExitCode {
    match topics.first().map(String::as_str) {
        None => print!("{USAGE}"),
        Some("server") => print!("{}", flags::page()),
        Some("dev") => print!("{}", dev::USAGE),
        Some(other) => return misused(&format!("there is no help on {other:?}")),
    }
    ExitCode::SUCCESS
}

fn misused(what: &str) -> ExitCode {
    eprintln!("quorate: {what}\n");
    eprint!("{USAGE}");
    ExitCode::from(2)
}
