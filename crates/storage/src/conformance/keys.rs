use super::{Subject, bytes};
use crate::atomic::{AtomicStorage as _, Commit, Condition, Is, LeaseStorage as _, Write};
use crate::error::StorageError;

pub async fn keys_and_values_are_opaque_bytes(storage: Subject) {
    let keys: [&[u8]; 12] = [
        b"a//b",
        b"/",
        b"//",
        b"{ID: 42}",
        b"{ID:11/P}",
        b"a:b=c|d",
        b"\0",
        b"\xff\xff",
        b"\xc3\x28",
        b"%2F",
        b"../x",
        b"k\0k",
    ];
    for (number, key) in keys.iter().enumerate() {
        let value = [&b"\0\xff{gob}\n"[..], &[u8::try_from(number).expect("few")]].concat();
        storage.put(key, &value).await.expect("put");
        let found = storage.get(key).await.expect("get").expect("it was put");
        assert_eq!((&found.key[..], &found.value[..]), (*key, &value[..]));
    }
    let listed: Vec<_> =
        storage.get_prefix(b"").await.expect("list").into_iter().map(|entry| entry.key).collect();
    let mut sorted = keys.map(bytes);
    sorted.sort();
    assert_eq!(listed, sorted, "every key is itself, and none was merged with another");
}

pub async fn an_empty_value_is_not_an_absent_key(storage: Subject) {
    assert!(storage.get(b"k").await.expect("get").is_none());
    assert!(!storage.compare_and_swap(b"k", b"", b"x").await.expect("swap"), "there is no value to compare");
    assert!(!storage.compare_and_delete(b"k", b"").await.expect("delete"));
    assert!(!storage.delete(b"k").await.expect("delete"));
    let put = storage.put(b"k", b"").await.expect("put");
    let found = storage.get(b"k").await.expect("get").expect("it is there");
    assert_eq!((found.value.len(), found.mod_revision, found.create_revision), (0, put, put));
    assert!(!storage.put_if_absent(b"k", b"x").await.expect("put"));
    assert!(storage.compare_and_swap(b"k", b"", b"x").await.expect("swap"));
    assert!(storage.delete(b"k").await.expect("delete"));
    assert!(storage.get(b"k").await.expect("get").is_none());
}

pub async fn put_if_absent_writes_once(storage: Subject) {
    let tries = (0..8_u8).map(|number| {
        let storage = storage.clone();
        tokio::spawn(async move { (number, storage.put_if_absent(b"k", &[number]).await.expect("put")) })
    });
    let mut winners = Vec::new();
    for tried in tries.collect::<Vec<_>>() {
        let (number, won) = tried.await.expect("no panic");
        if won {
            winners.push(number);
        }
    }
    let found = storage.get(b"k").await.expect("get").expect("one won");
    assert_eq!(found.value[..], winners[..], "who was told so won, alone");
}

pub async fn swaps_and_deletes_compare_values(storage: Subject) {
    storage.put(b"k", b"1").await.expect("put");
    assert!(!storage.compare_and_swap(b"k", b"2", b"3").await.expect("swap"));
    assert_eq!(storage.get(b"k").await.expect("get").expect("there").value, "1");
    assert!(storage.compare_and_swap(b"k", b"1", b"2").await.expect("swap"));
    assert!(!storage.compare_and_delete(b"k", b"1").await.expect("delete"));
    assert!(storage.compare_and_delete(b"k", b"2").await.expect("delete"));
    assert!(!storage.compare_and_swap(b"k", b"2", b"3").await.expect("swap"));
    let present = |is| Commit::new(vec![Condition::new("k", is)], vec![Write::put("seen", "x")]);
    let done = |commit| async {
        matches!(storage.commit(commit).await.expect("commit"), crate::Committed::Yes { .. })
    };
    assert!(!done(present(Is::Present)).await && done(present(Is::Absent)).await);
    let revision = storage.put(b"k", b"x").await.expect("put");
    assert!(done(present(Is::Present)).await && !done(present(Is::Absent)).await);
    assert!(done(present(Is::ModRevision(revision))).await && !done(present(Is::ModRevision(1))).await);
    assert!(done(present(Is::CreateRevision(revision))).await);
}

