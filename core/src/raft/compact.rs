//! Keeps the log small: openraft counts entries, and an entry may be a megabyte.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;

use super::Device;
use super::log_store::Stores;

/// Bytes of entries past which a snapshot is taken and the log before it dropped, however few entries they are.
pub(super) const MAX_LOG_BYTES: usize = 64 << 20;

/// Runs for the life of the device.
pub(super) async fn run(device: Arc<Device>, stores: Stores) {
    loop {
        device.environment.sleep(device.timing.election_max).await;
        if stores.log_bytes() <= MAX_LOG_BYTES {
            continue;
        }
        let (applied, snapshot, purged) = {
            let metrics = device.raft.metrics();
            let seen = metrics.borrow_watched();
            (seen.last_applied, seen.snapshot, seen.purged)
        };
        let trigger = device.raft.trigger();
        let mut asked = Ok(());
        if let Some(snapshot) = snapshot.filter(|_| snapshot > purged) {
            asked = trigger.purge_log(snapshot.index).await;
        } else if applied > snapshot {
            asked = trigger.snapshot().await;
        }
        if asked.is_err() {
            return;
        }
    }
}
