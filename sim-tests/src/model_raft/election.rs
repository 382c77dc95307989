//! Who leads: pre-votes, votes, leases, transfer.

use super::*;

impl Raft {
    /// Rearms the election timer: the lease, then a random election timeout.
    pub(super) fn rearm(&mut self, now: Time) {
        let timeout = self
            .random
            .span(self.options.election_min, self.options.election_max);
        let leased = self.heard_at.filter(|_| self.leader.is_some());
        self.election_at =
            leased.map_or(now, |at| now.max(at + self.options.election_max)) + timeout;
    }

    fn hears_a_leader(&self, now: Time) -> bool {
        match &self.role {
            Role::Leader(leader) => {
                let sole = self
                    .store
                    .config()
                    .is_some_and(|c| c.is_quorum(&BTreeSet::from([self.id])));
                sole || leader
                    .quorum_at
                    .is_some_and(|at| now < at + self.options.election_max)
            }
            _ => self
                .heard_at
                .is_some_and(|at| now < at + self.options.election_max),
        }
    }

    fn position(&self) -> (u64, u64) {
        (self.store.log.last_term(), self.store.log.len())
    }

    /// The election timer fired.
    pub(super) fn campaign(&mut self, now: Time) {
        self.rearm_candidate(now);
        let Some(config) = self
            .store
            .config()
            .filter(|config| config.is_voter(self.id))
            .cloned()
        else {
            return;
        };
        // Rule M1: what is committed but not applied may hold a configuration without this node.
        if self.applied < self.commit || self.hears_a_leader(now) {
            return;
        }
        if config.is_quorum(&BTreeSet::from([self.id])) {
            return self.stand(now, false);
        }
        self.leader = None;
        self.role = Role::PreCandidate(BTreeSet::from([self.id]));
        let (last_term, len) = self.position();
        let term = self.store.term;
        self.send_to_voters(&config, |_| Message::PreVote {
            term,
            last_term,
            len,
        });
        self.show();
    }

    fn rearm_candidate(&mut self, now: Time) {
        self.election_at = now
            + self
                .random
                .span(self.options.election_min, self.options.election_max);
    }

    fn send_to_voters(&mut self, config: &Config, message: impl Fn(Rid) -> Message) {
        let voters: BTreeSet<Rid> = config.voters.iter().flatten().copied().collect();
        let me = self.id;
        for to in voters.into_iter().filter(|&to| to != me) {
            self.send(to, message(to));
        }
    }

    /// A real election.
    fn stand(&mut self, now: Time, transfer: bool) {
        let Some(config) = self.store.config().cloned() else {
            return;
        };
        self.store.term += 1;
        self.store.voted = Some(self.id);
        self.leader = None;
        self.heard_at = None;
        self.role = Role::Candidate {
            votes: BTreeSet::from([self.id]),
            transfer,
        };
        self.rearm_candidate(now);
        if config.is_quorum(&BTreeSet::from([self.id])) {
            self.lead(now, transfer);
            return self.show();
        }
        let (last_term, len) = self.position();
        let term = self.store.term;
        self.send_to_voters(&config, |_| Message::Vote {
            term,
            last_term,
            len,
            transfer,
        });
        self.show();
    }

    pub(super) fn on_pre_vote(&mut self, now: Time, from: Rid, term: u64, position: (u64, u64)) {
        let granted =
            !self.hears_a_leader(now) && term >= self.store.term && position >= self.position();
        let term = self.store.term;
        self.send(from, Message::PreVoted { term, granted });
    }

    pub(super) fn on_pre_voted(&mut self, now: Time, from: Rid, term: u64, granted: bool) {
        if term > self.store.term {
            return self.follow_term(now, term);
        }
        let Role::PreCandidate(votes) = &mut self.role else {
            return;
        };
        if !granted {
            return;
        }
        votes.insert(from);
        if self
            .store
            .config()
            .is_some_and(|config| config.is_quorum(votes))
        {
            self.stand(now, false);
        }
    }

