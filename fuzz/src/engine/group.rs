//! The raft group: elections, the log, snapshots, the configuration and the stores of its members. What an engine is
//! promised about its own raft is kept here; what the entries and the snapshots say is not.

use std::collections::BTreeSet;
use std::time::Duration;

use funk::engine::replicated::{Change, Replicated};
use funk::engine::{Input, Leadership, NodeState, RaftMembers};
use funk::ids::{LogIndex, RaftId, Term};
use funk::log_message::LogMessage;

use super::entry::HostileEntry;
use super::hostile::Truth;
use super::seat::Seat;
use super::world::{CLUSTER, World};

/// Entries past which leaders' proposals are lost.
pub(super) const MAX_LOG: usize = 512;

impl World {
    pub(super) fn newest_replica(&self) -> &Replicated {
        let newest = self.seats.iter().max_by_key(|seat| seat.applied);
        &newest.expect("there is a node").replica
    }

    pub(super) fn may_lead(&self, seat: &Seat) -> bool {
        let holds = seat.holds.map(|(cluster, _)| cluster);
        let is_up = seat.engine.state() != NodeState::Invalid;
        seat.may_vote()
            && is_up
            && holds.is_some()
            && (self.cluster.is_none() || holds == self.cluster)
    }

    pub(super) fn elect(&mut self, at: usize, heard: u8) {
        if !self.may_lead(&self.seats[at]) {
            return;
        }
        if self.cluster.is_none() {
            self.cluster = self.seats[at].holds.map(|(cluster, _)| cluster);
            self.group = self.seats[at].group.clone();
        }
        self.term = Term(self.term.0 + 1);
        self.leader = Some(at);
        let leader = Some(self.seats[at].raft_id());
        for to in 0..self.seats.len() {
            let holds = self.seats[to].holds.map(|(cluster, _)| cluster);
            let hears = to == at || (heard & (1 << to) != 0 && holds == self.cluster);
            if !hears {
                continue;
            }
            let seat = &mut self.seats[to];
            (seat.term, seat.leads_since) = (self.term, (to == at).then_some(self.now));
            let leadership = Leadership {
                term: self.term,
                leader: leader.clone(),
                is_leader: to == at,
            };
            self.input(to, Input::Leadership(leadership));
        }
    }

    /// A leader that hears no quorum goes on as one, but is shown as knowing no leader (rule L6).
    pub(super) fn lose_leader(&mut self, at: usize) {
        let seat = &self.seats[at];
        let leadership = Leadership {
            term: seat.term,
            leader: None,
            is_leader: seat.leads_since.is_some(),
        };
        self.input(at, Input::Leadership(leadership));
    }

    pub(super) fn quorum(&mut self, at: usize, ago: u64) {
        let seat = &self.seats[at];
        if let Some(since) = seat.leads_since {
            let sent_at = since.max(self.now - Duration::from_millis(ago));
            let term = seat.term;
            self.input(at, Input::QuorumAck { term, sent_at });
        }
    }

    /// The node belongs to the cluster or may be let in: the log of another cluster is refused.
    fn joins(&mut self, at: usize) -> bool {
        let seat = &mut self.seats[at];
        let Some(cluster) = self.cluster.filter(|_| seat.is_member()) else {
            return false;
        };
        match seat.holds {
            Some((held, false)) => held == cluster,
            // Rule M0 and the gate: a leader's entries come only where they are accepted.
            Some((held, true)) if held != cluster => false,
            _ if seat.engine.cluster() != Some(cluster) => false,
            _ => {
                seat.holds = Some((cluster, false));
                // Entries have come: what was to be thrown away is kept.
                seat.abandons = false;
                seat.initialises = None;
                let only_own = false;
                self.input(at, Input::Initialised { cluster, only_own });
                true
            }
        }
    }

    pub(super) fn apply(&mut self, at: usize, most: usize) {
        if self.seats[at].applied >= self.log.len() || !self.joins(at) {
            return;
        }
        for _ in 0..most {
            let seat = &mut self.seats[at];
            let Some((term, message)) = self.log.get(seat.applied).cloned() else {
                return;
            };
            seat.applied += 1;
            // Index 0 is raft's own.
            let index = LogIndex(seat.applied as u64);
            let change = seat.replica.apply(index, term, &message);
            if !matches!(change, Change::App(_)) {
                let applied = Input::Applied {
                    index,
                    term,
                    change,
                };
                self.input(at, applied);
            }
        }
    }

