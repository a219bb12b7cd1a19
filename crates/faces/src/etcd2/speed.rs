//! `/v2/speedTest`: writes one key many times, as 0.4 does, to see that it can.

use std::sync::Arc;

use bytes::Bytes;
use quorate_models::tree;
use tokio::task::JoinSet;

use super::errors::Error;
use super::{Answer, Thread, keys, text};

/// Writes in all, by so many writers at a time.
const WRITES: usize = 10_000;
const WRITERS: usize = 250;

impl Thread {
    pub(super) async fn speed_test(self: &Arc<Self>) -> Answer {
        let set = tree::Command::Set(tree::Write::file(keys::path_of(b"/foo")?, Bytes::from_static(b"bar")));
        // Dropped with its client, it stops.
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let (thread, set) = (Arc::clone(self), set.clone());
            writers.spawn(async move {
                for _ in 0..WRITES / WRITERS {
                    thread.change(&set).await?;
                }
                Ok::<(), Error>(())
            });
        }
        while let Some(outcome) = writers.join_next().await {
            // A writer that panicked has said so in the log.
            outcome.unwrap_or(Ok(()))?;
        }
        Ok(text("speed test success"))
    }
}
