//! What openraft's metrics say, as inputs of the engine.
//!
//! # The `q` of rule L3
//!
//! `RaftMetrics::last_quorum_acked` is that time, on the lease clock (the runtime's instants are readings of it).
//! Read in openraft 0.10.0-alpha.37:
//!
//! - *Sending times.* `core/raft_core.rs::broadcast_heartbeat` reads the clock before it hands the heartbeat to the
//!   workers; `core/heartbeat/worker.rs::do_run` returns that same stamp with the answer. For entries
//!   `replication/inflight_append_queue.rs::push` reads the clock when the request is made, before it is sent; for
//!   snapshots `replication/snapshot_transmitter.rs::send_snapshot` does, before the first chunk. A later reading is
//!   never used, *provided that one append request is in flight to a member at a time*: see
//!   [`network`](super::network), which therefore does not pipeline.
//! - *Answers in this term.* Success and conflict count (the follower accepted the leader's vote before it compared
//!   logs), `HigherVote` does not (`worker.rs::handle_stream_result`, `replication/mod.rs::handle_response_stream`).
//!   Progress is matched to the stream it came on, whose id no other term shares
//!   (`engine/handler/replication_handler/mod.rs::try_update_leader_clock`).
//! - *Quorums.* `proposer/leader.rs::Leader::clock_progress` is a `VecProgress` over the effective membership, so a
//!   joint configuration needs a quorum of both sets, learners are kept but never counted, and a leader that is no
//!   voter is kept as nothing or a learner. `update_clock` sets the leader's own entry to the newest *answered*
//!   stamp: less than "now", which is on the safe side, and exactly as good as "now" for two voters or more.
//! - *When.* `core/raft_core.rs::runtime_loop` flushes all metrics before it waits for the next message, so after
//!   every answer. `Raft::metrics` is notified of each flush; `data_metrics` carries the time too, `server_metrics`
//!   does not. What a reader sees may be old, which makes `q` smaller: safe.
//!
//! A sole voter gets no answers: its own entry stays at the time of its election. It is asked instead, in its core,
//! where no vote can be given at the same moment, and answers with the clock's reading (`sole_voter_now`).
//!
//! # Leadership
//!
//! `state == Leader` only after a quorum's votes have arrived (`engine/engine_impl.rs::handle_vote_resp`, then
//! `establish_leader`): whoever reads the clock on seeing it reads `t` of rule L4. Leadership is not restored
//! without a vote after a restart (`enable_leader_restore` is off).
//!
//! Rule L6: an isolated leader stays `Leader` in openraft, refuses writes, and stops its heartbeats by the
//! quorum-loss probe. Here it stays `is_leader`, but is shown as knowing no leader. It is never shown as deposed and
//! then as leader again *in the same term*: an engine that forgot which nodes it had excused (rule L5) while a
//! commit of its own was still in the log would grant to them again, and rule P1 would not void that commit.
//!
//! # Rule M1
//!
//! A node never campaigns under an old configuration: openraft's elections use the *effective* one, the last in the
//! log whether or not it is committed or applied (`core/raft_core.rs::handle_tick_election`,
//! `engine/engine_impl.rs::elect`); it is updated on append (`following_handler/mod.rs`,
//! `replication_handler/mod.rs::append_membership`) and found again in the log at a restart
//! (`storage/helper.rs::get_membership`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use super::Device;
use super::types::{Fatal, Metrics, StoredMembership};
use crate::engine::{Input, Leadership, RaftMembers};
use crate::ids::{ClusterId, LogIndex, RaftId, Term};
use crate::time::Time;

/// What the engine was told last.
#[derive(Default)]
struct Told {
    leadership: Option<Leadership>,
    members: RaftMembers,
    membership: Arc<StoredMembership>,
    members_at: Time,
    quorum: Option<(Term, Time)>,
    only_own: Option<bool>,
    /// Since when this node is the leader in this term.
    leading_since: Option<(Term, Time)>,
}

/// Runs for the life of the device.
pub(super) async fn run(device: Arc<Device>) {
    let mut metrics = device.raft.metrics();
    let mut told = Told::default();
    loop {
        let seen: Metrics = metrics.borrow_and_update().clone();
        if let Err(fatal) = &seen.running_state {
            return device.note_fatal(fatal);
        }
        told.tell(&device, &seen).await;
        if metrics.changed().await.is_err() {
            return device.note_fatal(&Fatal::Panicked);
        }
    }
}

/// The cluster of the log, and whether it holds nothing but this node's own initialisation; `None`: it is empty.
pub(super) fn initialised(device: &Device, seen: &Metrics) -> Option<(ClusterId, bool)> {
    let (last, cluster) = (seen.last_log_index?, device.gate.cluster()?);
    let only_own = device.gate.is_own() && last == 0 && seen.current_leader.is_none();
    Some((cluster, only_own))
}

