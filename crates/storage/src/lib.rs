//! What a daemon keeps its state with: keys that change atomically, transactions over several of them, and locks that
//! a crash frees.
//!
//! - [`AtomicStorage`] is the trait, [`Memory`] and [`Cluster`] are the back ends; both pass one suite of tests. Keys and
//!   values are opaque bytes: nothing is cleaned, split or escaped.
//! - [`StorageExt::execute`] runs a transaction: it reads keys, asks a function what to do, and commits that only if
//!   none of them has changed; else it tries again, as often as a [`RetryPolicy`] allows.
//! - [`Locks`] takes locks that live under a lease. A lock's [`FencingToken`] makes a commit fail once the lock is lost.
//! - [`Prefixed`] is a part of a storage, [`Typed`] gives keys and values types, [`Switch`] moves a namespace while its
//!   users hold on to it.
//!
//! ```
//! use quorate_storage::{AtomicStorage, Decision, Memory, Outcome, Plan, StorageExt, Write};
//!
//! # async fn example() -> Result<(), quorate_storage::StorageError> {
//! let storage = Memory::new();
//! storage.put(b"balance", b"10").await?;
//! let outcome: Outcome<&str> = storage
//!     .execute(&Plan::on(["balance"]), |now| {
//!         let balance = now.get(b"balance")?.map_or(&b"0"[..], |entry| &entry.value);
//!         Ok(match balance {
//!             b"0" => Decision::Abort("nothing left"),
//!             _ => Decision::Commit(vec![Write::put("balance", "0"), Write::put("paid", balance)]),
//!         })
//!     })
//!     .await?;
//! assert!(outcome.is_committed());
//! # Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
//! ```

#![forbid(unsafe_code)]

mod atomic;
mod cluster;
mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
mod copy;
mod error;
mod limits;
mod lock;
mod lock_admin;
mod memory;
mod prefixed;
mod retry;
mod switch;
mod transaction;
mod typed;

pub use atomic::{
    Answer, AtomicStorage, Commit, Committed, Condition, Entry, Is, LeaseGuard, LeaseStorage, Page, Reading,
    Write,
};
pub use cluster::{Cluster, Probe};
pub use codec::{Codec, CodecError, Json, Raw, Text};
pub use copy::{Copied, CopyError, Difference, DifferenceKind, copy_namespace, verify_copy};
pub use error::StorageError;
pub use limits::Limits;
pub use lock::{FencingToken, Holder, Lock, LockError, LockLost, Locks};
pub use lock_admin::{LockState, force_unlock, inspect_lock, list_locks};
pub use memory::Memory;
pub use prefixed::Prefixed;
pub use retry::RetryPolicy;
pub use switch::Switch;
pub use transaction::{Completed, Decision, Outcome, Plan, Snapshot, StorageExt, Transaction};
pub use typed::{Typed, TypedDecision, TypedPlan, TypedSnapshot, TypedWrite};
