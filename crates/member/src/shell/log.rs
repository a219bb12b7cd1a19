//! The log of a member's threads: that of the thread which started the member.
//!
//! A host that gives each of its members a log of its own starts each under one (`tracing::dispatcher::with_default`).

use tracing::dispatcher::{get_default, with_default};
use tracing::subscriber::NoSubscriber;

/// Wraps the body of a thread that is about to be started, so that it logs to where the caller does.
pub fn with_callers_log<T>(body: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let log = get_default(Clone::clone);
    move || {
        // Without any, the thread takes what the process may install later.
        if log.is::<NoSubscriber>() { body() } else { with_default(&log, body) }
    }
}
