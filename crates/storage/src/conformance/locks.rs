use std::time::Duration;

use super::{Subject, bytes};
use crate::atomic::{AtomicStorage as _, LeaseStorage as _, Write};
use crate::lock::{LockError, LockLost, Locks};
use crate::lock_admin::{force_unlock, inspect_lock, list_locks};
use crate::transaction::{Decision, Outcome, Plan, StorageExt as _};

/// Longer than any wait here; only a failure takes as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a crashed holder's lock lasts.
const TTL_SHORT: Duration = Duration::from_secs(2);

fn locks(storage: &Subject, owner: &str) -> Locks {
    Locks::new(storage.clone(), owner).ttl(Duration::from_secs(30))
}

/// Waits until so many wait for the lock.
async fn until_waiting(storage: &Subject, name: &[u8], waiting: usize) {
    while inspect_lock(&**storage, name).await.expect("inspect").map(|state| state.waiting) != Some(waiting) {
        tokio::task::yield_now().await;
    }
}

async fn commit_under(storage: &Subject, token: &crate::FencingToken, value: &str) -> Outcome<()> {
    let plan = Plan::on(["channel"]).fenced_by(token);
    let write = |_: &crate::Snapshot| Ok(Decision::Commit(vec![Write::put("channel", value)]));
    storage.execute(&plan, write).await.expect("execute")
}

pub async fn a_lock_has_one_holder_and_tokens_rise(storage: Subject) {
    let first = locks(&storage, "one").try_lock(b"l").await.expect("free");
    assert_eq!(first.name(), b"l");
    assert!(commit_under(&storage, first.token(), "1").await.is_committed());
    match locks(&storage, "two").try_lock(b"l").await {
        Err(LockError::Held { holder, .. }) => {
            assert_eq!((&holder.owner[..], &holder.token), (&b"one"[..], first.token()));
        }
        other => panic!("{other:?}"),
    }
    assert!(first.why_lost().is_none());
    let before = first.token().clone();
    assert!(first.unlock().await.expect("unlock"), "it was held");
    let stale = commit_under(&storage, &before, "late").await;
    assert_eq!(stale, Outcome::ConditionFailed { stale_token: true }, "also after an unlock");
    let second = locks(&storage, "two").try_lock(b"l").await.expect("free again");
    assert!(second.token().number() > before.number());
    assert!(second.unlock().await.expect("unlock"));
    assert!(list_locks(&*storage, b"").await.expect("list").is_empty());
    assert_eq!(storage.get(b"channel").await.expect("get").expect("there").value, "1");
    assert!(locks(&storage, "x").try_lock(b"").await.is_err(), "a lock needs a name");
}

pub async fn a_waiter_gives_up_in_time_and_leaves_no_trace(storage: Subject) {
    let held = locks(&storage, "holder").try_lock(b"l").await.expect("free");
    let late = locks(&storage, "waiter").lock(b"l", Duration::from_millis(50)).await;
    match late {
        Err(LockError::Held { holder, .. }) => assert_eq!(holder.owner, "holder"),
        other => panic!("{other:?}"),
    }
    let state = inspect_lock(&*storage, b"l").await.expect("inspect").expect("held");
    assert_eq!((state.waiting, &state.holder.owner[..]), (0, &b"holder"[..]));
    // Whoever drops the future half way leaves the queue too.
    let waiting = tokio::spawn({
        let locks = locks(&storage, "impatient");
        async move { locks.lock(b"l", PATIENCE).await.map(drop) }
    });
    until_waiting(&storage, b"l", 1).await;
    waiting.abort();
    until_waiting(&storage, b"l", 0).await;
    held.unlock().await.expect("unlock");
}

pub async fn a_crash_frees_the_lock_and_its_commit_is_refused(storage: Subject) {
    let crashed = locks(&storage, "crashed").ttl(TTL_SHORT).try_lock(b"l").await.expect("free");
    let token = crashed.token().clone();
    assert!(commit_under(&storage, &token, "before").await.is_committed());
    crashed.abandon();
    let next = locks(&storage, "next").lock(b"l", PATIENCE).await.expect("it frees itself");
    assert!(next.token().number() > token.number());
    let stale = commit_under(&storage, &token, "too late").await;
    assert_eq!(stale, Outcome::ConditionFailed { stale_token: true });
    assert!(commit_under(&storage, next.token(), "mine").await.is_committed());
    assert_eq!(storage.get(b"channel").await.expect("get").expect("there").value, "mine");
    next.unlock().await.expect("unlock");
}

