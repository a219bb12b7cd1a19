//! Moving from one back end to the other, and from one cluster to another.

use std::sync::Arc;

use quorate_storage::{
    AtomicStorage as _, Cluster, LeaseStorage, Locks, Memory, Outcome, Plan, Prefixed, Switch,
};
use quorate_storage::{Decision, StorageExt as _, Write, verify_copy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_memory_to_a_cluster_behind_the_same_handle() {
    let (cluster, namespace, _server) = crate::cluster("moving").await;
    let memory = Arc::new(Memory::new());
    let switch = Arc::new(Switch::new(memory.clone()));
    let held: Arc<dyn LeaseStorage> = switch.clone();
    for number in 0..1200 {
        held.put(format!("k{number}").as_bytes(), b"v").await.expect("put");
    }
    let lock = Locks::new(held.clone(), "me").try_lock(b"lock").await.expect("free");
    let target = Prefixed::new(cluster.clone(), namespace);
    let copied = switch.migrate(Arc::new(target.clone()), false).await.expect("migrate");
    assert_eq!((copied.written, copied.deleted), (1200, 0), "a held lock is not copied");
    assert!(verify_copy(&*memory, &target, 1).await.expect("verify").is_empty());
    held.put(b"k1", b"new").await.expect("put");
    assert_eq!(target.get(b"k1").await.expect("get").expect("there").value, "new");
    let plan = Plan::on(["k1"]).fenced_by(lock.token());
    let outcome: Outcome<()> =
        held.execute(&plan, |_| Ok(Decision::Commit(vec![Write::put("k1", "x")]))).await.expect("execute");
    assert_eq!(outcome, Outcome::ConditionFailed { stale_token: true }, "the lock is one of the old place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_switch_leaves_the_old_place_in_use() {
    let memory = Arc::new(Memory::new());
    memory.put(b"k", b"v").await.expect("put");
    let switch = Switch::new(memory);
    let client = quorate_client::Client::builder(["127.0.0.1:1"])
        .request_timeout(std::time::Duration::from_millis(200))
        .build()
        .expect("a client");
    switch.migrate(Arc::new(Cluster::new(client)), false).await.expect_err("nobody is there");
    assert_eq!(switch.get(b"k").await.expect("get").expect("still here").value, "v");
}
