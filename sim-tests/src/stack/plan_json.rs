//! Plans as files: what `sim shrink` writes and `sim replay --plan` runs again.

use std::time::Duration;

use funk::timing::Timing;
use funk_sim::Disk;
use serde::{Deserialize, Serialize};

use super::plan::Plan;

/// [`Disk`], with a form for files.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Disk")]
pub(super) enum DiskJson {
    Kept,
    Lost,
}

/// [`Timing`], with a form for files.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Timing")]
pub(super) struct TimingJson {
    heartbeat: Duration,
    election_min: Duration,
    election_max: Duration,
    quorum_loss_probe: Duration,
    leader_bound: Duration,
    ping: Duration,
    lease: Duration,
    dead_after: Duration,
    clock_error: f64,
    settle_deaths: Duration,
    settle_joins: Duration,
    ack_timeout: Duration,
    drain_timeout: Duration,
    acquire_timeout: Duration,
    replace_after: Duration,
    stale_after: Duration,
    unready_after: Duration,
    gossip_probe: Duration,
    gossip_suspect: Duration,
}

impl Plan {
    /// The plan as JSON. The same plan comes back from it.
    ///
    /// # Panics
    ///
    /// Never: a plan holds nothing that JSON has no form for.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan is plain data")
    }

    /// The plan that was written as JSON.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and in which line.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let plan: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let timing = plan.timing.check();
        timing.map_err(|errors| format!("its timing does not hold together: {errors:?}"))?;
        if plan.nodes.is_empty() {
            return Err("it has no nodes".to_owned());
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_comes_back_from_json_as_it_was() {
        for seed in 0..500 {
            let plan = Plan::swarm(seed);
            assert_eq!(Plan::from_json(&plan.to_json()), Ok(plan), "seed {seed}");
        }
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        let text = Plan::quiet(1, 3).to_json();
        assert!(Plan::from_json(&text.replace("\"shards\"", "\"shard\"")).is_err());
        assert!(Plan::from_json(&text[1..]).is_err());
    }
}
