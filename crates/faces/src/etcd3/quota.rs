//! The quota: puts are refused while the live data is larger, and taken again by themselves once it is not.
//!
//! What counts are the bytes that something still needs: values, versions that are not compacted, and leases, so that a
//! flood of leases ends here, too. Invariants:
//! deletes, revocations and compactions pass in any case; the alarm that a member raised it clears itself, once there
//! is a tenth of the quota free, so that it does not flap; alarms of other members are theirs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_member::RequestError;
use quorate_models::ModelId;
use quorate_models::keys::{self, Command};

use super::alarms::ALARM_NO_SPACE;
use super::errors::{NO_SPACE, Status};
use super::{Shared, Thread};

/// Between two looks whether the alarm may be cleared.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The alarm is cleared at this share of the quota.
const CLEAR_BELOW_PERCENT: u64 = 90;

/// The quota that etcd has where none is set.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;

impl Thread {
    /// Refuses what takes space while there is none.
    pub(super) fn check_space(&self) -> Result<(), Status> {
        self.shared.alarms.check_space(self.handle())?;
        let quota = self.shared.config.quota_bytes;
        if quota == 0 || self.shared.alarms.live_bytes(self.handle()) < quota {
            return Ok(());
        }
        if !self.shared.raising.swap(true, Ordering::Relaxed) {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                if let Err(error) = shared.set_alarm(true).await {
                    tracing::warn!(%error, "the alarm that the quota is used up can't be raised; tried again");
                }
                shared.raising.store(false, Ordering::Relaxed);
            });
        }
        Err(NO_SPACE)
    }
}

impl Shared {
    async fn set_alarm(&self, activate: bool) -> Result<(), RequestError> {
        let member = self.handle.identity().member.0;
        let alarm = Command::Alarm { activate, member, alarm: ALARM_NO_SPACE };
        let outcome = self.handle.propose(ModelId::KEYS, keys::encode(&alarm)).await;
        self.alarms.forget();
        outcome.map(|_| ())
    }

    fn may_clear(&self) -> bool {
        let tables = self.handle.store().read();
        let own = (self.handle.identity().member.0, ALARM_NO_SPACE);
        let (_, live) = keys::data_bytes(&tables);
        keys::alarms(&tables).contains(&own) && live <= self.config.quota_bytes / 100 * CLEAR_BELOW_PERCENT
    }
}

/// Clears this member's own alarm, until the runtime ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if shared.may_clear() {
            match shared.set_alarm(false).await {
                Ok(()) => tracing::info!("space is back within the quota: writes are taken again"),
                Err(error) => tracing::warn!(%error, "the quota's alarm can't be cleared yet; tried again"),
            }
        }
    }
}
