//! A store as JSON: what a snapshot of any etcd holds of it.
//!
//! Invariant: how deep objects nest is looked at before they are parsed, and they are parsed on a stack that is large
//! enough for that.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::Fault;
use crate::moment;
use crate::replay::Store;

/// A path of Quorate has 1024 parts at most, and each is two objects.
const NESTING_MAX: usize = 4096;
/// More than that nesting takes, without optimisation, too.
const STACK_BYTES: usize = 256 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    root: SavedNode,
    current_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedNode {
    created_index: u64,
    modified_index: u64,
    expire_time: String,
    #[serde(default)]
    value: String,
    children: Option<BTreeMap<String, Self>>,
}

/// Reads a store. `fixed`: as for [`Store::new`].
pub(crate) fn store(json: &[u8], fixed: &[&'static [u8]]) -> Result<Store, Fault> {
    let depth = nesting(json);
    if depth > NESTING_MAX {
        return Err(Fault::malformed(
            "the store",
            format!("it nests {depth} deep; at most {NESTING_MAX} can be read"),
        ));
    }
    std::thread::scope(|scope| {
        let parsing = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || parse(json, fixed))
            .map_err(|error| Fault::malformed("the store", format!("no thread to parse it on: {error}")))?;
        parsing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn parse(json: &[u8], fixed: &[&'static [u8]]) -> Result<Store, Fault> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    reader.disable_recursion_limit();
    let malformed = |error: &dyn std::fmt::Display| Fault::malformed("the store", error);
    let saved = Saved::deserialize(&mut reader).map_err(|error| malformed(&error))?;
    reader.end().map_err(|error| malformed(&error))?;
    let mut store = Store::new(fixed);
    let Some(children) = saved.root.children else { return Err(malformed(&"its root is no directory")) };
    for (name, child) in children {
        restore(&mut store, b"", &name, child)?;
    }
    store.index = saved.current_index;
    Ok(store)
}

fn restore(store: &mut Store, parent: &[u8], name: &str, node: SavedNode) -> Result<(), Fault> {
    if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
        return Err(Fault::malformed("the store", format!("{name:?} can't be the name of a node")));
    }
    let path = [parent, b"/", name.as_bytes()].concat();
    let expires = moment::parse(&node.expire_time).map_err(|why| Fault::malformed("an expiration", why))?;
    let value = node.children.is_none().then(|| node.value.into_bytes());
    store.restore(path.clone(), value, (node.created_index, node.modified_index), expires);
    for (name, child) in node.children.into_iter().flatten() {
        restore(store, &path, &name, child)?;
    }
    Ok(())
}

/// How deep objects and lists nest, strings aside.
fn nesting(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(children: &str) -> String {
        format!(
            "{{\"Path\":\"/\",\"CreatedIndex\":1,\"ModifiedIndex\":2,\"ExpireTime\":\"0001-01-01T00:00:00Z\",\
             \"ACL\":\"\",\"Value\":\"v\",\"Children\":{children}}}"
        )
    }

    fn saved(root: &str) -> String {
        format!("{{\"Root\":{root},\"WatcherHub\":{{\"x\":[1]}},\"CurrentIndex\":7,\"CurrentVersion\":2}}")
    }

    #[test]
    fn a_store_is_read_however_deep_it_is() {
        let mut text = node("null");
        for _ in 0..1000 {
            text = node(&format!("{{\"d\":{text}}}"));
        }
        let store = store(saved(&text).as_bytes(), &[]).expect("readable");
        assert_eq!(store.index, 7);
        assert_eq!(store.nodes(b"", |_| false).len(), 1000);
        assert_eq!(store.value("/d".repeat(1000).as_bytes()), Some(&b"v"[..]));
    }

    #[test]
    fn what_is_no_store_is_told() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for (json, expected) in [
            (String::new(), "EOF"),
            (saved("3"), "invalid type"),
            (saved(&node("null")), "its root is no directory"),
            (saved(&node(&format!("{{\"a/b\":{}}}", node("null")))), "\"a/b\" can't be the name"),
            (saved(&node("{}")).replace("\"CurrentIndex\":7", "\"CurrentIndex\":-7"), "invalid value"),
            (format!("{}x", saved(&node("{}"))), "trailing characters"),
            (deep, "nests 5000 deep"),
        ] {
            let told = store(json.as_bytes(), &[]).expect_err("refused").to_string();
            assert!(told.contains(expected), "{json}: {told}");
        }
        assert_eq!(nesting(br#"{"a[[[\"[[":[1,{}]}"#), 3, "brackets in strings do not count");
    }
}
