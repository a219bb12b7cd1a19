//! TLS with client certificates on both ports.

use std::path::Path;

use anyhow::{Context as _, ensure};
use quorate_interop::{Ca, Cluster};

use super::SIZE;
use crate::tools::{Tools, output};

/// Clients with a certificate of the CA do all that they do without TLS; one without gets nowhere.
pub fn client_certificates(tools: &Tools, scratch: &Path) -> anyhow::Result<()> {
    let ca = Ca::new(scratch, "ca");
    let text = |path: &Path| path.display().to_string();
    let mut cluster = Cluster::plan(&tools.binary, scratch, SIZE, &[])?;
    for number in 0..SIZE {
        let mut flags = cluster.members[number].https(&cluster.members);
        let (cert, key) = ca.sign(scratch, &format!("server{number}"));
        for prefix in ["", "peer-"] {
            flags.extend([
                format!("--{prefix}cert-file={}", text(&cert)),
                format!("--{prefix}key-file={}", text(&key)),
                format!("--{prefix}trusted-ca-file={}", text(&ca.file)),
                format!("--{prefix}client-cert-auth"),
            ]);
        }
        cluster.members[number].start_with(&flags.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    cluster.members.iter_mut().try_for_each(|member| member.wait_ready())?;
    let (cert, key) = ca.sign(scratch, "client");
    let (ca, cert, key) = (text(&ca.file), text(&cert), text(&key));
    let secured: Vec<String> =
        cluster.members.iter().map(|member| format!("https://{}", member.client)).collect();
    let secured = secured.join(",");
    tools.go(&["smoke", "-endpoints", &secured, "-cacert", &ca, "-cert", &cert, "-key", &key])?;
    let shown = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    let put = output(tools.etcdctl_command(&secured)?.args(shown).args(["put", "k", "v"]))?;
    ensure!(put.trim() == "OK", "put printed {put}");
    let without = output(tools.etcdctl_command(&secured)?.args(["--cacert", &ca, "get", "k"]));
    ensure!(without.is_err(), "a client without a certificate read {without:?}");
    let got = output(tools.etcdctl_command(&secured)?.args(shown).args(["get", "k", "--print-value-only"]))
        .context("after the refusal")?;
    ensure!(got.trim() == "v", "get printed {got}");
    cluster.terminate()
}
