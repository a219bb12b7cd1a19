use std::sync::Arc;
use std::time::Duration;

use super::{Subject, bytes, number};
use crate::atomic::{AtomicStorage, Write};
use crate::error::StorageError;
use crate::prefixed::Prefixed;
use crate::retry::RetryPolicy;
use crate::transaction::{Completed, Decision, Outcome, Plan, StorageExt as _};
use crate::typed::{Typed, TypedDecision, TypedPlan, TypedWrite};

/// Enough for as many as ever collide here.
fn patient() -> RetryPolicy {
    RetryPolicy::default().attempts(10_000).deadline(Duration::from_secs(120))
}

pub async fn a_transaction_fails_once_a_key_changed_and_knows_it_then(storage: Subject) {
    storage.put(b"a", b"1").await.expect("put");
    let keys = [bytes("a"), bytes("b")];
    let mut transaction = storage.start_transaction(&keys).await.expect("start");
    assert_eq!(transaction.snapshot().get(b"a").expect("read").expect("there").value, "1");
    storage.put(b"a", b"2").await.expect("put");
    let write = || vec![Write::put("b", "from 1")];
    let failed = storage.complete_transaction(&mut transaction, write()).await.expect("complete");
    assert_eq!(failed, Completed::ConditionFailed { stale_token: false }, "a lost update is no success");
    assert!(storage.get(b"b").await.expect("get").is_none());
    assert_eq!(transaction.snapshot().get(b"a").expect("read").expect("there").value, "2", "it is refreshed");
    let done = storage.complete_transaction(&mut transaction, write()).await.expect("complete");
    assert!(matches!(done, Completed::Committed { .. }));
    // Written with the same value is written all the same.
    let mut transaction = storage.start_transaction(&keys).await.expect("start");
    storage.put(b"a", b"2").await.expect("put");
    let failed = storage.complete_transaction(&mut transaction, vec![]).await.expect("complete");
    assert_eq!(failed, Completed::ConditionFailed { stale_token: false });
}

pub async fn absent_keys_are_conditions_too(storage: Subject) {
    let keys = [bytes("here"), bytes("absent"), bytes("also absent")];
    storage.put(b"here", b"x").await.expect("put");
    let mut transaction = storage.start_transaction(&keys).await.expect("start");
    let order: Vec<_> =
        transaction.snapshot().iter().map(|(key, entry)| (key.clone(), entry.is_some())).collect();
    let expected = [(bytes("here"), true), (bytes("absent"), false), (bytes("also absent"), false)];
    assert_eq!(order, expected, "in the order in which they were named");
    storage.put(b"also absent", b"now here").await.expect("put");
    let failed = storage.complete_transaction(&mut transaction, vec![Write::put("here", "y")]).await;
    assert_eq!(failed.expect("complete"), Completed::ConditionFailed { stale_token: false });
    storage.delete(b"also absent").await.expect("delete");
    let failed = storage.complete_transaction(&mut transaction, vec![Write::put("here", "y")]).await;
    assert_eq!(failed.expect("complete"), Completed::ConditionFailed { stale_token: false });
}

pub async fn other_keys_may_be_written_and_keys_deleted(storage: Subject) {
    storage.put(b"old", b"x").await.expect("put");
    let outcome: Outcome<()> = storage
        .execute(&Plan::on(["old", "old"]), |now| {
            let value = now.get(b"old")?.expect("it is there").value.clone();
            Ok(Decision::Commit(vec![Write::delete("old"), Write::put("new", value), Write::delete("none")]))
        })
        .await
        .expect("execute");
    assert!(outcome.is_committed(), "{outcome:?}");
    assert!(storage.get(b"old").await.expect("get").is_none());
    assert_eq!(storage.get(b"new").await.expect("get").expect("moved").value, "x");
}

pub async fn an_abort_is_final_and_changes_nothing(storage: Subject) {
    let mut asked = 0;
    let outcome = storage
        .execute(&Plan::on(["k"]).retry(patient()), |_| {
            asked += 1;
            Ok(Decision::Abort("no"))
        })
        .await
        .expect("execute");
    assert_eq!((outcome, asked), (Outcome::Aborted("no"), 1));
    let plan = Plan::on(["k"]);
    let failed = storage.execute(&plan, |now| {
        now.get(b"not named")?;
        Ok(Decision::<()>::Commit(vec![Write::put("k", "x")]))
    });
    assert!(matches!(failed.await, Err(StorageError::NotInSnapshot { .. })));
    assert!(storage.get(b"k").await.expect("get").is_none());
}