impl Told {
    async fn tell(&mut self, device: &Arc<Device>, seen: &Metrics) {
        let now = device.environment.now();
        self.tell_members(device, seen, now);
        self.tell_initialised(device, seen);
        let quorum = self.quorum(device, seen, now).await;
        self.tell_leadership(device, seen, now, quorum);
        if let Some((term, sent_at)) = quorum.filter(|quorum| self.quorum < Some(*quorum)) {
            self.quorum = quorum;
            device.tell(Input::QuorumAck { term, sent_at });
        }
        if leads(device, seen) {
            device.finish_abandoned_change(seen);
        }
    }

    /// The first entry came, from this node itself or from a leader; or more than the own initialisation.
    fn tell_initialised(&mut self, device: &Device, seen: &Metrics) {
        let Some((cluster, only_own)) = initialised(device, seen) else {
            return;
        };
        // Once there is more it never becomes less.
        if self.only_own.is_none() || (self.only_own == Some(true) && !only_own) {
            self.only_own = Some(only_own);
            device.tell(Input::Initialised { cluster, only_own });
        }
    }

    fn tell_leadership(
        &mut self,
        device: &Device,
        seen: &Metrics,
        now: Time,
        quorum: Option<(Term, Time)>,
    ) {
        let term = Term(seen.current_term);
        let is_leader = leads(device, seen);
        if !is_leader {
            self.leading_since = None;
        } else if self.leading_since.is_none_or(|(since, _)| since != term) {
            self.leading_since = Some((term, now));
        }
        let heard_at = match self.leading_since {
            // Rule L6.
            Some((_, since)) => quorum.map_or(since, |(_, sent_at)| sent_at.max(since)),
            None => device.heard(term),
        };
        // A follower has begun to campaign by then.
        let patience = device.timing.election_max * if is_leader { 1 } else { 2 };
        let leader = seen
            .current_leader
            .clone()
            .filter(|_| now < heard_at + patience);
        let leadership = Leadership {
            term,
            leader,
            is_leader,
        };
        if self.leadership.as_ref() != Some(&leadership) {
            self.leadership = Some(leadership.clone());
            device.tell(Input::Leadership(leadership));
        }
    }

    /// `q`, if this node leads.
    async fn quorum(&self, device: &Device, seen: &Metrics, now: Time) -> Option<(Term, Time)> {
        if !leads(device, seen) {
            return None;
        }
        let term = Term(seen.current_term);
        if is_sole_voter(&seen.membership_config, &device.me) {
            let known = self.quorum.filter(|(of, _)| *of == term);
            return match known {
                Some((_, at)) if now < at + device.timing.heartbeat => known,
                _ => sole_voter_now(device, term).await.or(known),
            };
        }
        seen.last_quorum_acked.map(|at| (term, at.into_inner().0))
    }

    /// The configuration when it changes; how far members have come, once a heartbeat.
    fn tell_members(&mut self, device: &Device, seen: &Metrics, now: Time) {
        let is_same = Arc::ptr_eq(&self.membership, &seen.membership_config);
        let changed = !is_same && *self.membership != *seen.membership_config;
        if changed {
            self.membership = seen.membership_config.clone();
            self.members = members_of(&self.membership);
            device.addresses.replace(&self.members.members);
        }
        if !changed && now < self.members_at + device.timing.heartbeat {
            return;
        }
        let matched: BTreeMap<RaftId, LogIndex> = seen
            .replication
            .iter()
            .flatten()
            .filter_map(|(id, log)| Some((id.clone(), LogIndex(log.as_ref()?.index))))
            .collect();
        let last_index = LogIndex(seen.last_log_index.unwrap_or(0));
        // Followers need not hear of every entry.
        let moved = seen.replication.is_some() && last_index != self.members.last_index;
        if changed || moved || matched != self.members.matched {
            self.members_at = now;
            self.members.matched = matched;
            self.members.last_index = last_index;
            device.tell(Input::RaftMembers(self.members.clone()));
        }
    }
}

fn leads(device: &Device, seen: &Metrics) -> bool {
    seen.state == ServerState::Leader && seen.current_leader.as_ref() == Some(&device.me)
}

pub(super) fn is_sole_voter(membership: &StoredMembership, me: &RaftId) -> bool {
    let joint = membership.membership().get_joint_config();
    !joint.is_empty() && joint.iter().all(|voters| voters.iter().eq([me]))
}

fn members_of(membership: &StoredMembership) -> RaftMembers {
    let membership = membership.membership();
    let voters: Vec<BTreeSet<RaftId>> = membership.get_joint_config().clone();
    let members: BTreeMap<RaftId, SocketAddr> = membership
        .nodes()
        .map(|(id, node)| (id.clone(), node.0))
        .collect();
    RaftMembers {
        voters,
        members,
        ..RaftMembers::default()
    }
}

/// The clock's reading at a moment at which this node, the only voter, still leads in `term`.
async fn sole_voter_now(device: &Device, term: Term) -> Option<(Term, Time)> {
    let (me, environment) = (device.me.clone(), device.environment.clone());
    let leads_now = device.raft.with_raft_state(move |state| {
        let vote = state.vote_ref();
        let own = vote.committed && vote.leader_id.term == term.0 && vote.leader_id.voted_for == me;
        let sole = is_sole_voter(state.membership_state.effective(), &me);
        (own && sole).then(|| environment.now())
    });
    leads_now.await.ok().flatten().map(|now| (term, now))
}
