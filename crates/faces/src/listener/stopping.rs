//! Word of a stop, for answers that would have no end of their own: watches, locks that are waited for.

use tokio::sync::watch;

/// Says when the listener begins to stop. Clones say the same.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<bool>);

impl Stopping {
    pub(super) fn new(stopping: watch::Receiver<bool>) -> Self {
        Self(stopping)
    }

    /// Waits until a stop has begun.
    pub async fn begun(&self) {
        let mut stopping = self.0.clone();
        // An error says that who would tell is gone, which is a stop as well.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}
