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

    /// Those of etcd 3.6 and 3.7, as their flag sets have them.
    #[test]
    fn every_flag_of_etcd_is_known() {
        let flags = "name data-dir wal-dir snapshot-count snapshot-catchup-entries max-wals heartbeat-interval \
             election-timeout initial-election-tick-advance listen-peer-urls listen-client-urls \
             listen-client-http-urls listen-metrics-urls quota-backend-bytes backend-batch-interval \
             backend-batch-limit backend-bbolt-freelist-type max-txn-ops max-request-bytes \
             max-concurrent-streams grpc-keepalive-min-time grpc-keepalive-interval \
             grpc-keepalive-timeout socket-reuse-port socket-reuse-address raft-read-timeout \
             raft-write-timeout memory-mlock enable-grpc-gateway initial-advertise-peer-urls \
             advertise-client-urls initial-cluster initial-cluster-state initial-cluster-token \
             strict-reconfig-check pre-vote auto-compaction-mode auto-compaction-retention \
             discovery-endpoints discovery-token discovery-dial-timeout discovery-request-timeout \
             discovery-keepalive-time discovery-keepalive-timeout discovery-insecure-transport \
             discovery-insecure-skip-tls-verify discovery-cert discovery-key discovery-cacert \
             discovery-user discovery-password discovery-srv discovery-srv-name discovery-fallback \
             cert-file key-file client-cert-file client-key-file client-cert-auth client-crl-file \
             client-cert-allowed-hostname trusted-ca-file auto-tls peer-cert-file peer-key-file \
             peer-client-cert-file peer-client-key-file peer-client-cert-auth peer-crl-file \
             peer-trusted-ca-file peer-cert-allowed-cn peer-cert-allowed-hostname peer-auto-tls \
             peer-skip-client-san-verification self-signed-cert-validity cipher-suites tls-min-version \
             tls-max-version cors host-whitelist auth-token bcrypt-cost auth-token-ttl enable-pprof \
             metrics logger log-outputs log-level log-format enable-log-rotation log-rotation-config-json \
             warning-apply-duration warning-unary-request-duration enable-distributed-tracing \
             distributed-tracing-address distributed-tracing-service-name distributed-tracing-instance-id \
             distributed-tracing-sampling-rate feature-gates corrupt-check-time compact-hash-check-time \
             compaction-batch-limit compaction-sleep-interval watch-progress-notify-interval \
             downgrade-check-time bootstrap-defrag-threshold-megabytes max-learners force-new-cluster \
             unsafe-no-fsync config-file version discovery discovery-proxy max-snapshots v2-deprecation \
             experimental-bootstrap-defrag-threshold-megabytes experimental-compact-hash-check-enabled \
             experimental-compact-hash-check-time experimental-compaction-batch-limit \
             experimental-compaction-sleep-interval experimental-corrupt-check-time \
             experimental-distributed-tracing-address experimental-distributed-tracing-instance-id \
             experimental-distributed-tracing-sampling-rate experimental-distributed-tracing-service-name \
             experimental-downgrade-check-time experimental-enable-distributed-tracing \
             experimental-enable-lease-checkpoint experimental-enable-lease-checkpoint-persist \
             experimental-initial-corrupt-check experimental-memory-mlock \
             experimental-peer-skip-client-san-verification experimental-snapshot-catchup-entries \
             experimental-stop-grpc-service-on-defrag experimental-txn-mode-write-with-shared-buffer \
             experimental-warning-apply-duration experimental-warning-unary-request-duration \
             experimental-watch-progress-notify-interval";
        let unknown: Vec<&str> = flags.split_whitespace().filter(|name| find(name).is_none()).collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }

    /// What went away between 3.5 and 3.6.
    #[test]
    fn flags_that_only_etcd_3_5_has_are_known() {
        let flags = "enable-v2 proxy proxy-failure-wait proxy-refresh-interval proxy-dial-timeout proxy-write-timeout \
                     proxy-read-timeout experimental-enable-v2v3 experimental-wait-cluster-ready-timeout";
        let unknown: Vec<&str> = flags.split_whitespace().filter(|name| find(name).is_none()).collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }
}
