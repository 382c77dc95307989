//! Changes of the raft configuration (rule M1: by joint consensus, one at a time).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;

use super::Device;
use super::types::{MemberAddr, Metrics, StoredMembership};
use crate::engine::MemberChange;
use crate::ids::RaftId;

type Change = ChangeMembers<RaftId, MemberAddr>;

/// What openraft is asked for: the main change, and perhaps the removal of members that it leaves behind.
#[derive(Debug, PartialEq)]
struct Plan {
    change: Change,
    /// Whether voters that are dismissed as such stay as learners.
    retain: bool,
    then_remove: BTreeSet<RaftId>,
}

/// The steps from the present configuration to the one that is wanted.
fn plan(present: &StoredMembership, wanted: &MemberChange) -> Plan {
    let members: BTreeMap<RaftId, MemberAddr> = wanted
        .members
        .iter()
        .map(|(id, addr)| (id.clone(), MemberAddr(*addr)))
        .collect();
    let voters: BTreeSet<RaftId> = present.voter_ids().collect();
    let gone = present
        .nodes()
        .map(|(id, _)| id)
        .filter(|id| !members.contains_key(*id));
    let (gone_voters, gone_learners): (BTreeSet<RaftId>, BTreeSet<RaftId>) =
        gone.cloned().partition(|id| voters.contains(id));
    // While the configuration is joint the old voters must stay members, so they cannot be removed by name. Openraft
    // drops either all dismissed voters with the second step, or none.
    let demoted = voters
        .iter()
        .any(|id| !wanted.voters.contains(id) && members.contains_key(id));
    Plan {
        change: ChangeMembers::Batch(vec![
            ChangeMembers::SetNodes(members),
            ChangeMembers::RemoveNodes(gone_learners),
            ChangeMembers::ReplaceAllVoters(wanted.voters.clone()),
        ]),
        retain: demoted,
        then_remove: if demoted {
            gone_voters
        } else {
            BTreeSet::new()
        },
    }
}

impl Device {
    /// Whether the configuration is now the one that was asked for.
    pub(super) async fn change_members(&self, wanted: MemberChange) -> bool {
        if self.changing.swap(true, Ordering::SeqCst) {
            return false;
        }
        let present = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.clone()
        };
        let plan = plan(&present, &wanted);
        let done = self.carry_out(plan).await;
        self.changing.store(false, Ordering::SeqCst);
        done
    }

    async fn carry_out(&self, plan: Plan) -> bool {
        let changed = self.raft.change_membership(plan.change, plan.retain).await;
        if let Err(error) = changed {
            tracing::info!(%error, "the raft configuration was not changed");
            return false;
        }
        if plan.then_remove.is_empty() {
            return true;
        }
        let removal = ChangeMembers::RemoveNodes(plan.then_remove);
        let removed = self.raft.change_membership(removal, true).await;
        removed
            .inspect_err(|error| tracing::info!(%error, "members were not removed"))
            .is_ok()
    }

    /// A leader that fell in the middle of a change left a joint configuration: openraft leaves it there.
    ///
    /// Voters that it dismissed stay as learners, for the engine to remove them if it still wants that; except those
    /// whose name came back with another store: nobody would.
    pub(super) fn finish_abandoned_change(self: &Arc<Self>, seen: &Metrics) {
        let joint = seen.membership_config.membership().get_joint_config();
        let [.., last] = joint.as_slice() else { return };
        let is_committed = seen.committed_membership_config == seen.membership_config;
        if joint.len() < 2 || !is_committed || self.changing.swap(true, Ordering::SeqCst) {
            return;
        }
        let replaced = seen
            .membership_config
            .nodes()
            .map(|(id, _)| id)
            .filter(|id| !last.contains(*id) && last.iter().any(|voter| voter.node == id.node));
        let plan = Plan {
            change: ChangeMembers::AddVoterIds(BTreeSet::new()),
            retain: true,
            then_remove: replaced.cloned().collect(),
        };
        let device = self.clone();
        self.environment.spawn(async move {
            if !device.carry_out(plan).await {
                // Just elected, or about to be deposed: not at once again.
                device.environment.sleep(device.timing.heartbeat).await;
            }
            device.changing.store(false, Ordering::SeqCst);
        });
    }
}
