//! Lists of revoked certificates, and cipher suites by name.

use quorate_tls::{Settings, Version, Versions};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd};

use super::*;

const REVOKED: u64 = 77;

/// A list of `ca` with these serial numbers.
fn list(ca: &Ca, serials: &[u64]) -> rcgen::CertificateRevocationList {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2020, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2120, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&ca.issuer).expect("signed")
}

fn with_serial(ca: &Ca, name: &str, serial: u64) -> (PathBuf, PathBuf) {
    ca.sign(name, |params| params.serial_number = Some(SerialNumber::from(serial)))
}

#[tokio::test]
async fn revoked_certificates_are_refused_on_both_sides_and_others_are_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let (revoked, good) = (with_serial(&ca, "revoked", REVOKED), with_serial(&ca, "good", REVOKED + 1));
    let (pem, der) = (folder.path().join("crl.pem"), folder.path().join("crl.der"));
    std::fs::write(&pem, list(&ca, &[REVOKED, 5]).pem().expect("PEM")).expect("written");
    std::fs::write(&der, list(&ca, &[REVOKED]).der()).expect("written");
    for crl in [&pem, &der] {
        let settings = Settings {
            trusted_ca_file: Some(ca.file.clone()),
            crl_file: Some(crl.clone()),
            ..serving(&good)
        };
        let demanding = acceptor(&settings).expect("usable");
        let bad = connector(&dialling(&ca, Some(&revoked))).expect("usable");
        meet(&demanding, &bad).await.refused("it has been revoked", &revoked.0.display().to_string());
        let fine = connector(&dialling(&ca, Some(&good))).expect("usable");
        meet(&demanding, &fine).await.fine();
        // The same list where the other side is dialled.
        let settings = Settings { crl_file: Some(crl.clone()), ..dialling(&ca, Some(&good)) };
        let checking = connector(&settings).expect("usable");
        let serves_revoked = acceptor(&serving(&revoked)).expect("usable");
        meet(&serves_revoked, &checking).await.refused("refuses our certificate", "it has been revoked");
        meet(&acceptor(&serving(&good)).expect("usable"), &checking).await.fine();
    }
}

#[tokio::test]
async fn a_list_counts_for_its_own_ca_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, other) = (Ca::new(folder.path(), "ca"), Ca::new(folder.path(), "other"));
    let crl = folder.path().join("crl.pem");
    std::fs::write(&crl, list(&other, &[REVOKED]).pem().expect("PEM")).expect("written");
    let shown = with_serial(&ca, "same-serial", REVOKED);
    let settings = Settings {
        trusted_ca_file: Some(ca.file.clone()),
        crl_file: Some(crl),
        ..serving(&ca.plain("server"))
    };
    let connector = connector(&dialling(&ca, Some(&shown))).expect("usable");
    meet(&acceptor(&settings).expect("usable"), &connector).await.fine();
}

#[test]
fn lists_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let server = ca.plain("server");
    let crl = folder.path().join("crl.pem");
    let check = |text: &[u8], ca_file: Option<PathBuf>| {
        std::fs::write(&crl, text).expect("written");
        let settings = Settings { trusted_ca_file: ca_file, crl_file: Some(crl.clone()), ..serving(&server) };
        settings.check(Port::Peer).expect_err("refused").to_string()
    };
    let trusted = Some(ca.file.clone());
    let name = format!("peer-crl-file: {}: ", crl.display());
    let certificate = std::fs::read(&server.0).expect("readable");
    let error = check(&certificate, trusted.clone());
    assert_eq!(error, format!("{name}it holds no list of revoked certificates (BEGIN X509 CRL)"));
    let error = check(b"no list at all", trusted);
    assert!(error.starts_with(&name), "{error}");
    let error = check(&certificate, None);
    assert!(error.starts_with("peer-crl-file needs peer-trusted-ca-file"), "{error}");
}

#[tokio::test]
async fn only_the_cipher_suites_that_are_named_are_offered() {
    const AES_128: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    const AES_256: &str = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "ca");
    let server = ca.plain("server");
    let old_only = Versions { min: Version::Tls12, max: Version::Tls12 };
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let limited = |suites: &[&str]| Settings { cipher_suites: names(suites), ..serving(&server) };
    let dials = |versions, suites: &[&str]| {
        connector(&Settings { versions, cipher_suites: names(suites), ..dialling(&ca, None) })
            .expect("usable")
    };
    let aes_256 = acceptor(&limited(&[AES_256])).expect("usable");
    meet(&aes_256, &dials(old_only, &[AES_128, AES_256])).await.fine();
    meet(&aes_256, &dials(old_only, &[AES_128])).await.refused("no TLS version or cipher", "");
    // TLS 1.3 has suites of its own, which all stay unless some of them are named.
    meet(&aes_256, &dials(Versions::default(), &[AES_128])).await.fine();
    let one_of_each = acceptor(&limited(&[AES_256, "TLS_AES_128_GCM_SHA256"])).expect("usable");
    let chacha = dials(Versions::default(), &[AES_128, "TLS_CHACHA20_POLY1305_SHA256"]);
    meet(&one_of_each, &chacha).await.refused("", "");
}

#[test]
fn cipher_suites_are_known_by_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Ca::new(folder.path(), "ca").plain("server");
    let check = |suites: &[&str], min| {
        let versions = Versions { min, ..Versions::default() };
        let cipher_suites = suites.iter().map(|&name| name.to_owned()).collect();
        Settings { cipher_suites, versions, ..serving(&server) }.check(Port::Client)
    };
    let fine = ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
    assert_eq!(check(&fine, Version::Tls12), Ok(()));
    let unknown = check(&["TLS_RSA_WITH_AES_128_CBC_SHA"], Version::Tls12).expect_err("refused").to_string();
    assert!(unknown.contains("\"TLS_RSA_WITH_AES_128_CBC_SHA\" is none that is known"), "{unknown}");
    assert!(unknown.contains("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"), "{unknown}");
    assert_eq!(check(&fine, Version::Tls13), Err(TlsError::CiphersOfTls13));
}
