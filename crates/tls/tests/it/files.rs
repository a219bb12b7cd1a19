//! Files and settings that can't work are refused by name.

use quorate_tls::{Version, Versions};

use super::*;

#[test]
fn files_that_cannot_be_used_are_named_with_their_setting() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let (good, other) = (ca.plain("good"), ca.plain("other"));
    let missing = folder.path().join("missing.pem");
    let garbage = folder.path().join("garbage.pem");
    std::fs::write(&garbage, b"not PEM at all").expect("written");
    let broken = folder.path().join("broken.pem");
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .expect("written");
    let text = |path: &Path| path.display().to_string();
    for (settings, expected) in [
        (
            serving(&(missing.clone(), good.1.clone())),
            format!("peer-cert-file: cannot read {}: No such file", text(&missing)),
        ),
        (
            serving(&(good.0.clone(), missing.clone())),
            format!("peer-key-file: cannot read {}: No such file", text(&missing)),
        ),
        (
            serving(&(garbage.clone(), good.1.clone())),
            format!("peer-cert-file: {} holds no certificate", text(&garbage)),
        ),
        (
            serving(&(good.0.clone(), good.0.clone())),
            format!("peer-key-file: {} holds no private key", text(&good.0)),
        ),
        (serving(&(broken.clone(), good.1.clone())), format!("peer-cert-file: {}: no usable", text(&broken))),
        (
            serving(&(good.0.clone(), other.1.clone())),
            format!("{}: this key does not belong to the certificate in {}", text(&other.1), text(&good.0)),
        ),
        (
            Settings { trusted_ca_file: Some(missing.clone()), ..serving(&good) },
            format!("peer-trusted-ca-file: cannot read {}", text(&missing)),
        ),
        (
            Settings { trusted_ca_file: Some(broken.clone()), ..serving(&good) },
            format!("peer-trusted-ca-file: {}: no usable CA", text(&broken)),
        ),
    ] {
        let error = settings.check(Port::Peer).expect_err(&expected).to_string();
        assert!(error.starts_with(&expected), "{error}\nis not\n{expected}");
    }
    serving(&good).check(Port::Peer).expect("the good pair is fine");
}

#[test]
fn settings_that_contradict_or_miss_each_other_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let good = ca.plain("good");
    let names = vec!["a".to_owned()];
    for (settings, expected) in [
        (Settings { key_file: None, ..serving(&good) }, "cert-file is given without key-file"),
        (Settings { cert_file: None, ..serving(&good) }, "key-file is given without cert-file"),
        (
            Settings { client_cert_file: Some(good.0.clone()), ..serving(&good) },
            "client-cert-file is given without client-key-file",
        ),
        (Settings { client_cert_auth: true, ..serving(&good) }, "client-cert-auth needs trusted-ca-file"),
        (
            Settings { allowed_hostnames: names.clone(), ..serving(&good) },
            "client-cert-allowed-hostname needs trusted-ca-file",
        ),
        (
            Settings {
                allowed_hostnames: names.clone(),
                allowed_common_names: names,
                trusted_ca_file: Some(ca.file.clone()),
                ..serving(&good)
            },
            "client-cert-allowed-cn and client-cert-allowed-hostname exclude each other",
        ),
        (
            Settings {
                versions: Versions { min: Version::Tls13, max: Version::Tls12 },
                ..Settings::default()
            },
            "tls-min-version TLS1.3 is above tls-max-version TLS1.2",
        ),
        (Settings { self_signed_years: 0, ..Settings::default() }, "self-signed-cert-validity: must be"),
    ] {
        let error = settings.check(Port::Client).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(Version::parse("tls-min-version", "TLS1.1").is_err());
    assert_eq!(Version::parse("tls-min-version", "TLS1.2"), Ok(Version::Tls12));
}

#[test]
fn dialling_without_a_ca_is_refused_unless_certificates_are_made_at_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = Ca::new(folder.path(), "ca").plain("good");
    let error = connector(&serving(&good)).expect_err("refused").to_string();
    assert!(error.starts_with("dialling an https:// URL needs peer-trusted-ca-file"), "{error}");
    assert!(connector(&Settings { auto: true, ..Settings::default() }).is_ok());
}
