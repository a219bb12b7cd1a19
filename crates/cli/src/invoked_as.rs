//! What the binary does when it is called by another program's name, as a link or a copy: `etcd` starts a member as the
//! etcd that the data folder or the flags are of.
//!
//! Only the name and what is beside it decide; the choice is logged, with the command that makes it outright.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use quorate::etcd2::Marker;

use quorate_settings::etcd2::{host_name, table};
use quorate_settings::{Notice, Severity, server as flags};

/// A command chosen by the program's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub command: &'static str,
    /// To be logged once logging runs.
    pub notice: Notice,
}

/// The command that `program` stands for; `None` for a name that stands for nothing, such as `quorate`.
pub fn chosen(
    program: Option<&OsStr>,
    arguments: &[String],
    variables: &BTreeMap<String, String>,
) -> Option<Chosen> {
    let name = Path::new(program?).file_name()?.to_str()?;
    let (command, why) = match name {
        "etcd" => which_etcd(arguments, variables),
        _ => return None,
    };
    let text = format!(
        "called as '{name}': running 'quorate {command}', because {why}. To choose yourself, call 'quorate server' \
         (etcd 3) or 'quorate etcd2' (etcd 0.4)"
    );
    Some(Chosen { command, notice: Notice { severity: Severity::Info, text } })
}

fn which_etcd(arguments: &[String], variables: &BTreeMap<String, String>) -> (&'static str, String) {
    for folder in data_folders(arguments, variables) {
        if let Some(command) = command_of(&folder) {
            return (command, format!("the data folder {} is of it", folder.display()));
        }
    }
    let of_0_4 = names(arguments).find(|name| table::is_of_0_4_alone(name));
    if let Some(name) = of_0_4 {
        return ("etcd2", format!("-{name} is a flag of etcd 0.4 alone"));
    }
    if let Some(variable) = variables.keys().find(|variable| is_variable_of_0_4_alone(variable)) {
        return ("etcd2", format!("{variable} is a variable of etcd 0.4 alone"));
    }
    ("server", "no flag and no data folder is of etcd 0.4".to_owned())
}

/// The command whose data a folder holds.
fn command_of(folder: &Path) -> Option<&'static str> {
    match Marker::read(folder) {
        Ok(Some(marker)) if marker.protocol == "etcd2" => Some("etcd2"),
        // Another system's: the member that opens it says so.
        Ok(Some(_)) | Err(_) => Some("server"),
        Ok(None) if folder.join("conf").is_file() && folder.join("log").is_file() => Some("etcd2"),
        Ok(None) => folder.join("wal").is_dir().then_some("server"),
    }
}

/// The flags that are named, without their values.
fn names(arguments: &[String]) -> impl Iterator<Item = &str> {
    arguments
        .iter()
        .filter_map(|argument| argument.strip_prefix('-'))
        .map(|body| body.strip_prefix('-').unwrap_or(body))
        .map(|body| body.split_once('=').map_or(body, |(name, _)| name))
}

fn is_variable_of_0_4_alone(variable: &str) -> bool {
    table::FLAGS.iter().any(|flag| flag.variables.contains(&variable))
        && !flags::all().any(|flag| flag.variable() == variable)
}

/// Where the data may be: where it is said, or else in the folder that either etcd takes by itself.
fn data_folders(arguments: &[String], variables: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let given = |names: [&str; 2], variable: &str| {
        value(arguments, &names).or_else(|| variables.get(variable).cloned()).filter(|text| !text.is_empty())
    };
    if let Some(folder) = given(["data-dir", "d"], "ETCD_DATA_DIR") {
        return vec![folder.into()];
    }
    let own = |name: &str| PathBuf::from(format!("{name}.etcd"));
    match given(["name", "n"], "ETCD_NAME") {
        Some(name) => vec![own(&name)],
        None => std::iter::once("default".to_owned()).chain(host_name()).map(|name| own(&name)).collect(),
    }
}

/// The last value that one of these flags is given.
fn value(arguments: &[String], names: &[&str]) -> Option<String> {
    let mut found = None;
    for (place, argument) in arguments.iter().enumerate() {
        let Some(body) = argument.strip_prefix('-') else { continue };
        let body = body.strip_prefix('-').unwrap_or(body);
        match body.split_once('=') {
            Some((name, value)) if names.contains(&name) => found = Some(value.to_owned()),
            None if names.contains(&body) => found = arguments.get(place + 1).cloned(),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(
        program: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Option<(&'static str, String)> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let variables = variables.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
        chosen(Some(OsStr::new(program)), &arguments, &variables)
            .map(|chosen| (chosen.command, chosen.notice.text))
    }

    fn command(arguments: &[&str], variables: &[(&str, &str)]) -> &'static str {
        choose("/usr/bin/etcd", arguments, variables).expect("etcd stands for something").0
    }

    #[test]
    fn only_etcd_is_another_name() {
        assert_eq!(choose("quorate", &["server"], &[]), None);
        assert_eq!(choose("./target/debug/quorate", &[], &[]), None);
        let (command, text) = choose("./etcd", &["-peer-addr", "127.0.0.1:7001"], &[]).expect("chosen");
        assert_eq!(command, "etcd2");
        assert!(
            text.contains("-peer-addr is a flag of etcd 0.4 alone") && text.contains("'quorate server'"),
            "{text}"
        );
    }

    #[test]
    fn flags_and_variables_of_0_4_alone_decide() {
        let folder = tempfile::tempdir().expect("a folder");
        let none = folder.path().join("none").display().to_string();
        assert_eq!(
            command(&["--data-dir", &none, "--name=a", "--listen-client-urls", "http://h:1"], &[]),
            "server"
        );
        assert_eq!(command(&["-data-dir", &none, "-f"], &[]), "etcd2");
        assert_eq!(command(&["-d", &none], &[]), "etcd2", "an older name is of 0.4 alone, too");
        assert_eq!(command(&["-data-dir", &none], &[("ETCD_PEERS", "h:1")]), "etcd2");
        assert_eq!(command(&["-data-dir", &none], &[("ETCD_NAME", "a"), ("ETCD_DISCOVERY", "u")]), "server");
    }

    #[test]
    fn a_data_folder_decides_before_flags() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display().to_string();
        std::fs::create_dir(folder.path().join("wal")).expect("made");
        assert_eq!(command(&["-data-dir", &path, "-peer-addr", "h:1"], &[]), "server");
        Marker::new("etcd2").write(folder.path()).expect("written");
        assert_eq!(command(&["--data-dir", &path, "--listen-client-urls", "u"], &[]), "etcd2");
        assert_eq!(command(&[], &[("ETCD_DATA_DIR", &path)]), "etcd2");
        Marker::new("balsa").write(folder.path()).expect("written");
        assert_eq!(command(&["-data-dir", &path], &[]), "server");
    }
}