    pub(super) fn append(&mut self, entry: &HostileEntry) {
        if self.leader.is_none() || self.log.len() >= MAX_LOG {
            return;
        }
        let committed = self.newest_replica().committed.clone();
        let nobody = self.seats[0].instance.clone();
        let truth = Truth {
            now: self.now,
            term: self.term.0,
            index: self.log.len() as u64,
            cluster: CLUSTER,
            committed: &committed,
            boot: nobody.boot,
            sender: &nobody,
            receiver: &nobody,
            gossip_head: &[],
        };
        let readable = |message: LogMessage| {
            LogMessage::decode(&message.encode(), funk::versions::VersionRange::SPOKEN).ok()
        };
        if let Some(message) = entry.message(&truth).and_then(readable) {
            self.log.push((self.term, message));
        }
    }

    /// A snapshot of the first `until` entries. What it holds cannot be newer than they are.
    pub(super) fn install(&mut self, at: usize, bytes: &[u8], until: usize) {
        let Ok(replicated) = Replicated::decode(bytes) else {
            return;
        };
        let fits = until > self.seats[at].applied && replicated.latest().0 <= until as u64;
        if fits && self.joins(at) {
            let seat = &mut self.seats[at];
            (seat.applied, seat.replica) = (until, replicated.clone());
            self.input(at, Input::Installed(replicated));
        }
    }

    pub(super) fn tell_members(&mut self, at: usize) {
        let seat = &self.seats[at];
        let Some((cluster, _)) = seat.holds else {
            return;
        };
        let mut members = if Some(cluster) == self.cluster {
            self.group.clone()
        } else {
            seat.group.clone()
        };
        if seat.leads_since.is_some() {
            let matched = |seat: &Seat| (seat.raft_id(), LogIndex(seat.applied as u64));
            members.matched = self.seats.iter().map(matched).collect();
            members.last_index = LogIndex(self.log.len() as u64);
        }
        self.input(at, Input::RaftMembers(members));
    }

    pub(super) fn change_members(&mut self, at: usize, done: bool) {
        let Some(change) = self.seats[at].change.take() else {
            return;
        };
        let done = done && self.leader == Some(at);
        if done {
            self.group.voters = vec![change.voters];
            self.group.members = change.members;
            self.tell_members(at);
        }
        self.input(at, Input::MembersChanged { done });
    }

    /// An initialisation, or the exchange of the store for an empty one.
    pub(super) fn work_on_store(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        if std::mem::take(&mut seat.abandons) {
            let holds_entries = seat.holds.is_some_and(|(_, only_own)| !only_own);
            if !holds_entries {
                if self.leader == Some(at) {
                    self.leader = None;
                }
                let store = seat.replace_store();
                self.input(at, Input::StoreReplaced(store));
            }
        } else if let Some((cluster, members)) = seat.initialises.take() {
            let voters: BTreeSet<RaftId> = members.keys().cloned().collect();
            seat.holds = Some((cluster, true));
            seat.group = RaftMembers {
                voters: vec![voters],
                members,
                ..RaftMembers::default()
            };
            let only_own = true;
            self.input(at, Input::Initialised { cluster, only_own });
            self.tell_members(at);
        }
    }

    /// The node starts again. Its store says what it belongs to before anything else.
    pub(super) fn restart(&mut self, at: usize) {
        if self.leader == Some(at) {
            self.leader = None;
        }
        let count = self.seats.len();
        self.seats[at].restart(count, self.now);
        if let Some((cluster, only_own)) = self.seats[at].holds {
            self.input(at, Input::Initialised { cluster, only_own });
            if self.seats[at].applied > 0 {
                let replica = self.seats[at].replica.clone();
                self.input(at, Input::Installed(replica));
            }
            self.tell_members(at);
            self.lose_leader(at);
        } else {
            self.input(at, Input::Tick);
        }
    }
}