pub async fn a_prefix_is_listed_in_order_and_in_pages(storage: Subject) {
    for key in ["a", "a/1", "a/2", "a/3", "a0", "b", "a/2/x"] {
        storage.put(key.as_bytes(), key.as_bytes()).await.expect("put");
    }
    storage.put(b"\xff", b"last").await.expect("put");
    storage.put(b"\xff\xff1", b"last").await.expect("put");
    let keys = |entries: &[crate::Entry]| -> Vec<String> {
        entries.iter().map(|entry| entry.key.escape_ascii().to_string()).collect()
    };
    let all = storage.get_prefix(b"a/").await.expect("list");
    assert_eq!(keys(&all), ["a/1", "a/2", "a/2/x", "a/3"]);
    assert!(all.iter().all(|entry| entry.key == entry.value), "keys come with their values");
    assert_eq!(keys(&storage.get_prefix(b"\xff").await.expect("list")), ["\\xff", "\\xff\\xff1"]);
    assert!(storage.get_prefix(b"zz").await.expect("list").is_empty());
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = storage.page(b"a/", after.as_deref(), 3).await.expect("page");
        seen.push(keys(&page.entries));
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, [vec!["a/1", "a/2", "a/2/x"], vec!["a/3"]]);
    let whole = storage.page(b"a/", None, 4).await.expect("page");
    assert_eq!((whole.entries.len(), whole.more), (4, false));
    assert!(storage.page(b"a/", Some(b"b"), 3).await.expect("page").entries.is_empty());
    assert_eq!(storage.page(b"a/", Some(b"0"), 1).await.expect("page").entries.len(), 1);
}

pub async fn limits_are_the_same_everywhere(storage: Subject) {
    let refused = |outcome: Result<i64, StorageError>| outcome.expect_err("it has to be refused");
    assert!(matches!(refused(storage.put(b"", b"x").await), StorageError::EmptyKey));
    let huge = vec![b'x'; 2 << 20];
    let error = refused(storage.put(b"k", &huge).await);
    assert!(matches!(error, StorageError::TooLarge { bytes, .. } if bytes > huge.len()), "{error}");
    let error = refused(storage.put(&huge, b"x").await);
    assert!(matches!(error, StorageError::TooLarge { .. }), "{error}");
    assert!(matches!(storage.get(&huge).await, Err(StorageError::TooLarge { .. })));
    let many = |count| (0..count).map(|number| Write::put(format!("m/{number}"), "x")).collect::<Vec<_>>();
    let error = storage.commit(Commit::new(vec![], many(129))).await.expect_err("too many");
    assert!(matches!(error, StorageError::TooManyKeys { keys: 129, max: 128 }), "{error}");
    let keys: Vec<_> = (0..129).map(|number| bytes(format!("m/{number}"))).collect();
    assert!(matches!(storage.read(&keys).await, Err(StorageError::TooManyKeys { .. })));
    let twice = Commit::new(vec![], vec![Write::put("m/1", "x"), Write::delete("m/1")]);
    assert!(matches!(storage.commit(twice).await, Err(StorageError::DuplicateKey { .. })));
    assert!(storage.get_prefix(b"").await.expect("list").is_empty(), "what is refused changes nothing");
    storage.commit(Commit::new(vec![], many(128))).await.expect("as many as are taken");
    assert_eq!(storage.read(&keys[..128]).await.expect("read").entries.iter().flatten().count(), 128);
    let large = vec![b'y'; 1 << 20];
    storage.put(b"large", &large).await.expect("a megabyte is taken");
    assert_eq!(storage.get(b"large").await.expect("get").expect("there").value, large);
}

pub async fn a_key_dies_with_its_lease(storage: Subject) {
    let lease = storage.grant_lease(60).await.expect("grant");
    let under = |key: &str, lease| Commit::new(vec![], vec![Write::put_under_lease(key, "x", lease)]);
    storage.commit(under("a", lease)).await.expect("put");
    storage.commit(under("b", lease)).await.expect("put");
    storage.put(b"b", b"kept").await.expect("put");
    assert_eq!(storage.get(b"a").await.expect("get").expect("there").lease, lease);
    assert!(storage.lease_seconds_left(lease).await.expect("left").expect("alive") > 0);
    let created = storage.get(b"a").await.expect("get").expect("there").create_revision;
    let waiting = tokio::spawn({
        let storage = storage.clone();
        async move { storage.wait_gone(b"a", created).await }
    });
    storage.revoke_lease(lease).await.expect("revoke");
    waiting.await.expect("no panic").expect("it is told");
    assert!(storage.get(b"a").await.expect("get").is_none());
    assert_eq!(storage.get(b"b").await.expect("get").expect("no longer under the lease").value, "kept");
    assert!(storage.lease_seconds_left(lease).await.expect("left").is_none());
    storage.revoke_lease(lease).await.expect("what has ended may be ended");
    let error = storage.commit(under("a", lease)).await.expect_err("no such lease");
    assert!(matches!(error, StorageError::NoLease { .. }), "{error}");
    assert!(matches!(storage.keep_lease_alive(lease).await, Err(StorageError::NoLease { .. })));
}