/// Changes the key behind a transaction's back.
fn disturb(storage: &Subject, with: i64) {
    let storage = storage.clone();
    // The function that decides is no future, so it is waited for here, while other threads do the work.
    let put = async move { storage.put(b"k", with.to_string().as_bytes()).await };
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(put)).expect("put");
}

pub async fn retries_see_the_newest_state_and_end(storage: Subject) {
    storage.put(b"k", b"1").await.expect("put");
    let mut seen = Vec::new();
    let quick = RetryPolicy::default().backoff(Duration::from_millis(1), Duration::from_millis(2));
    let outcome: Outcome<()> = storage
        .execute(&Plan::on(["k"]).retry(quick), |now| {
            seen.push(number(now.get(b"k")?));
            if seen.len() < 3 {
                disturb(&storage, 10 * i64::try_from(seen.len()).expect("few"));
            }
            Ok(Decision::Commit(vec![Write::put("k", "done")]))
        })
        .await
        .expect("execute");
    assert!(outcome.is_committed(), "{outcome:?}");
    assert_eq!(seen, [1, 10, 20]);
    let restless = |policy: RetryPolicy| {
        let storage = storage.clone();
        async move {
            let plan = Plan::on(["k"]).retry(policy);
            let decide = |_: &crate::Snapshot| {
                disturb(&storage, 7);
                Ok(Decision::<()>::Commit(vec![Write::put("k", "lost")]))
            };
            storage.execute(&plan, decide).await.expect("execute")
        }
    };
    assert_eq!(restless(quick.attempts(4)).await, Outcome::RetriesExhausted { attempts: 4 });
    assert_eq!(restless(quick.deadline(Duration::ZERO)).await, Outcome::RetriesExhausted { attempts: 1 });
    assert_eq!(restless(RetryPolicy::once()).await, Outcome::ConditionFailed { stale_token: false });
    assert_eq!(storage.get(b"k").await.expect("get").expect("there").value, "7");
}

pub async fn a_snapshot_does_not_guess(storage: Subject) {
    storage.put(b"k", b"x").await.expect("put");
    let transaction = storage.start_transaction(&[bytes("other")]).await.expect("start");
    assert!(transaction.snapshot().get(b"other").expect("named").is_none());
    let error = transaction.snapshot().get(b"k").expect_err("not named, and there");
    assert!(error.to_string().contains("\"k\""), "{error}");
    assert!(transaction.snapshot().revision() > 0);
}

