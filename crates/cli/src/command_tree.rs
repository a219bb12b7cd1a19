//! The whole command line as clap knows it, for completions and man pages. The flags of `server` come from their own
//! table and are read by their own reader; here they are only described.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, ArgAction, Command, CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;

use crate::{balsa, cluster, ctl, dev, migrate};
use quorate_settings::etcd2;
use quorate_settings::server::{self as flags, Kind};

const ABOUT: &str = "A replicated store that speaks the protocols of the systems people already run";

/// Print what makes a shell complete the commands and flags of quorate.
#[derive(Debug, Parser)]
#[command(name = "quorate-completions", bin_name = "quorate completions")]
#[command(
    after_help = "bash: quorate completions bash > ~/.local/share/bash-completion/completions/quorate\n\
    zsh:  quorate completions zsh > ~/.zfunc/_quorate, with ~/.zfunc in $fpath\n\
    fish: quorate completions fish > ~/.config/fish/completions/quorate.fish"
)]
pub struct Completions {
    shell: ShellName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ShellName {
    Bash,
    Zsh,
    Fish,
}

/// Print the manual page of a command, or write those of all commands.
#[derive(Debug, Parser)]
#[command(name = "quorate-man", bin_name = "quorate man")]
pub struct Man {
    /// The command, such as 'server' or 'ctl get'; quorate as a whole without one.
    #[arg(conflicts_with = "dir")]
    command: Vec<String>,
    /// Write all pages into this folder, which is made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Runs `quorate completions`.
pub fn completions(arguments: &[String]) -> ExitCode {
    let Completions { shell } = match ctl::parse("quorate completions", arguments) {
        Ok(completions) => completions,
        Err(status) => return status,
    };
    let shell = match shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tree(), "quorate", &mut script);
    ctl::finish(ctl::write(&script).map(|()| ExitCode::SUCCESS))
}

/// Runs `quorate man`.
pub fn man(arguments: &[String]) -> ExitCode {
    let Man { command, dir } = match ctl::parse("quorate man", arguments) {
        Ok(man) => man,
        Err(status) => return status,
    };
    let outcome = match dir {
        Some(dir) => write_pages(&dir),
        None => page(&command).and_then(|page| ctl::write(&page)),
    };
    ctl::finish(outcome.map(|()| ExitCode::SUCCESS))
}

fn write_pages(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    clap_mangen::generate_to(tree(), dir)
        .with_context(|| format!("cannot write the pages into {}", dir.display()))
}

fn page(path: &[String]) -> anyhow::Result<Vec<u8>> {
    let mut tree = tree();
    tree.build();
    let mut command = &tree;
    let mut name = command.get_name().to_owned();
    for part in path.iter().flat_map(|part| part.split(' ')) {
        command =
            command.find_subcommand(part).with_context(|| format!("there is no command {name} {part}"))?;
        name = format!("{name} {part}");
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name.replace(' ', "-")).render(&mut page)?;
    Ok(page)
}

/// The whole.
fn tree() -> Command {
    Command::new("quorate")
        .about(ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommands([
            server(),
            etcd2(),
            Command::new("balsa")
                .about("Run one node of a balsa cluster; it takes environment variables")
                .after_help(balsa::USAGE),
            Command::new("dev")
                .about("Run a cluster of three in this process, to try things out")
                .args([
                    text("data-dir", "FOLDER", "Where the members keep their data")
                        .default_value("quorate-dev"),
                    text("port-base", "N", "First port of the table of ports").default_value("2379"),
                    text("log-level", "LEVEL", "debug, info, warn or error").default_value("warn"),
                ])
                .after_help(dev::USAGE),
            named(ctl::Ctl::command(), "ctl"),
            named(cluster::Cluster::command(), "cluster"),
            named(migrate::Migrate::command(), "migrate"),
            named(Completions::command(), "completions"),
            named(Man::command(), "man"),
            Command::new("version").about("Print the version"),
            Command::new("help").about("Print help, or that of a command").arg(Arg::new("COMMAND")),
        ])
}

/// A command under its name inside the whole.
fn named(command: Command, name: &'static str) -> Command {
    command.name(name).bin_name(format!("quorate {name}"))
}

fn text(name: &'static str, placeholder: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(placeholder).help(help)
}

fn server() -> Command {
    let flags = flags::all().map(|flag| {
        let arg = Arg::new(flag.name)
            .long(flag.name)
            .help(flags::text_of(flag))
            .help_heading(flag.group.title())
            .required(false);
        let arg = match flag.kind {
            Kind::Bool => arg.action(ArgAction::SetTrue),
            Kind::Choice(choices) => arg.value_parser(choices.to_vec()),
            kind => arg.value_name(kind.placeholder().trim_start()),
        };
        match flag.default {
            "" => arg,
            _ if flag.kind == Kind::Bool => arg,
            default => arg.default_value(default),
        }
    });
    Command::new("server")
        .about("Run one member of a cluster; takes etcd's flags")
        .long_about(flags::INTRODUCTION)
        .override_usage("quorate server [flags]")
        .disable_version_flag(true)
        .args(flags)
}

/// Flags of etcd 0.4 have any number of letters after one dash or two; here they stand with two.
fn etcd2() -> Command {
    let flags = etcd2::table::FLAGS.iter().filter(|flag| !matches!(flag.name, "h" | "help"));
    let flags = flags.map(|flag| {
        let arg = Arg::new(flag.name).long(flag.name).help(etcd2::text_of(flag));
        match flag.kind {
            etcd2::table::Kind::Bool => arg.action(ArgAction::SetTrue),
            kind => arg.value_name(kind.placeholder().trim_start()),
        }
    });
    Command::new("etcd2")
        .about("Run one machine of a cluster; takes the flags of etcd 0.4")
        .long_about(etcd2::INTRODUCTION)
        .disable_version_flag(true)
        .args(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_sound_and_has_every_flag_of_the_server() {
        tree().debug_assert();
        let server = server();
        for flag in flags::all() {
            assert!(server.get_arguments().any(|arg| arg.get_long() == Some(flag.name)), "--{}", flag.name);
        }
    }

    #[test]
    fn pages_are_found_by_their_path() {
        let text = |path: &[&str]| {
            let path: Vec<String> = path.iter().map(|&part| part.to_owned()).collect();
            page(&path).map(|page| String::from_utf8(page).expect("UTF-8"))
        };
        let whole = text(&[]).expect("a page");
        assert!(whole.starts_with(".ie") || whole.contains(".TH quorate 1"), "{whole}");
        assert!(text(&["server"]).expect("a page").contains("initial\\-cluster\\-token"));
        assert!(text(&["ctl", "lease", "keep-alive"]).expect("a page").contains("keep\\-alive"));
        assert!(text(&["ctl get"]).expect("a page").contains("\\-\\-prefix"));
        assert_eq!(text(&["fly"]).expect_err("none").to_string(), "there is no command quorate fly");
    }

    #[test]
    fn each_shell_gets_a_script_with_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut tree(), "quorate", &mut script);
            let script = String::from_utf8(script).expect("UTF-8");
            for word in ["move-leader", "initial-cluster-state", "completions"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
