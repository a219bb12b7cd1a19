use std::sync::Arc;

use super::{Subject, bytes};
use crate::atomic::{AtomicStorage as _, Commit, LeaseStorage as _, Write};
use crate::copy::{Copied, CopyError, DifferenceKind, copy_namespace, verify_copy};
use crate::prefixed::Prefixed;
use crate::switch::Switch;
use crate::transaction::Completed;

async fn fill(storage: &Prefixed<Subject>, keys: usize) {
    for number in 0..keys {
        let key = format!("//k{number:04}");
        storage.put(key.as_bytes(), &[0xff, u8::try_from(number % 256).expect("small")]).await.expect("put");
    }
}

pub async fn a_namespace_is_copied_and_verified(storage: Subject) {
    const KEYS: usize = 230;
    let (old, new) = (Prefixed::new(storage.clone(), "old"), Prefixed::new(storage.clone(), "new"));
    fill(&old, KEYS).await;
    let lease = storage.grant_lease(60).await.expect("grant");
    let held = Write::put_under_lease("lock/1", "me", lease);
    old.commit(Commit::new(vec![], vec![held])).await.expect("put");
    let copied = copy_namespace(&old, &new, false).await.expect("copy");
    assert_eq!(copied, Copied { written: KEYS, equal: 0, deleted: 0 }, "what has a lease is not copied");
    assert!(verify_copy(&old, &new, 10).await.expect("verify").is_empty());
    let refused = copy_namespace(&old, &new, false).await.expect_err("the target is not empty");
    assert!(matches!(refused, CopyError::TargetNotEmpty { .. }), "{refused}");
    new.put(b"//k0001", b"other").await.expect("put");
    new.delete(b"//k0002").await.expect("delete");
    new.put(b"zz", b"extra").await.expect("put");
    let kinds: Vec<_> = verify_copy(&old, &new, 10)
        .await
        .expect("verify")
        .into_iter()
        .map(|difference| (difference.key, difference.kind))
        .collect();
    let expected = [
        (bytes("//k0001"), DifferenceKind::Different),
        (bytes("//k0002"), DifferenceKind::Missing),
        (bytes("zz"), DifferenceKind::Extra),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(verify_copy(&old, &new, 2).await.expect("verify").len(), 2);
    let mended = copy_namespace(&old, &new, true).await.expect("copy");
    assert_eq!(mended, Copied { written: 2, equal: KEYS - 2, deleted: 1 });
    assert!(verify_copy(&old, &new, 10).await.expect("verify").is_empty());
    storage.revoke_lease(lease).await.expect("revoke");
}

pub async fn a_switch_moves_what_its_users_hold(storage: Subject) {
    let (old, new) = (Prefixed::new(storage.clone(), "old"), Prefixed::new(storage.clone(), "new"));
    fill(&old, 20).await;
    let switch = Arc::new(Switch::new(Arc::new(old.clone())));
    let key = [bytes("//k0003")];
    let mut transaction = switch.start_transaction(&key).await.expect("start");
    let writer = tokio::spawn({
        let switch = switch.clone();
        async move {
            for number in 0..100_u8 {
                switch.put(b"counter", &[number]).await.expect("put");
            }
        }
    });
    switch.migrate(Arc::new(new.clone()), false).await.expect("migrate");
    writer.await.expect("no panic");
    assert_eq!(new.get(b"counter").await.expect("get").expect("moved").value[..], [99]);
    assert!(new.get(b"//k0003").await.expect("get").is_some());
    // A revision of the old place says nothing of the new one, even where the numbers are the same.
    let write = || vec![Write::put("//k0003", "x")];
    let failed = switch.complete_transaction(&mut transaction, write()).await.expect("complete");
    assert_eq!(failed, Completed::ConditionFailed { stale_token: false });
    let done = switch.complete_transaction(&mut transaction, write()).await.expect("complete");
    assert!(matches!(done, Completed::Committed { .. }), "{done:?}");
    assert_ne!(
        old.get(b"//k0003").await.expect("get").expect("kept").value,
        "x",
        "the old place is left alone"
    );
    let back = switch.migrate(Arc::new(old.clone()), false).await.expect_err("it holds keys");
    assert!(matches!(back, CopyError::TargetNotEmpty { .. }), "{back}");
    assert_eq!(switch.get(b"//k0003").await.expect("get").expect("still here").value, "x");
}
