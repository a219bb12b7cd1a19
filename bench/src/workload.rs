//! What clients ask for: keys, values, requests, and what an answer must hold to count.
//!
//! Invariants: the same seed and client number give the same requests; a read that does not find what it must find is
//! an error, so an empty store can't look fast.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prost::Message as _;
use quorate_wire::etcdserverpb::{
    PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, request_op,
};
use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use crate::client::{Rpc, framed};

/// Digits of a key's number.
const KEY_DIGITS: usize = 9;
/// Keys of one prefix that a prefix range asks for.
pub const KEYS_PER_PREFIX: u64 = 100;
const PREFIX_DIGITS_CUT: usize = 2;
const KEY_PREFIX: &str = "/bench/";
/// Values are slices of this many random bytes, so that nothing can be gained by compressing them.
const VALUE_POOL_BYTES: usize = 1 << 20;
/// Puts in one transaction of the initial filling; etcd takes up to 128.
pub const FILL_BATCH: u64 = 100;

/// What one request does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    Put,
    /// One key.
    Get {
        serializable: bool,
    },
    /// Keys below one prefix, at most `limit`.
    PrefixRange {
        limit: u32,
        serializable: bool,
    },
    /// Gets with this share, else puts.
    Mixed {
        read_percent: u8,
        serializable: bool,
    },
    /// Transactions of [`FILL_BATCH`] puts.
    Fill,
}

/// The order in which keys are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Random,
    /// Ascending over all clients, from the start again at the end of the key space.
    Sequential,
}

/// Requests that clients share the definition of.
#[derive(Clone, Debug)]
pub struct Workload {
    pub operation: Operation,
    pub order: Order,
    /// How many keys there are.
    pub keys: u64,
    pub value_size_bytes: usize,
    pub seed: u64,
    next_key: Arc<AtomicU64>,
    values: Bytes,
}

/// Whether a request reads or writes; latencies are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
}

/// One request, ready to send.
#[derive(Debug)]
pub struct Prepared {
    pub rpc: Rpc,
    pub kind: Kind,
    pub message: Bytes,
    /// Pairs that the answer must hold.
    keys_expected: usize,
}

/// What a client asks for, one after the other.
#[derive(Debug)]
pub struct Requests {
    workload: Workload,
    random: SmallRng,
}

impl Workload {
    /// # Panics
    /// Where there is no key or more than the keys' digits can say, or the value is larger than 1 MiB.
    #[must_use]
    pub fn new(operation: Operation, order: Order, keys: u64, value_size_bytes: usize, seed: u64) -> Self {
        assert!(keys > 0 && keys <= 10_u64.pow(KEY_DIGITS as u32), "1 to 10^9 keys, not {keys}");
        assert!(value_size_bytes <= VALUE_POOL_BYTES, "values of at most 1 MiB, not {value_size_bytes}");
        let mut values = vec![0; 2 * VALUE_POOL_BYTES];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut values);
        Self {
            operation,
            order,
            keys,
            value_size_bytes,
            seed,
            next_key: Arc::default(),
            values: Bytes::from(values),
        }
    }

    /// The requests of client number `client`.
    #[must_use]
    pub fn requests(&self, client: u64) -> Requests {
        let seed = self.seed ^ (client + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Requests { workload: self.clone(), random: SmallRng::seed_from_u64(seed) }
    }
}

impl Requests {
    /// The next request.
    pub fn next(&mut self) -> Prepared {
        match self.workload.operation {
            Operation::Put => self.put(),
            Operation::Get { serializable } => self.get(serializable),
            Operation::PrefixRange { limit, serializable } => self.prefix_range(limit, serializable),
            Operation::Mixed { read_percent, serializable } => {
                if self.random.random_range(0..100) < read_percent {
                    self.get(serializable)
                } else {
                    self.put()
                }
            }
            Operation::Fill => self.fill(),
        }
    }

    fn put(&mut self) -> Prepared {
        let request =
            PutRequest { key: key(self.key_number()), value: self.value(), ..PutRequest::default() };
        Prepared { rpc: Rpc::Put, kind: Kind::Write, message: framed(&request), keys_expected: 0 }
    }

    fn get(&mut self, serializable: bool) -> Prepared {
        let request = RangeRequest { key: key(self.key_number()), serializable, ..RangeRequest::default() };
        Prepared { rpc: Rpc::Range, kind: Kind::Read, message: framed(&request), keys_expected: 1 }
    }

    fn prefix_range(&mut self, limit: u32, serializable: bool) -> Prepared {
        let number = self.key_number();
        let first = key(number);
        let prefix = first.slice(..first.len() - PREFIX_DIGITS_CUT);
        let mut end = prefix.to_vec();
        *end.last_mut().expect("a prefix is not empty") += 1;
        let request = RangeRequest {
            key: prefix,
            range_end: end.into(),
            limit: i64::from(limit),
            serializable,
            ..RangeRequest::default()
        };
        let start = number - number % KEYS_PER_PREFIX;
        let there = KEYS_PER_PREFIX.min(self.workload.keys - start);
        let expected = if limit == 0 { there } else { there.min(u64::from(limit)) };
        let keys_expected = usize::try_from(expected).expect("at most 100");
        Prepared { rpc: Rpc::Range, kind: Kind::Read, message: framed(&request), keys_expected }
    }

