//! What the commands of etcd 0.4's log do to the tree, the cluster's own commands included: they take indexes, too.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Fault;
use crate::moment;
use crate::replay::{Conditions, NameStyle, Store, Write, clean};

const MACHINES: &[u8] = b"/_etcd/machines";
const STANDBYS: &[u8] = b"/_etcd/standbys";
const CONFIG: &[u8] = b"/_etcd/config";
const ACTIVE_SIZE_DEFAULT: u64 = 9;
const ACTIVE_SIZE_MIN: u64 = 3;

/// A change of a key. Commands have some of these.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Change {
    key: String,
    value: String,
    dir: bool,
    recursive: bool,
    unique: bool,
    expire_time: Option<String>,
    prev_value: String,
    prev_index: u64,
}

impl Change {
    fn expires(&self) -> Result<Option<u64>, Fault> {
        self.expire_time.as_deref().map_or(Ok(None), expiration)
    }

    fn write(&self) -> Result<Write, Fault> {
        Ok(Write {
            value: self.value.clone().into_bytes(),
            dir: self.dir,
            expires: self.expires()?,
            refresh: false,
        })
    }

    fn conditions(&self) -> Conditions {
        Conditions { value: self.prev_value.clone().into_bytes(), index: self.prev_index }
    }
}

#[derive(Deserialize)]
struct Sync {
    time: String,
}

/// A machine that joins or leaves. The URLs have other names in `etcd:v2:join`.
#[derive(Deserialize)]
struct Member {
    name: String,
    #[serde(alias = "raftURL", rename = "peerURL", default)]
    peer_url: String,
    #[serde(alias = "etcdURL", rename = "clientURL", default)]
    client_url: String,
}

#[derive(Deserialize)]
struct SetConfig {
    config: serde_json::Map<String, serde_json::Value>,
}

/// What decides about machines beside the tree: the settings of versions that did not keep them there.
#[derive(Debug, Default)]
pub(crate) struct Machines {
    active_size: Option<u64>,
}

fn read<T: DeserializeOwned>(command: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(command).map_err(|error| Fault::malformed("a command", error))
}

fn expiration(text: &str) -> Result<Option<u64>, Fault> {
    moment::parse(text).map_err(|why| Fault::malformed("a moment", why))
}

/// Does what a command did.
pub(crate) fn apply(
    store: &mut Store,
    machines: &mut Machines,
    name: &str,
    command: &[u8],
) -> Result<(), Fault> {
    match name {
        "raft:nop" | "raft:join" | "raft:leave" | "etcd:get" => {}
        "etcd:sync" => {
            if let Some(until) = expiration(&read::<Sync>(command)?.time)? {
                store.expire(until);
            }
        }
        "etcd:join" => join(store, machines, &read(command)?, false),
        "etcd:v2:join" => join(store, machines, &read(command)?, true),
        "etcd:remove" | "etcd:v2:remove" => {
            let path = of(MACHINES, &read::<Member>(command)?.name);
            store.delete(&path, false, false);
        }
        "etcd:demote" => demote(store, &read::<Member>(command)?.name),
        "etcd:setClusterConfig" => set_config(store, machines, command)?,
        "etcd:set"
        | "etcd:create"
        | "etcd:update"
        | "etcd:delete"
        | "etcd:compareAndSwap"
        | "etcd:compareAndDelete" => change(store, name, &read(command)?)?,
        _ => return Err(Fault::UnknownCommand { name: name.to_owned() }),
    }
    Ok(())
}

fn change(store: &mut Store, name: &str, change: &Change) -> Result<(), Fault> {
    let path = clean(change.key.as_bytes());
    match name {
        "etcd:set" => store.set(path, change.write()?),
        "etcd:create" if change.unique => store.create_in_order(&path, NameStyle::Plain, change.write()?),
        "etcd:create" => store.create(path, change.write()?),
        "etcd:update" => store.update(&path, change.write()?),
        "etcd:compareAndSwap" => store.compare_and_swap(&path, &change.conditions(), change.write()?),
        "etcd:compareAndDelete" => store.compare_and_delete(&path, &change.conditions()),
        _ => store.delete(&path, change.dir || change.recursive, change.recursive),
    };
    Ok(())
}

