//! Command lines that end at once: help, versions, and all kinds of mistakes.

use std::process::Output;

use super::{quorate, scratch};

fn error_of(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_and_version_go_to_standard_output() {
    for arguments in [
        &["help"][..],
        &["--help"],
        &["help", "server"],
        &["server", "--help"],
        &["server", "-h"],
        &["dev", "--help"],
    ] {
        let output = quorate(arguments, &[]);
        assert!(output.status.success(), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage:"), "{arguments:?}");
    }
    for arguments in [&["version"][..], &["--version"], &["server", "--version"]] {
        let output = quorate(arguments, &[]);
        assert!(output.status.success() && output.stdout.starts_with(b"etcd Version: 3.7.1\n"), "{output:?}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure_of_what_is_printed() {
    for arguments in [
        &["help"][..],
        &["help", "server"],
        &["server", "--help"],
        &["server", "--version"],
        &["etcd2", "-help"],
        &["etcd2", "-version"],
        &["balsa", "--help"],
        &["balsa", "--version"],
        &["dev", "--help"],
        &["version"],
        &["ctl", "--help"],
        &["ctl", "get", "--help"],
        &["cluster", "--help"],
        &["completions", "bash"],
        &["man"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = std::process::Command::new(super::binary());
        let output = command.args(arguments).stdout(writer).output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_misused_command_line_is_answered_with_usage_and_status_2() {
    for (arguments, expected) in [
        (&[][..], "Usage: quorate COMMAND"),
        (&["fly"], "\"fly\" is no command of quorate"),
        (&["help", "fly"], "there is no help on \"fly\""),
        (&["server", "--no-such-flag"], "flag provided but not defined: -no-such-flag"),
        (&["server", "---name=a"], "bad flag syntax: ---name=a"),
        (&["server", "--name"], "flag needs an argument: -name"),
        (&["server", "--heartbeat-interval=often"], "invalid value \"often\" for flag -heartbeat-interval"),
        (&["dev", "--port-base=0"], "--port-base"),
        (&["dev", "--nodes=5"], "flag provided but not defined: -nodes"),
    ] {
        let error = error_of(&quorate(arguments, &[]), 2);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_opened() {
    for (arguments, expected) in [
        (&["extra"][..], "\"extra\" is not a valid flag"),
        (&["--memory-mlock"], "--memory-mlock is not supported yet"),
        (&["--cipher-suites=X"], "cipher-suites: \"X\" is none that is known here; the names are: TLS_"),
        (
            &["--listen-peer-urls=127.0.0.1:1"],
            "listen-peer-urls: \"127.0.0.1:1\" is no usable URL: it must start with",
        ),
        (&["--listen-peer-urls=http://127.0.0.1:99999"], "the port must be a number from 0 to 65535"),
        (&["--listen-peer-urls="], "listen-peer-urls: at least one URL is needed"),
        (
            &[
                "--listen-client-urls=http://example.invalid:1",
                "--advertise-client-urls=http://example.invalid:1",
            ],
            "an IP address or localhost is needed",
        ),
        (&["--listen-client-urls=http://127.0.0.1:1"], "advertise-client-urls is required"),
        (&["--initial-cluster=default"], "initial-cluster: \"default\" must have the form name=url"),
        (&["--initial-cluster=a=http://127.0.0.1:1"], "there is no member named \"default\""),
        (&["--initial-cluster=default=http://127.0.0.1:1"], "they have to be the same"),
        (&["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"], "is given twice"),
        (&["--election-timeout=499"], "should be at least five times"),
        (&["--election-timeout=50001"], "is too long"),
        (&["--max-request-bytes=0"], "max-request-bytes: must be from 1 to"),
        (&["--enable-log-rotation"], "log-outputs has to be the path of one file"),
        (
            &[
                "--enable-log-rotation",
                "--log-outputs=q.log",
                "--log-rotation-config-json={\"compress\":true}",
            ],
            "\"compress\" is not supported yet",
        ),
        (&["--config-file=/no/such/file"], "cannot read the configuration file /no/such/file"),
    ] {
        let (_guard, folder) = scratch();
        let data_dir = format!("--data-dir={}", folder.join("data").display());
        let mut all = vec!["server", &data_dir];
        all.extend(arguments);
        let error = error_of(&quorate(&all, &[]), 1);
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert!(!folder.join("data").exists(), "{arguments:?} left a folder");
    }
}

#[test]
fn variables_and_files_are_checked_like_flags() {
    let error = error_of(&quorate(&["server"], &[("ETCD_ELECTION_TIMEOUT", "x")]), 1);
    assert!(error.contains("invalid value \"x\" for ETCD_ELECTION_TIMEOUT"), "{error}");
    let (_guard, folder) = scratch();
    let file = folder.join("q.yaml");
    std::fs::write(&file, "name: a\nno-such-key: 1\n").expect("written");
    let path = file.display().to_string();
    for (arguments, variables) in [
        (vec!["server", "--config-file", &path], vec![]),
        (vec!["server"], vec![("ETCD_CONFIG_FILE", path.as_str())]),
    ] {
        let error = error_of(&quorate(&arguments, &variables), 1);
        assert!(error.contains("unknown key \"no-such-key\""), "{error}");
    }
}

#[test]
fn files_that_are_no_yaml_or_hold_what_no_setting_is_are_told_with_the_place() {
    let (_guard, folder) = scratch();
    for (text, expected) in [
        ("name: 'a\n", "q.yaml is no valid YAML: "),
        ("{", "q.yaml is no valid YAML: "),
        ("- a\n- b\n", "q.yaml is no valid YAML: "),
        ("name: a\nname: b\n", "q.yaml is no valid YAML: "),
        ("a: &a [*a]\n", "q.yaml is no valid YAML: "),
        ("name: \"\\xff\n", "q.yaml is no valid YAML: "),
        ("heartbeat-interval: soon\n", "invalid value for \"heartbeat-interval\" in the configuration file"),
        ("heartbeat-interval: -1\n", "invalid value for \"heartbeat-interval\" in the configuration file"),
        ("election-timeout: 10\n", "should be at least five times"),
        ("peer-transport-security: {cert: x}\n", "unknown key \"peer-transport-security.cert\""),
        ("client-transport-security: yes please\n", "must be a section"),
        ("initial-cluster-state: old\n", "must be one of: new, existing"),
        ("memory-mlock: true\n", "--memory-mlock is not supported yet"),
    ] {
        let file = folder.join("q.yaml");
        std::fs::write(&file, text).expect("written");
        let error = error_of(&quorate(&["server", "--config-file", &file.display().to_string()], &[]), 1);
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    let file = folder.join("bytes.yaml");
    std::fs::write(&file, b"name: \xff\xfe\n").expect("written");
    let error = error_of(&quorate(&["server", "--config-file", &file.display().to_string()], &[]), 1);
    assert!(error.contains("cannot read the configuration file"), "{error}");
}

#[test]
fn two_members_of_one_name_are_refused_before_anything_is_opened() {
    let own = "--initial-advertise-peer-urls=http://127.0.0.1:1";
    let listen = "--listen-peer-urls=http://127.0.0.1:1";
    for (founders, state, expected) in [
        // As in etcd, a name that stands there twice is one member with two URLs.
        ("a=http://127.0.0.1:1,a=http://127.0.0.1:2", "new", "they have to be the same"),
        ("a=http://127.0.0.1:1,a=http://127.0.0.1:2", "existing", "they have to be the same"),
        ("a=http://127.0.0.1:1,b=http://127.0.0.1:1", "new", "is given twice"),
        ("b=http://127.0.0.1:1,c=http://127.0.0.1:2", "new", "there is no member named \"a\""),
    ] {
        let (_guard, folder) = scratch();
        let data_dir = format!("--data-dir={}", folder.join("data").display());
        let founders = format!("--initial-cluster={founders}");
        let state = format!("--initial-cluster-state={state}");
        let error =
            error_of(&quorate(&["server", "--name=a", &data_dir, own, listen, &founders, &state], &[]), 1);
        assert!(error.contains(expected), "{founders}: {error}");
        assert!(!folder.join("data").exists(), "{founders} left a folder");
    }
}
