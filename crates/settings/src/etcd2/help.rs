//! The help page of `quorate etcd2`, made from the table.

use std::fmt::Write as _;

use super::table::{ALIASES, Effect, FLAGS, Flag};

/// What stands above the flags.
pub const INTRODUCTION: &str = "\
Run one machine of a cluster, with the flags of etcd 0.4.

Usage:
  quorate etcd2 [flags]

Example: a cluster of two
  quorate etcd2 -name machine1 -peer-addr 10.0.0.1:7001 -addr 10.0.0.1:4001 -data-dir machines/machine1
  quorate etcd2 -name machine2 -peer-addr 10.0.0.2:7001 -addr 10.0.0.2:4001 -data-dir machines/machine2 \\
    -peers 10.0.0.1:7001

-flag and --flag are the same; a value follows after '=' or a space; the last of repeated flags wins. Settings come from
/etc/etcd/etcd.conf, the file of -config, the environment and the flags; a later one of these wins.
";

const WIDTH: usize = 110;
const INDENT: usize = 6;

/// The page.
#[must_use]
pub fn page() -> String {
    let mut page = format!("{INTRODUCTION}\nFlags:\n");
    for flag in FLAGS {
        let placeholder = flag.kind.placeholder();
        let default = match flag.default {
            "" | "false" => String::new(),
            default => format!(" (default {default})"),
        };
        let _ = writeln!(page, "  -{}{placeholder}{default}", flag.name);
        let mut text = text_of(flag);
        if let Some(variable) = flag.variables.last() {
            let _ = write!(text, " {variable}.");
        }
        wrapped(&mut page, &text);
    }
    let older: Vec<String> = ALIASES.iter().map(|(old, now)| format!("-{old} (-{now})")).collect();
    page += "\nOlder names:\n";
    wrapped(&mut page, &older.join(", "));
    page
}

/// What a flag does here.
#[must_use]
pub fn text_of(flag: &Flag) -> String {
    match flag.effect {
        Effect::Used => flag.help.to_owned(),
        Effect::Nothing(why) => format!("{} Accepted without effect: {why}.", flag.help),
    }
}

fn wrapped(page: &mut String, text: &str) {
    let mut length = 0;
    for word in text.split_whitespace() {
        if length > 0 && INDENT + length + 1 + word.len() > WIDTH {
            page.push('\n');
            length = 0;
        }
        let before = if length == 0 { INDENT } else { 1 };
        let _ = write!(page, "{:before$}{word}", "");
        length += word.len() + usize::from(length > 0);
    }
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_stands_on_the_page_once_and_lines_fit() {
        let page = page();
        for flag in FLAGS {
            let head = format!("  -{}", flag.name);
            let heads = page.lines().filter(|line| {
                line.split(" (").next().is_some_and(|line| {
                    line.strip_prefix(&head).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
                })
            });
            assert_eq!(heads.count(), 1, "-{}", flag.name);
        }
        assert!(page.lines().all(|line| line.len() <= 120));
        assert!(page.contains("-C (-peers)"));
    }
}
