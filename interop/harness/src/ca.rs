//! Certificates for tests over TLS.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};

/// A CA that signs certificates for 127.0.0.1 into a folder.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub file: PathBuf,
}

impl Ca {
    /// A CA whose certificate lies in `folder` as `<name>.pem`.
    ///
    /// # Panics
    /// Where the folder can't be written.
    #[must_use]
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).expect("signed").pem()).expect("written");
        Self { issuer: Issuer::new(params, key), file }
    }

    /// Signs `<name>.pem` and `<name>-key.pem`, for servers and clients.
    ///
    /// # Panics
    /// Where the folder can't be written.
    pub fn sign(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        self.sign_numbered(folder, name, None)
    }

    /// The same with a serial number of one's own, by which it can be revoked.
    ///
    /// # Panics
    /// Where the folder can't be written.
    pub fn sign_numbered(&self, folder: &Path, name: &str, serial: Option<u64>) -> (PathBuf, PathBuf) {
        self.sign_with(folder, name, |params| params.serial_number = serial.map(SerialNumber::from))
    }

    /// The same for another host than 127.0.0.1.
    ///
    /// # Panics
    /// Where the folder can't be written.
    pub fn sign_for(&self, folder: &Path, name: &str, host: &str) -> (PathBuf, PathBuf) {
        let hosts = CertificateParams::new(vec![host.to_owned()]).expect("parameters").subject_alt_names;
        self.sign_with(folder, name, |params| params.subject_alt_names = hosts)
    }

    /// The same, out of date for years.
    ///
    /// # Panics
    /// Where the folder can't be written.
    pub fn sign_expired(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        self.sign_with(folder, name, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    fn sign_with(
        &self,
        folder: &Path,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        let files = (folder.join(format!("{name}.pem")), folder.join(format!("{name}-key.pem")));
        std::fs::write(&files.1, key.serialize_pem()).expect("written");
        std::fs::write(&files.0, cert.pem()).expect("written");
        files
    }

    /// Writes a list of revoked certificates, by their serial numbers.
    ///
    /// # Panics
    /// Where the file can't be written.
    pub fn revoke(&self, file: &Path, serials: &[u64]) {
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
        let list = params.signed_by(&self.issuer).expect("signed");
        std::fs::write(file, list.pem().expect("PEM")).expect("written");
    }
}
