//! `quorate server --snet-config`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use quorate_interop::{Process, free_port, http_get, wait_until};

use super::{binary, quorate, scratch};

const STOP_MAX: Duration = Duration::from_secs(60);

fn configuration(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("snetd.config.json");
    std::fs::write(&path, text).expect("written");
    path
}

#[test]
fn the_member_of_a_daemons_configuration_runs_alone_and_silent_at_level_error() {
    let (_guard, folder) = scratch();
    let client = free_port();
    let file = configuration(
        &folder,
        &format!(
            r#"{{"payment_channel_storage_server": {{
                "id": "storage-1", "host" : "127.0.0.1", "client_port": {client}, "peer_port": 1,
                "token": "unique-token", "data_dir": {:?}, "log_level": "error", "enabled": true
            }}}}"#,
            folder.join("data")
        ),
    );
    let mut process = Process::start(
        Command::new(binary())
            .args(["server", "--snet-config"])
            .arg(&file)
            .env("SNET_PAYMENT_CHANNEL_STORAGE_SERVER_PEER_PORT", free_port().to_string()),
        &folder.join("log"),
    )
    .expect("it starts");
    let address = format!("127.0.0.1:{client}");
    wait_until("the member is healthy", || {
        http_get(&address, "/health").is_ok_and(|(_, body)| body.contains("\"health\":\"true\""))
    })
    .expect("it serves");
    process.signal("TERM").expect("a signal");
    assert_eq!(process.wait(STOP_MAX).expect("it stops").code(), Some(0));
    assert_eq!(process.output(), "", "a healthy server at level error is silent");
}

#[test]
fn what_can_not_be_used_is_said_and_ends_with_status_1() {
    let (_guard, folder) = scratch();
    let run = |text: &str, more: &[&str]| {
        let file = configuration(&folder, text).display().to_string();
        let output = quorate(&[&["server", "--snet-config", &file], more].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{text}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = run(r#"{"payment_channel_storage_server": {"client_port": 99999, "log_level": "x"}}"#, &[]);
    assert!(text.contains("payment_channel_storage_server.client_port: 99999 is no port"), "{text}");
    assert!(text.contains("payment_channel_storage_server.log_level: \"x\" is no level"), "{text}");
    assert!(run("{}", &[]).contains("payment_channel_storage_server is not there or not enabled"));
    let both = run("{}", &["--name", "m1"]);
    assert!(both.contains("--name can't be given together with --snet-config"), "{both}");
}
