//! What `quorate version` and `quorate server --version` print.

/// The etcd version whose interface is served; tools parse the line that carries it.
const ETCD_VERSION: &str = "3.7.1";

/// Four lines in etcd's form, then our own.
#[must_use]
pub fn text() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: none (this is Quorate)\nGo Version: none (written in Rust)\n\
         Go OS/Arch: {}/{}\nQuorate Version: {}",
        std::env::consts::OS,
        go_architecture(std::env::consts::ARCH),
        env!("CARGO_PKG_VERSION"),
    )
}

/// Go's name of a processor architecture.
fn go_architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_lines_are_where_tools_look_for_them() {
        let text = super::text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "etcd Version: 3.7.1");
        assert!(lines[1].starts_with("Git SHA: ") && lines[2].starts_with("Go Version: "));
        assert!(lines[3].starts_with("Go OS/Arch: ") && lines[4].starts_with("Quorate Version: "));
    }
}
