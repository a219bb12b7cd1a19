//! A small daemon that keeps payment channels, as snet-daemon does: three replicas that share one storage.
//!
//! Without arguments, three replicas run in this process, each with a member inside, and show what is promised. As a
//! process of its own, a replica has the daemon's configuration file; it runs a member where that says so:
//!
//! ```text
//! payment_channels --config snetd.config.json serve              run until standard input closes
//! payment_channels --config snetd.config.json pay 42 5           pay 5 from channel 42
//! payment_channels --config snetd.config.json hold 42            lock channel 42 and hang, as a bug would
//! payment_channels --config snetd.config.json show 42            print the channel
//! ```

use std::error::Error;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate::snet::{EmbeddedServer, Settings, Sources};
use quorate::storage::{
    AtomicStorage as _, Codec as _, Decision, Json, LeaseStorage, Lock, LockError, Locks, Outcome, Plan,
    Prefixed, RetryPolicy, Snapshot, StorageError, StorageExt as _, Typed, TypedDecision, TypedPlan,
    TypedWrite, Write,
};
use serde::{Deserialize, Serialize};

type Failure = Box<dyn Error + Send + Sync>;

/// How long a crashed replica keeps a channel.
const LOCK_TTL: Duration = Duration::from_secs(2);
/// How long a payment waits for its channel.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const FREE_CALLS: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ChannelId(u64);

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ID: {}}}", self.0)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Channel {
    nonce: u64,
    deposited: u64,
    spent: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    NotEnough { left: u64 },
    NoFreeCallsLeft,
}

/// What one replica does with the storage.
struct Daemon {
    storage: Prefixed<Arc<dyn LeaseStorage>>,
    locks: Locks,
    counters: Typed<String, u64>,
}

impl Daemon {
    fn new(storage: Arc<dyn LeaseStorage>, owner: &str) -> Self {
        // The keys of a daemon: network, organization, group; what is below begins with a slash of its own.
        let root = Prefixed::new(storage, "sepolia/org/Z3JvdXA=");
        let locks =
            Locks::new(Arc::new(Prefixed::new(root.clone(), "/payment-channel/lock")), owner).ttl(LOCK_TTL);
        let counters = Typed::new(Arc::new(Prefixed::new(root.clone(), "/counters")));
        Self { storage: root, locks, counters }
    }

    fn channel_key(id: ChannelId) -> String {
        format!("/payment-channel/storage/{id}")
    }

    fn channel(now: &Snapshot, key: &str) -> Result<Channel, StorageError> {
        let Some(entry) = now.get(key.as_bytes())? else { return Ok(Channel::default()) };
        Json.decode(&entry.value).map_err(|source| StorageError::Codec { key: entry.key.clone(), source })
    }

    fn write(key: &str, channel: &Channel) -> Result<Write, StorageError> {
        let value = Json.encode(channel);
        let value = value.map_err(|source| StorageError::Codec { key: key.to_owned().into(), source })?;
        Ok(Write::put(key, value))
    }

    async fn open_channel(&self, id: ChannelId, deposited: u64) -> Result<(), Failure> {
        let channel = Channel { deposited, ..Channel::default() };
        self.storage.put_if_absent(Self::channel_key(id).as_bytes(), &Json.encode(&channel)?).await?;
        Ok(())
    }

    async fn lock(&self, id: ChannelId) -> Result<Lock, LockError> {
        self.locks.lock(id.to_string().as_bytes(), LOCK_PATIENCE).await
    }

    /// Takes a payment, while the channel's lock is held.
    async fn pay(&self, lock: &Lock, id: ChannelId, amount: u64) -> Result<Outcome<Refused>, StorageError> {
        let key = Self::channel_key(id);
        let plan = Plan::on([&key]).fenced_by(lock.token());
        self.storage
            .execute(&plan, |now| {
                let mut channel = Self::channel(now, &key)?;
                let left = channel.deposited - channel.spent;
                if left < amount {
                    return Ok(Decision::Abort(Refused::NotEnough { left }));
                }
                channel.spent += amount;
                Ok(Decision::Commit(vec![Self::write(&key, &channel)?]))
            })
            .await
    }

    /// Closes the channel's books under one nonce: the channel and the payment change together, or neither does.
    async fn claim(&self, lock: &Lock, id: ChannelId) -> Result<Outcome<Refused>, StorageError> {
        let key = Self::channel_key(id);
        let plan = Plan::on([&key]).fenced_by(lock.token());
        self.storage
            .execute(&plan, |now| {
                let mut channel = Self::channel(now, &key)?;
                let payment = Self::write(&format!("/payment/storage/{id}/{}", channel.nonce), &channel)?;
                channel.nonce += 1;
                channel.deposited -= std::mem::take(&mut channel.spent);
                Ok(Decision::Commit(vec![Self::write(&key, &channel)?, payment]))
            })
            .await
    }