fn of(directory: &[u8], name: &str) -> Vec<u8> {
    clean(&[directory, b"/", name.as_bytes()].concat())
}

/// The value of a machine's file: a form, its keys in order.
fn registration(member: &Member) -> Write {
    let encoded = |text: &str| {
        let mut out = String::new();
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    out.push(char::from(byte))
                }
                b' ' => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    };
    let value = format!("etcd={}&raft={}", encoded(&member.client_url), encoded(&member.peer_url));
    Write { value: value.into_bytes(), ..Write::default() }
}

/// The peer URL in a machine's file, as it is written there.
fn raft_url(value: &[u8]) -> &[u8] {
    let mut parts = value.split(|byte| *byte == b'&');
    parts.find_map(|part| part.strip_prefix(b"raft=")).unwrap_or_default()
}

fn join(store: &mut Store, machines: &Machines, member: &Member, may_stand_by: bool) {
    let path = of(MACHINES, &member.name);
    let write = registration(member);
    let own = raft_url(&write.value).to_vec();
    if let Some(known) = store.value(&path) {
        if raft_url(known) != own {
            // It keeps the client URL that it came with first.
            let kept =
                known.split(|byte| *byte == b'&').find(|part| part.starts_with(b"etcd=")).unwrap_or_default();
            let value = [kept, b"&raft=", &own].concat();
            store.update(&path, Write { value, ..Write::default() });
        }
        return;
    }
    let others: Vec<&[u8]> = store.below(MACHINES).filter_map(|path| store.value(path)).collect();
    if others.iter().any(|value| raft_url(value) == own) {
        return;
    }
    let active_size = machines.active_size.or_else(|| configured(store)).unwrap_or(ACTIVE_SIZE_DEFAULT);
    if !others.is_empty() && others.len() as u64 >= active_size {
        if may_stand_by {
            store.create(of(STANDBYS, &member.name), write);
        }
        return;
    }
    if may_stand_by {
        store.delete(&of(STANDBYS, &member.name), false, false);
    }
    store.create(path, write);
}

fn demote(store: &mut Store, name: &str) {
    let path = of(MACHINES, name);
    let Some(value) = store.value(&path).map(<[u8]>::to_vec) else { return };
    store.delete(&path, false, false);
    store.create(of(STANDBYS, name), Write { value, ..Write::default() });
}

fn configured(store: &Store) -> Option<u64> {
    let config: serde_json::Value = serde_json::from_slice(store.value(CONFIG)?).ok()?;
    config.get("activeSize")?.as_u64()
}

/// 0.4 keeps the settings in the tree; what came before it kept them beside it, and called a delay otherwise.
fn set_config(store: &mut Store, machines: &mut Machines, command: &[u8]) -> Result<(), Fault> {
    let SetConfig { config } = read(command)?;
    if config.contains_key("promoteDelay") {
        let size = config.get("activeSize").and_then(serde_json::Value::as_u64);
        machines.active_size = size.map(|size| size.max(ACTIVE_SIZE_MIN));
        return Ok(());
    }
    let number = |name: &str, default: f64, min: f64| {
        config.get(name).and_then(serde_json::Value::as_f64).unwrap_or(default).max(min)
    };
    let value = format!(
        "{{\"activeSize\":{},\"removeDelay\":{},\"syncInterval\":{}}}",
        number("activeSize", 9.0, 3.0),
        number("removeDelay", 1800.0, 2.0),
        number("syncInterval", 5.0, 1.0)
    );
    store.set(CONFIG.to_vec(), Write { value: value.into_bytes(), ..Write::default() });
    Ok(())
}