    pub(super) fn on_vote(
        &mut self,
        now: Time,
        from: Rid,
        term: u64,
        position: (u64, u64),
        transfer: bool,
    ) {
        let leased = self.hears_a_leader(now) && !transfer;
        if !leased && term > self.store.term {
            self.follow_term(now, term);
        }
        let free = self.store.voted.is_none_or(|voted| voted == from);
        let granted = !leased && term == self.store.term && free && position >= self.position();
        if granted {
            self.store.voted = Some(from);
            self.rearm_candidate(now);
        }
        let term = self.store.term;
        self.send(from, Message::Voted { term, granted });
    }

    pub(super) fn on_voted(&mut self, now: Time, from: Rid, term: u64, granted: bool) {
        if term > self.store.term {
            return self.follow_term(now, term);
        }
        let Role::Candidate { votes, transfer } = &mut self.role else {
            return;
        };
        if !granted || term != self.store.term {
            return;
        }
        votes.insert(from);
        let transfer = *transfer;
        if self
            .store
            .config()
            .is_some_and(|config| config.is_quorum(votes))
        {
            self.lead(now, transfer);
        }
    }

    /// A newer term: whatever this node was, it is a follower now.
    pub(super) fn follow_term(&mut self, now: Time, term: u64) {
        self.store.term = term;
        self.store.voted = None;
        self.leader = None;
        self.step_down();
        self.rearm(now);
    }

    pub(super) fn step_down(&mut self) {
        if let Role::Leader(leader) = std::mem::replace(&mut self.role, Role::Follower)
            && leader.change.is_some()
        {
            self.out.push(Out::MembersChanged { done: false });
        }
    }

    /// Whether the sender leads in a term that is not old; then it is followed.
    pub(super) fn hear_leader(&mut self, now: Time, from: Rid, term: u64) -> bool {
        if term < self.store.term {
            return false;
        }
        if term > self.store.term {
            self.follow_term(now, term);
        }
        assert!(!self.is_leader(), "two leaders in term {term}");
        self.role = Role::Follower;
        self.leader = Some(from);
        self.heard_at = Some(now);
        self.rearm(now);
        true
    }

    fn lead(&mut self, now: Time, transfer: bool) {
        let len = self.store.log.len();
        let config = self
            .store
            .config()
            .cloned()
            .expect("a candidate has a configuration");
        let progress = |&id: &Rid| {
            (
                id,
                Progress {
                    matched: 0,
                    next: len,
                    acked: None,
                },
            )
        };
        self.role = Role::Leader(Box::new(Leader {
            elected_at: (!transfer).then_some(now),
            heartbeat_at: now + self.options.heartbeat,
            progress: config.members.iter().map(progress).collect(),
            opened_at: len,
            quorum_at: None,
            transferring: false,
            change: None,
            beats: 0,
        }));
        self.leader = Some(self.id);
        self.append(now, Payload::Blank);
        self.out.push(Out::Members);
    }

    /// Hands leadership on; until it is deposed this leader neither writes nor sends heartbeats, as with openraft.
    pub fn transfer(&mut self, to: Rid) {
        let term = self.store.term;
        let len = self.store.log.len();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if std::mem::replace(&mut leader.transferring, true) {
            return;
        }
        leader.quorum_at = None;
        let all: Vec<Rid> = leader
            .progress
            .keys()
            .copied()
            .filter(|&id| id != self.id)
            .collect();
        for id in all {
            self.send(id, Message::TransferTo { term, to, len });
        }
    }

    pub(super) fn on_transfer(&mut self, now: Time, term: u64, to: Rid, len: u64) {
        if term != self.store.term || self.is_leader() {
            return;
        }
        self.heard_at = None;
        let up_to_date = len <= self.store.log.len();
        if to == self.id && up_to_date && self.store.config().is_some_and(|c| c.is_voter(self.id)) {
            self.stand(now, true);
        }
    }
}
