//! One suite, both back ends.

use std::sync::Arc;

use quorate_storage::Memory;
use quorate_storage::conformance::{self, CASES};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_passes_the_suite() {
    for case in CASES {
        println!("{}", case.name);
        conformance::run(case, Arc::new(Memory::new()), "memory").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_passes_the_suite() {
    let (storage, namespace, _server) = crate::cluster("suite").await;
    for case in CASES {
        println!("{}", case.name);
        conformance::run(case, Arc::new(storage.clone()), &namespace).await;
    }
}
