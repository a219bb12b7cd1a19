//! The help page of `quorate server`, made from the table.

use std::fmt::Write as _;

use super::{Flag, Group, Status, all};

/// What a misused command line is answered with.
pub const USAGE_HINT: &str = "Run 'quorate server --help' for the flags.";

/// What stands before the flags.
pub const INTRODUCTION: &str = "\
Run one member of a cluster.

Usage:
  quorate server [flags]
  quorate server --config-file quorate.yaml

Example: the first of three founding members
  quorate server --name m1 \\
    --listen-peer-urls http://10.0.0.1:2380 --initial-advertise-peer-urls http://10.0.0.1:2380 \\
    --listen-client-urls http://10.0.0.1:2379 --advertise-client-urls http://10.0.0.1:2379 \\
    --initial-cluster m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380,m3=http://10.0.0.3:2380

The flags are etcd's. -flag and --flag are the same; a value follows after '=' or a space; the last of repeated flags
wins. Each flag can also come from the environment: ETCD_ and its name in capitals with '_' for '-', such as
ETCD_DATA_DIR. A flag wins over its variable; a configuration file replaces both.
";

const WIDTH: usize = 110;
const INDENT: usize = 6;

/// The page.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    for group in Group::ALL {
        let _ = writeln!(page, "\n{}:", group.title());
        for flag in all().filter(|flag| flag.group == group) {
            describe(&mut page, flag);
        }
    }
    page
}

fn describe(page: &mut String, flag: &Flag) {
    let default = match flag.default {
        "" | "false" => String::new(),
        default if default.contains(' ') => String::new(),
        default => format!(" (default {default})"),
    };
    let _ = writeln!(page, "  --{}{}{default}", flag.name, flag.kind.placeholder());
    for line in wrap(&text_of(flag)) {
        let _ = writeln!(page, "{:INDENT$}{line}", "");
    }
}

/// What a flag does here.
#[must_use]
pub fn text_of(flag: &Flag) -> String {
    match flag.status {
        Status::Supported => flag.help.to_owned(),
        Status::NotYet => format!("{} Not supported yet.", flag.help),
        Status::Ignored(why) => format!("{} Accepted without effect: {why}.", flag.help),
        Status::Renamed(now) => format!("Older name of --{now}."),
    }
}

fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if !line.is_empty() && INDENT + line.len() + 1 + word.len() > WIDTH {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_stands_on_the_page_once_and_lines_fit() {
        let page = page();
        for flag in all() {
            let heads = page
                .lines()
                .filter(|line| {
                    line.trim_start().split([' ', '=']).next() == Some(&format!("--{}", flag.name))
                })
                .filter(|line| line.starts_with("  --"))
                .count();
            assert_eq!(heads, 1, "--{}", flag.name);
        }
        assert!(page.lines().all(|line| line.len() <= 120));
    }
}
