//! The suite that every back end has to pass: what is promised, seen from outside. With the feature `conformance`.
//!
//! A case panics where the storage does not keep a promise. Each has a namespace of its own, so that all can run against
//! one storage, over and over. They need tokio's runtime of several threads.

mod copies;
mod keys;
mod locks;
mod transactions;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::atomic::LeaseStorage;
use crate::prefixed::Prefixed;

/// A storage under test.
pub type Subject = Arc<dyn LeaseStorage>;

/// One promise.
pub struct Case {
    pub name: &'static str,
    pub run: fn(Subject) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

macro_rules! cases {
    ($($module:ident: $($name:ident),*;)*) => {
        /// All of them.
        pub const CASES: &[Case] = &[$($(
            Case { name: stringify!($name), run: |subject| Box::pin($module::$name(subject)) },
        )*)*];
    };
}

cases! {
    keys: keys_and_values_are_opaque_bytes, an_empty_value_is_not_an_absent_key, put_if_absent_writes_once,
        swaps_and_deletes_compare_values, a_prefix_is_listed_in_order_and_in_pages, limits_are_the_same_everywhere,
        a_key_dies_with_its_lease;
    transactions: a_transaction_fails_once_a_key_changed_and_knows_it_then, absent_keys_are_conditions_too,
        other_keys_may_be_written_and_keys_deleted, an_abort_is_final_and_changes_nothing,
        retries_see_the_newest_state_and_end, a_snapshot_does_not_guess, increments_are_never_lost,
        three_keys_keep_their_invariant, typed_keys_and_values, one_slash_is_put_and_taken;
    locks: a_lock_has_one_holder_and_tokens_rise, a_waiter_gives_up_in_time_and_leaves_no_trace,
        a_crash_frees_the_lock_and_its_commit_is_refused, a_forced_unlock_is_told_and_fences,
        a_dropped_lock_is_freed, locks_below_a_locks_name_are_others, waiters_are_served_in_their_order;
    copies: a_namespace_is_copied_and_verified, a_switch_moves_what_its_users_hold;
}

/// Runs one case in a namespace of its own.
pub async fn run(case: &Case, storage: Subject, namespace: &str) {
    let prefix = format!("{namespace}/{}", case.name);
    (case.run)(Arc::new(Prefixed::new(storage, prefix))).await;
}

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

/// A counter's value; 0 where there is none.
fn number(value: Option<&crate::Entry>) -> i64 {
    value.map_or(0, |entry| std::str::from_utf8(&entry.value).expect("text").parse().expect("a number"))
}