    fn fill(&mut self) -> Prepared {
        let first = self.workload.next_key.fetch_add(FILL_BATCH, Ordering::Relaxed) % self.workload.keys;
        let end = (first + FILL_BATCH).min(self.workload.keys);
        let puts = (first..end)
            .map(|number| {
                let put = PutRequest { key: key(number), value: self.value(), ..PutRequest::default() };
                RequestOp { request: Some(request_op::Request::RequestPut(put)) }
            })
            .collect();
        let request = TxnRequest { success: puts, ..TxnRequest::default() };
        Prepared { rpc: Rpc::Txn, kind: Kind::Write, message: framed(&request), keys_expected: 0 }
    }

    fn key_number(&mut self) -> u64 {
        match self.workload.order {
            Order::Random => self.random.random_range(0..self.workload.keys),
            Order::Sequential => self.workload.next_key.fetch_add(1, Ordering::Relaxed) % self.workload.keys,
        }
    }

    fn value(&mut self) -> Bytes {
        let start = self.random.random_range(0..VALUE_POOL_BYTES);
        self.workload.values.slice(start..start + self.workload.value_size_bytes)
    }
}

impl Prepared {
    /// Whether the answer holds what was asked for.
    pub fn check(&self, answer: &Bytes) -> Result<(), String> {
        match self.rpc {
            Rpc::Range => {
                let answer = RangeResponse::decode(answer.clone()).map_err(|error| error.to_string())?;
                if answer.kvs.len() == self.keys_expected {
                    return Ok(());
                }
                Err(format!("a range gave {} keys where {} are stored", answer.kvs.len(), self.keys_expected))
            }
            Rpc::Txn => {
                let answer = TxnResponse::decode(answer.clone()).map_err(|error| error.to_string())?;
                if answer.succeeded {
                    Ok(())
                } else {
                    Err("a transaction without conditions failed".to_owned())
                }
            }
            Rpc::Put | Rpc::Status | Rpc::Watch | Rpc::LeaseGrant | Rpc::LeaseKeepAlive => Ok(()),
        }
    }
}

/// The range that all keys lie in.
#[must_use]
pub fn all_keys() -> (Bytes, Bytes) {
    let mut end = KEY_PREFIX.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    (Bytes::from_static(KEY_PREFIX.as_bytes()), end.into())
}

/// The key with a number: 16 bytes.
#[must_use]
pub fn key(number: u64) -> Bytes {
    Bytes::from(format!("{KEY_PREFIX}{number:0KEY_DIGITS$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(prepared: &Prepared) -> RangeRequest {
        RangeRequest::decode(prepared.message.slice(5..)).expect("a range request")
    }

    #[test]
    fn the_same_seed_gives_the_same_requests_and_clients_differ() {
        let workload = || Workload::new(Operation::Put, Order::Random, 1000, 256, 7);
        let messages = |client| {
            let mut requests = workload().requests(client);
            (0..10).map(|_| requests.next().message).collect::<Vec<_>>()
        };
        assert_eq!(messages(3), messages(3));
        assert_ne!(messages(3), messages(4));
    }

    #[test]
    fn clients_share_one_ascending_sequence_that_starts_again() {
        let workload = Workload::new(Operation::Get { serializable: true }, Order::Sequential, 3, 0, 7);
        let (mut one, mut other) = (workload.requests(0), workload.requests(1));
        let keys = [one.next(), other.next(), one.next(), other.next()].map(|next| decoded(&next).key);
        assert_eq!(keys, [key(0), key(1), key(2), key(0)]);
    }

    #[test]
    fn a_prefix_range_expects_the_keys_that_are_there_up_to_its_limit() {
        let range = |limit, keys| {
            let operation = Operation::PrefixRange { limit, serializable: false };
            Workload::new(operation, Order::Sequential, keys, 0, 7).requests(0).next()
        };
        assert_eq!(range(0, 1000).keys_expected, 100);
        assert_eq!(range(10, 1000).keys_expected, 10);
        assert_eq!(range(0, 30).keys_expected, 30);
        let request = decoded(&range(10, 1000));
        assert_eq!(
            (request.key.as_ref(), request.range_end.as_ref()),
            (&b"/bench/0000000"[..], &b"/bench/0000001"[..])
        );
    }

    #[test]
    fn an_answer_without_the_key_does_not_count() {
        let get =
            Workload::new(Operation::Get { serializable: true }, Order::Random, 3, 0, 7).requests(0).next();
        let empty = RangeResponse::default().encode_to_vec().into();
        assert!(get.check(&empty).is_err());
        let one = RangeResponse { kvs: vec![Default::default()], count: 1, ..Default::default() };
        assert_eq!(get.check(&one.encode_to_vec().into()), Ok(()));
    }

    #[test]
    fn filling_covers_each_key_once() {
        let workload = Workload::new(Operation::Fill, Order::Sequential, 250, 8, 7);
        let mut requests = workload.requests(0);
        let mut keys = Vec::new();
        for _ in 0..3 {
            let txn = TxnRequest::decode(requests.next().message.slice(5..)).expect("a transaction");
            for op in txn.success {
                let Some(request_op::Request::RequestPut(put)) = op.request else { panic!("not a put") };
                keys.push(put.key);
            }
        }
        assert_eq!(keys, (0..250).map(key).collect::<Vec<_>>());
    }
}