pub async fn increments_are_never_lost(storage: Subject) {
    const TASKS: usize = 6;
    const EACH: usize = 20;
    let tasks = (0..TASKS).map(|_| {
        let storage = storage.clone();
        tokio::spawn(async move {
            for _ in 0..EACH {
                let outcome: Outcome<()> = storage
                    .execute(&Plan::on(["counter"]).retry(patient()), |now| {
                        let next = number(now.get(b"counter")?) + 1;
                        Ok(Decision::Commit(vec![Write::put("counter", next.to_string())]))
                    })
                    .await
                    .expect("execute");
                assert!(outcome.is_committed(), "{outcome:?}");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no panic");
    }
    let total = storage.get(b"counter").await.expect("get");
    assert_eq!(number(total.as_ref()), i64::try_from(TASKS * EACH).expect("few"));
}

pub async fn three_keys_keep_their_invariant(storage: Subject) {
    const PLANNED: i64 = 30;
    storage.put(b"planned", PLANNED.to_string().as_bytes()).await.expect("put");
    let spenders = (0..4).map(|_| {
        let storage = storage.clone();
        tokio::spawn(async move {
            let mut spent = 0;
            loop {
                let plan = Plan::on(["used", "planned", "refund"]).retry(patient());
                let outcome = storage.execute(&plan, |now| {
                    let (used, planned) = (number(now.get(b"used")?), number(now.get(b"planned")?));
                    let refund = number(now.get(b"refund")?);
                    if used + 3 > planned + refund {
                        return Ok(Decision::Abort(used));
                    }
                    let (used, refund) = ((used + 3).to_string(), (refund + 1).to_string());
                    Ok(Decision::Commit(vec![Write::put("used", used), Write::put("refund", refund)]))
                });
                match outcome.await.expect("execute") {
                    Outcome::Committed { .. } => spent += 3,
                    Outcome::Aborted(_) => return spent,
                    other => panic!("{other:?}"),
                }
            }
        })
    });
    let mut spent = 0;
    for spender in spenders.collect::<Vec<_>>() {
        spent += spender.await.expect("no panic");
    }
    let used = number(storage.get(b"used").await.expect("get").as_ref());
    let refund = number(storage.get(b"refund").await.expect("get").as_ref());
    assert_eq!((used, refund), (spent, spent / 3), "what was acknowledged is what is there");
    assert!(used <= PLANNED + refund && used + 3 > PLANNED + refund);
}

pub async fn typed_keys_and_values(storage: Subject) {
    let typed: Typed<u64, Vec<String>> = Typed::new(Arc::new(Prefixed::new(storage.clone(), "typed")));
    let list = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>();
    assert!(typed.put_if_absent(&42, &list(&["a"])).await.expect("put"));
    assert!(!typed.put_if_absent(&42, &list(&[])).await.expect("put"));
    assert!(typed.compare_and_swap(&42, &list(&["a"]), &list(&["a", "b"])).await.expect("swap"));
    let outcome: Outcome<()> = typed
        .execute(TypedPlan::on([42, 43]), |now| {
            let mut moved = now.get(&42)?.unwrap_or_default();
            assert!(now.get(&43)?.is_none());
            moved.push("c".to_owned());
            Ok(TypedDecision::Commit(vec![TypedWrite::Put(43, moved), TypedWrite::Delete(42)]))
        })
        .await
        .expect("execute");
    assert!(outcome.is_committed(), "{outcome:?}");
    assert_eq!(typed.get_all().await.expect("all"), [(43, list(&["a", "b", "c"]))]);
    assert!(typed.get(&42).await.expect("get").is_none());
    storage.put(b"typed/43", b"no JSON").await.expect("put");
    let error = typed.get(&43).await.expect_err("no list").to_string();
    assert!(error.contains("\"43\"") && error.contains("JSON"), "{error}");
    assert!(typed.delete(&43).await.expect("delete"));
    typed.put(&1, &list(&["x"])).await.expect("put");
    assert!(typed.compare_and_delete(&1, &list(&["x"])).await.expect("delete"));
}

pub async fn one_slash_is_put_and_taken(storage: Subject) {
    let plain = Prefixed::new(storage.clone(), "app");
    let slashed = Prefixed::new(storage.clone(), "app/");
    let nested = Prefixed::new(Prefixed::new(storage.clone(), "net/org"), "/payment/storage");
    plain.put(b"k", b"1").await.expect("put");
    slashed.put(b"k", b"2").await.expect("put");
    nested.put(b"{ID: 42}", b"3").await.expect("put");
    storage.put(b"apple/k", b"another prefix").await.expect("put");
    let full: Vec<_> =
        storage.get_prefix(b"").await.expect("list").into_iter().map(|entry| entry.key).collect();
    assert_eq!(full, ["app//k", "app/k", "apple/k", "net/org//payment/storage/{ID: 42}"].map(bytes));
    let keys = |entries: Vec<crate::Entry>| entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>();
    assert_eq!(keys(slashed.get_prefix(b"").await.expect("list")), [bytes("k")], "as it was put");
    assert_eq!(keys(plain.get_prefix(b"").await.expect("list")), ["/k", "k"].map(bytes));
    assert_eq!(keys(nested.get_prefix(b"{").await.expect("list")), [bytes("{ID: 42}")]);
    let page = plain.page(b"", Some(b"/k"), 10).await.expect("page");
    assert_eq!((keys(page.entries), page.more), (vec![bytes("k")], false));
    let found = plain.get(b"k").await.expect("get").expect("there");
    assert_eq!((&found.key[..], &found.value[..]), (&b"k"[..], &b"1"[..]));
    assert!(matches!(plain.put(b"", b"x").await, Err(StorageError::EmptyKey)));
}