pub async fn a_forced_unlock_is_told_and_fences(storage: Subject) {
    let held = locks(&storage, "stuck").try_lock(b"net//{ID: 1}").await.expect("free");
    let states = list_locks(&*storage, b"net/").await.expect("list");
    assert_eq!(states.len(), 1);
    assert_eq!((&states[0].name, &states[0].holder.owner), (&bytes("net//{ID: 1}"), &bytes("stuck")));
    assert!(states[0].seconds_left.expect("it has a lease") > 0);
    let waiter = tokio::spawn({
        let locks = locks(&storage, "next");
        async move { locks.lock(b"net//{ID: 1}", PATIENCE).await }
    });
    until_waiting(&storage, b"net//{ID: 1}", 1).await;
    let taken = force_unlock(&*storage, b"net//{ID: 1}", Some(held.token())).await.expect("force");
    assert_eq!(taken.expect("it was held").owner, "stuck");
    assert_eq!(held.lost().await, LockLost::Removed);
    assert_eq!(held.why_lost(), Some(LockLost::Removed));
    let next = waiter.await.expect("no panic").expect("its turn");
    let stale = commit_under(&storage, held.token(), "too late").await;
    assert_eq!(stale, Outcome::ConditionFailed { stale_token: true });
    let other = force_unlock(&*storage, b"net//{ID: 1}", Some(held.token())).await.expect("force");
    assert!(other.is_none(), "the new holder keeps it");
    assert!(!held.unlock().await.expect("unlock"), "it was not held any more");
    assert!(next.unlock().await.expect("unlock"));
    assert!(force_unlock(&*storage, b"net//{ID: 1}", None).await.expect("force").is_none());
    assert!(inspect_lock(&*storage, b"net//{ID: 1}").await.expect("inspect").is_none());
}

pub async fn a_dropped_lock_is_freed(storage: Subject) {
    drop(locks(&storage, "one").try_lock(b"l").await.expect("free"));
    let next = locks(&storage, "two").lock(b"l", PATIENCE).await.expect("freed");
    // Its lease ends while it is held.
    let lease = inspect_lock(&*storage, b"l").await.expect("inspect").expect("held").holder.lease;
    storage.revoke_lease(lease).await.expect("revoke");
    assert_eq!(next.lost().await, LockLost::LeaseEnded);
    assert!(!next.unlock().await.expect("unlock"));
}

pub async fn locks_below_a_locks_name_are_others(storage: Subject) {
    let below = locks(&storage, "below").try_lock(b"l/b").await.expect("free");
    storage.put(b"l/x", b"no lock").await.expect("put");
    let above = locks(&storage, "above").try_lock(b"l").await.expect("another lock");
    let names: Vec<_> =
        list_locks(&*storage, b"l").await.expect("list").into_iter().map(|state| state.name).collect();
    assert_eq!(names, [bytes("l"), bytes("l/b")]);
    assert!(above.unlock().await.expect("unlock") && below.unlock().await.expect("unlock"));
}

pub async fn waiters_are_served_in_their_order(storage: Subject) {
    let held = locks(&storage, "first").try_lock(b"l").await.expect("free");
    let mut waiters = Vec::new();
    for number in 0..3_u8 {
        let (locks, shared) = (locks(&storage, "waiter"), storage.clone());
        waiters.push(tokio::spawn(async move {
            let lock = locks.lock(b"l", PATIENCE).await.expect("its turn");
            shared
                .put(format!("turn/{:020}", lock.token().number()).as_bytes(), &[number])
                .await
                .expect("put");
            let served = shared.get_prefix(b"turn/").await.expect("list").len();
            assert!(lock.unlock().await.expect("unlock"));
            served
        }));
        until_waiting(&storage, b"l", usize::from(number) + 1).await;
    }
    assert!(held.unlock().await.expect("unlock"));
    for (number, waiter) in waiters.into_iter().enumerate() {
        assert_eq!(waiter.await.expect("no panic"), number + 1, "who came first was served first");
    }
}
