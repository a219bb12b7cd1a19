//! Drives each member of a running cluster through the `etcd-client` crate.
//!
//! Usage: `interop-client 127.0.0.1:2379,127.0.0.1:2479,...`

use anyhow::{Context as _, ensure};
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, LockOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, WatchOptions,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let endpoints = std::env::args().nth(1).context("endpoints are needed: host:port,host:port")?;
    let mut members = 0;
    for (number, endpoint) in endpoints.split(',').enumerate() {
        smoke(endpoint, number).await.with_context(|| endpoint.to_owned())?;
        members += 1;
    }
    println!("rust etcd-client: all calls on {members} members");
    Ok(())
}

async fn smoke(endpoint: &str, number: usize) -> anyhow::Result<()> {
    let mut client = Client::connect([endpoint], None).await?;
    let prefix = format!("rust/{number}/");
    keys(&mut client, &prefix).await.context("keys")?;
    watches(&mut client, &prefix).await.context("watches")?;
    leases(&mut client, &prefix).await.context("leases")?;
    locks(&mut client, &prefix).await.context("locks")?;
    let members = client.member_list().await?;
    ensure!(members.members().len() == 3, "{} members", members.members().len());
    let status = client.status().await?;
    ensure!(status.version() == "3.7.1", "version {}", status.version());
    Ok(())
}

async fn keys(client: &mut Client, prefix: &str) -> anyhow::Result<()> {
    let key = format!("{prefix}k");
    client.put(key.as_str(), "one", None).await?;
    let put = client.put(key.as_str(), "two", Some(PutOptions::new().with_prev_key())).await?;
    ensure!(put.prev_key().is_some_and(|kv| kv.value() == b"one"), "no previous value");
    for number in 0..10 {
        client.put(format!("{prefix}range/{number}"), number.to_string(), None).await?;
    }
    let options = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(3);
    let got = client.get(format!("{prefix}range/"), Some(options)).await?;
    let values: Vec<&[u8]> = got.kvs().iter().map(|kv| kv.value()).collect();
    ensure!(values == [b"9", b"8", b"7"] && got.count() == 10 && got.more(), "{values:?} of {}", got.count());
    let txn = Txn::new()
        .when([Compare::value(key.as_str(), CompareOp::Equal, "two")])
        .and_then([TxnOp::put(key.as_str(), "three", None)])
        .or_else([TxnOp::delete(key.as_str(), None)]);
    ensure!(client.txn(txn).await?.succeeded(), "the transaction took the other branch");
    let deleted = client.delete(format!("{prefix}range/"), Some(DeleteOptions::new().with_prefix())).await?;
    ensure!(deleted.deleted() == 10, "{} deleted", deleted.deleted());
    Ok(())
}

async fn watches(client: &mut Client, prefix: &str) -> anyhow::Result<()> {
    let key = format!("{prefix}watched");
    let first = client.put(key.as_str(), "0", None).await?;
    let revision = first.header().context("a header")?.revision();
    let mut stream = client.watch(key.as_str(), Some(WatchOptions::new().with_start_revision(revision))).await?;
    client.put(key.as_str(), "1", None).await?;
    client.delete(key.as_str(), None).await?;
    let mut seen = Vec::new();
    let mut id = 0;
    while seen.len() < 3 {
        let answer = stream.message().await?.context("the watch was closed")?;
        id = answer.watch_id();
        for event in answer.events() {
            let kv = event.kv().context("a pair")?;
            seen.push((event.event_type(), kv.value_str()?.to_owned()));
        }
    }
    let wanted = [(EventType::Put, "0"), (EventType::Put, "1"), (EventType::Delete, "")];
    let wanted = wanted.map(|(kind, value)| (kind, value.to_owned()));
    ensure!(seen == wanted, "{seen:?}");
    stream.cancel(id).await?;
    Ok(())
}

async fn leases(client: &mut Client, prefix: &str) -> anyhow::Result<()> {
    let key = format!("{prefix}leased");
    let lease = client.lease_grant(60, None).await?.id();
    client.put(key.as_str(), "x", Some(PutOptions::new().with_lease(lease))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    keeper.keep_alive().await?;
    let answer = answers.message().await?.context("no answer to a keep-alive")?;
    ensure!(answer.ttl() == 60, "a TTL of {}", answer.ttl());
    client.lease_revoke(lease).await?;
    ensure!(client.get(key, None).await?.kvs().is_empty(), "the key outlived its lease");
    Ok(())
}

async fn locks(client: &mut Client, prefix: &str) -> anyhow::Result<()> {
    let lease = client.lease_grant(30, None).await?.id();
    let options = LockOptions::new().with_lease(lease);
    let held = client.lock(format!("{prefix}lock"), Some(options)).await?;
    client.unlock(held.key()).await?;
    let name = format!("{prefix}election");
    let campaign = client.campaign(name.as_str(), "me", lease).await?;
    let leader = client.leader(name.as_str()).await?;
    ensure!(leader.kv().is_some_and(|kv| kv.value() == b"me"), "somebody else was elected");
    let resign = etcd_client::ResignOptions::new().with_leader(campaign.leader().context("a leader")?.clone());
    client.resign(Some(resign)).await?;
    client.lease_revoke(lease).await?;
    Ok(())
}
