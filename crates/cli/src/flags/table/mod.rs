//! Every flag of `quorate server`: those of etcd 3.7, those that only etcd 3.6 has, and our own.
//!
//! Names, types and defaults are etcd's; the help texts say what a flag does here.

mod legacy;
mod operation;
mod own;
mod security;
mod serving;

use super::Flag;

/// The whole table.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    [serving::FLAGS, operation::FLAGS, security::FLAGS, own::FLAGS, legacy::FLAGS].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{Status, find};
    use super::*;

    #[test]
    fn names_are_unique_and_every_default_parses() {
        let mut names = BTreeSet::new();
        for flag in all() {
            assert!(names.insert(flag.name), "--{} is there twice", flag.name);
            let _ = flag.default_value();
            assert!(!flag.help.is_empty(), "--{} has no help", flag.name);
            if let Status::Renamed(target) = flag.status {
                let target = find(target).unwrap_or_else(|| panic!("--{} leads nowhere", flag.name));
                assert_eq!(target.kind, flag.kind, "--{}", flag.name);
                assert!(!matches!(target.status, Status::Renamed(_)), "--{} leads in circles", flag.name);
            }
        }
    }

    /// Command lines as kubeadm and etcd's own tooling write them.
    #[test]
    fn command_lines_found_in_the_wild_name_only_known_flags() {
        let kubeadm = "advertise-client-urls cert-file client-cert-auth data-dir experimental-initial-corrupt-check \
                       experimental-watch-progress-notify-interval initial-advertise-peer-urls initial-cluster \
                       key-file listen-client-urls listen-metrics-urls listen-peer-urls name peer-cert-file \
                       peer-client-cert-auth peer-key-file peer-trusted-ca-file snapshot-count trusted-ca-file \
                       feature-gates watch-progress-notify-interval";
        let others = "quota-backend-bytes auto-compaction-mode auto-compaction-retention max-request-bytes max-wals \
                      max-snapshots heartbeat-interval election-timeout log-level logger log-outputs metrics \
                      grpc-keepalive-min-time enable-pprof initial-cluster-state initial-cluster-token discovery-srv \
                      strict-reconfig-check pre-vote unsafe-no-fsync force-new-cluster cipher-suites tls-min-version";
        for name in kubeadm.split_whitespace().chain(others.split_whitespace()) {
            assert!(find(name).is_some(), "--{name}");
        }
    }
}
