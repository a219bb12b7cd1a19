//! What only memory has: it is gone with the process, and renews its own leases.

use std::sync::Arc;
use std::time::Duration;

use quorate_storage::{
    AtomicStorage as _, LeaseStorage as _, Limits, LockError, Locks, Memory, StorageError,
};

#[tokio::test]
async fn a_held_lock_is_renewed_beyond_its_ttl() {
    let storage = Arc::new(Memory::new());
    let ttl = Duration::from_secs(1);
    let held = Locks::new(storage.clone(), "holder").ttl(ttl).try_lock(b"l").await.expect("free");
    let waited = Locks::new(storage, "waiter").lock(b"l", 2 * ttl).await;
    assert!(matches!(waited, Err(LockError::Held { .. })), "{waited:?}");
    assert!(held.why_lost().is_none());
    assert!(held.unlock().await.expect("unlock"));
}

#[tokio::test]
async fn a_lease_that_nobody_renews_takes_its_keys_along() {
    let storage = Memory::new();
    let lease = storage.grant_lease(1).await.expect("grant");
    let put = quorate_storage::Write::put_under_lease("k", "v", lease);
    storage.commit(quorate_storage::Commit::new(vec![], vec![put])).await.expect("put");
    let guard = storage.keep_lease_alive(lease).await.expect("alive");
    let created = storage.get(b"k").await.expect("get").expect("there").create_revision;
    drop(guard);
    storage.wait_gone(b"k", created).await.expect("it goes");
    assert!(storage.lease_seconds_left(lease).await.expect("left").is_none());
}

#[tokio::test]
async fn limits_may_be_ones_own() {
    let storage = Memory::with_limits(Limits { keys_max: 1, request_bytes_max: 10 });
    storage.put(b"k", b"123456789").await.expect("ten bytes");
    let refused = storage.put(b"k", b"1234567890").await;
    assert!(matches!(refused, Err(StorageError::TooLarge { bytes: 11, max: 10 })), "{refused:?}");
}