    /// Counts a free call. No lock is needed: the count is read and written in one transaction.
    async fn free_call(&self, user: &str) -> Result<Outcome<Refused>, StorageError> {
        let key = format!("freecall/{user}");
        let plan = TypedPlan::on([key.clone()]).retry(patient());
        let count = |now: &quorate::storage::TypedSnapshot<'_, String, u64, _, _>| {
            let used = now.get(&key)?.unwrap_or(0);
            Ok(match used {
                FREE_CALLS.. => TypedDecision::Abort(Refused::NoFreeCallsLeft),
                _ => TypedDecision::Commit(vec![TypedWrite::Put(key.clone(), used + 1)]),
            })
        };
        self.counters.execute(plan, count).await
    }

    /// Uses prepaid units: what is used never passes what is planned and refunded.
    async fn use_prepaid(&self, units: u64) -> Result<Outcome<Refused>, StorageError> {
        let [used, planned, refund] = ["prepaid/U", "prepaid/P", "prepaid/R"].map(str::to_owned);
        let plan = TypedPlan::on([used.clone(), planned.clone(), refund.clone()]).retry(patient());
        self.counters
            .execute(plan, |now| {
                let value = |key: &String| Ok::<_, StorageError>(now.get(key)?.unwrap_or(0));
                let left = value(&planned)? + value(&refund)? - value(&used)?;
                if left < units {
                    return Ok(TypedDecision::Abort(Refused::NotEnough { left }));
                }
                Ok(TypedDecision::Commit(vec![TypedWrite::Put(used.clone(), value(&used)? + units)]))
            })
            .await
    }

    async fn show(&self, id: ChannelId) -> Result<Channel, Failure> {
        match self.storage.get(Self::channel_key(id).as_bytes()).await? {
            Some(entry) => Ok(Json.decode(&entry.value)?),
            None => Err(format!("there is no channel {id}").into()),
        }
    }
}

/// Many replicas may want the same keys at the same moment.
fn patient() -> RetryPolicy {
    RetryPolicy::default().attempts(1000).deadline(Duration::from_secs(60))
}

fn check(holds: bool, what: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(format!("this does not hold: {what}").into()) }
}

/// One replica: its member, where it has one, and its part of the storage.
struct Replica {
    server: Option<EmbeddedServer>,
    daemon: Daemon,
}

impl Replica {
    async fn start(json: String, name: &str) -> Result<Self, Failure> {
        let sources = Sources::json(json).variables(std::env::vars());
        let settings = Settings::read(&sources)?;
        let server = match settings.server.enabled {
            true => Some(EmbeddedServer::start(&settings.server).await?),
            false => None,
        };
        let open = settings.open()?;
        open.check_health().await?;
        let storage = open.storage().ok_or("blockchain_enabled is false: there are no channels")?;
        Ok(Self { server, daemon: Daemon::new(storage, name) })
    }

    async fn stop(self) {
        if let Some(server) = self.server {
            server.stop().await;
        }
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The configurations of three replicas that run a member each.
fn configurations(folder: &Path) -> std::io::Result<Vec<String>> {
    let ports: Vec<(u16, u16)> =
        (0..3).map(|_| Ok((free_port()?, free_port()?))).collect::<std::io::Result<_>>()?;
    let cluster: Vec<String> =
        ports.iter().enumerate().map(|(n, (_, peer))| format!("storage-{n}=127.0.0.1:{peer}")).collect();
    let endpoints: Vec<String> =
        ports.iter().map(|(client, _)| format!("http://127.0.0.1:{client}")).collect();
    let one = |(n, (client, peer)): (usize, &(u16, u16))| {
        let data_dir = folder.join(format!("storage-{n}"));
        format!(
            r#"{{
                "payment_channel_storage_client": {{"request_timeout": "10s", "endpoints": {endpoints:?}}},
                "payment_channel_storage_server": {{
                    "id": "storage-{n}", "client_port": {client}, "peer_port": {peer}, "data_dir": {data_dir:?},
                    "cluster": "{}", "log_level": "error", "enabled": true
                }}
            }}"#,
            cluster.join(",")
        )
    };
    Ok(ports.iter().enumerate().map(one).collect())
}

/// Three replicas in one process, and what they promise.
pub fn in_one_process(folder: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut replicas = Vec::new();
        let starting = configurations(folder)?.into_iter().enumerate();
        let starting: Vec<_> = starting
            .map(|(n, json)| tokio::spawn(async move { Replica::start(json, &format!("replica {n}")).await }))
            .collect();
        for started in starting {
            replicas.push(Arc::new(started.await??));
        }
        println!("three replicas serve");
        payments_from_all(&replicas).await?;
        counters_from_all(&replicas).await?;
        crash_between_lock_and_commit(&replicas).await?;
        for replica in replicas {
            if let Some(replica) = Arc::into_inner(replica) {
                replica.stop().await;
            }
        }
        Ok(())
    })
}

