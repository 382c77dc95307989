//! Whether the services say that they are ready: asked again and again, outside the driver (rule M10).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::node::{Command, Node};

/// Pause between two questions.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// A service that does not answer within this is not ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Asks all services, for as long as the node runs, and tells the driver when the answer changes.
pub(super) async fn watch(node: Arc<Node>) {
    let mut told = true;
    while !node.is_stopped() {
        let ready = all_are_ready(&node).await;
        if ready != told {
            told = ready;
            if node.commands.send(Command::Ready(ready)).is_err() {
                return;
            }
        }
        node.environment.sleep(ASK_EVERY).await;
    }
}

async fn all_are_ready(node: &Node) -> bool {
    for (name, service) in &node.services {
        let asked = AssertUnwindSafe(service.clone().ready()).catch_unwind();
        let reason = match node.environment.timeout(ANSWER_WITHIN, asked).await {
            Some(Ok(true)) => continue,
            Some(Ok(false)) => "it says so",
            Some(Err(_)) => "its ready hook panicked",
            None => "its ready hook does not answer",
        };
        tracing::debug!(node = %node.instance, service = %name, reason, "a service is not ready");
        return false;
    }
    true
}