/// Each replica pays from the same channel; none of the payments is lost, and none is made twice.
async fn payments_from_all(replicas: &[Arc<Replica>]) -> Result<(), Failure> {
    const PAYMENTS: u64 = 5;
    let id = ChannelId(42);
    replicas[0].daemon.open_channel(id, 100).await?;
    let paying: Vec<_> = replicas
        .iter()
        .map(|replica| {
            let replica = replica.clone();
            tokio::spawn(async move {
                for _ in 0..PAYMENTS {
                    let lock = replica.daemon.lock(id).await?;
                    let paid = replica.daemon.pay(&lock, id, 2).await?;
                    check(paid.is_committed(), "a payment within the deposit is taken")?;
                    lock.unlock().await?;
                }
                Ok::<_, Failure>(())
            })
        })
        .collect();
    for paid in paying {
        paid.await??;
    }
    let spent = replicas[1].daemon.show(id).await?.spent;
    check(spent == 2 * PAYMENTS * 3, "every payment of every replica counts once")?;
    let lock = replicas[2].daemon.lock(id).await?;
    let too_much = replicas[2].daemon.pay(&lock, id, 71).await?;
    check(
        too_much == Outcome::Aborted(Refused::NotEnough { left: 70 }),
        "no more is paid than was deposited",
    )?;
    check(replicas[2].daemon.claim(&lock, id).await?.is_committed(), "the channel is claimed")?;
    lock.unlock().await?;
    let claimed = replicas[0].daemon.show(id).await?;
    check(claimed == Channel { nonce: 1, deposited: 70, spent: 0 }, "the claim took what was spent")?;
    println!("channel 42 after 15 payments and a claim: {claimed:?}");
    Ok(())
}

async fn counters_from_all(replicas: &[Arc<Replica>]) -> Result<(), Failure> {
    let planned = "prepaid/P".to_owned();
    replicas[0].daemon.counters.put(&planned, &10).await?;
    let tasks: Vec<_> = replicas
        .iter()
        .map(|replica| {
            let replica = replica.clone();
            tokio::spawn(async move {
                let (mut free, mut prepaid) = (0, 0);
                while replica.daemon.free_call("0xabc").await?.is_committed() {
                    free += 1;
                }
                while replica.daemon.use_prepaid(3).await?.is_committed() {
                    prepaid += 3;
                }
                Ok::<_, Failure>((free, prepaid))
            })
        })
        .collect();
    let (mut free, mut prepaid) = (0, 0);
    for task in tasks {
        let (calls, units) = task.await??;
        (free, prepaid) = (free + calls, prepaid + units);
    }
    check(free == FREE_CALLS, "a user has as many free calls as are given, on all replicas together")?;
    check(prepaid == 9, "of ten prepaid units, three can be used three times")?;
    println!("{free} free calls and {prepaid} prepaid units, over three replicas");
    Ok(())
}

/// A replica dies between lock and commit: the channel frees itself, and what the dead one sends later changes nothing.
async fn crash_between_lock_and_commit(replicas: &[Arc<Replica>]) -> Result<(), Failure> {
    let id = ChannelId(7);
    replicas[0].daemon.open_channel(id, 10).await?;
    let stale = replicas[0].daemon.lock(id).await?;
    let token = stale.token().clone();
    stale.abandon();
    let next = replicas[1].daemon.lock(id).await?;
    println!(
        "the channel of a crashed replica freed itself; its token {} is older than {}",
        token.number(),
        next.token().number()
    );
    let key = Daemon::channel_key(id);
    let plan = Plan::on([&key]).fenced_by(&token);
    let late: Outcome<Refused> = replicas[0]
        .daemon
        .storage
        .execute(&plan, |_| Ok(Decision::Commit(vec![Write::put(&key, "late")])))
        .await?;
    check(late == Outcome::ConditionFailed { stale_token: true }, "a late commit is refused by its token")?;
    check(replicas[1].daemon.pay(&next, id, 1).await?.is_committed(), "the new holder commits")?;
    next.unlock().await?;
    check(replicas[2].daemon.show(id).await?.spent == 1, "only the new holder's payment is there")
}

/// One replica as a process of its own.
pub fn as_a_process(words: &[&str]) -> Result<(), Failure> {
    let (file, rest) = match words {
        ["--config", file, rest @ ..] => (*file, rest),
        _ => return Err("use: payment_channels [--config FILE serve|pay ID AMOUNT|hold ID|show ID]".into()),
    };
    let json = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let replica = Replica::start(json, &format!("process {}", std::process::id())).await?;
        let daemon = &replica.daemon;
        match rest {
            ["serve"] => {
                println!("serving");
                tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
            }
            ["pay", id, amount] => {
                let (id, amount) = (ChannelId(id.parse()?), amount.parse()?);
                daemon.open_channel(id, 100).await?;
                let lock = daemon.lock(id).await?;
                println!("{:?}", daemon.pay(&lock, id, amount).await?);
                lock.unlock().await?;
            }
            ["hold", id] => {
                let _lock = daemon.lock(ChannelId(id.parse()?)).await?;
                println!("holding");
                std::future::pending::<()>().await;
            }
            ["show", id] => println!("{:?}", daemon.show(ChannelId(id.parse()?)).await?),
            _ => return Err("a replica can serve, pay ID AMOUNT, hold ID, show ID".into()),
        }
        replica.stop().await;
        Ok(())
    })
}

#[allow(dead_code, reason = "the tests call what is above")]
fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if !words.is_empty() {
        return as_a_process(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let folder = std::env::temp_dir().join(format!("payment-channels-{}", std::process::id()));
    let outcome = in_one_process(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}
