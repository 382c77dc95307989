//! Configuration changes: one at a time, voters by joint consensus (rule M1).

use super::*;

impl Raft {
    /// Makes the log of a new cluster, whose first members these are.
    pub fn initialise(&mut self, now: Time, cluster: ClusterId, members: BTreeSet<Rid>) {
        if !self.store.log.is_empty() || self.store.cluster.is_some() {
            return;
        }
        let config = Config {
            voters: vec![members.clone()],
            members,
        };
        self.store.cluster = Some(cluster);
        self.store.own = true;
        self.store.push(Entry {
            term: 0,
            payload: Payload::Config(Arc::new(config)),
        });
        self.election_at = now + self.random.span(Duration::ZERO, self.options.election_min);
        self.out.push(Out::Initialised {
            cluster,
            only_own: true,
        });
        self.out.push(Out::Members);
    }

    /// Begins the change; its end is told by [`Out::MembersChanged`].
    pub fn change_members(&mut self, now: Time, voters: BTreeSet<Rid>, members: BTreeSet<Rid>) {
        let settled = self
            .store
            .configs
            .last()
            .is_none_or(|&(at, _)| at <= self.commit);
        let opened = matches!(&self.role, Role::Leader(leader) if self.commit > leader.opened_at && leader.change.is_none());
        let current = self.store.config().cloned();
        let (true, true, true, Some(current)) = (settled, opened, self.may_write(now), current)
        else {
            return self.out.push(Out::MembersChanged { done: false });
        };
        let goal = Arc::new(Config {
            voters: vec![voters.clone()],
            members,
        });
        let next = if current.voters.contains(&voters) {
            goal.clone()
        } else {
            let from = current
                .voters
                .last()
                .expect("a configuration has voters")
                .clone();
            let members = current.members.union(&goal.members).copied().collect();
            Arc::new(Config {
                voters: vec![from, voters],
                members,
            })
        };
        if let Role::Leader(leader) = &mut self.role {
            leader.change = Some(goal);
        }
        self.append(now, Payload::Config(next));
        self.show();
    }

    /// A configuration is in effect as soon as the leader has it in its log.
    pub(super) fn config_appended(&mut self) {
        let Some(config) = self.store.config().cloned() else {
            return;
        };
        if let Role::Leader(leader) = &mut self.role {
            leader.progress.retain(|id, _| config.members.contains(id));
            for &id in &config.members {
                leader.progress.entry(id).or_default();
            }
        }
        self.out.push(Out::Members);
    }

    pub(super) fn config_committed(&mut self, now: Time, config: &Arc<Config>) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(goal) = leader.change.clone() else {
            return;
        };
        if goal == *config {
            leader.change = None;
            self.out.push(Out::MembersChanged { done: true });
            if !config.is_voter(self.id) {
                self.step_down();
                self.leader = None;
                self.rearm(now);
            }
        } else if config.voters.len() == 2 && config.voters[1] == goal.voters[0] {
            self.append(now, Payload::Config(goal));
        }
    }

    /// How far the leader knows each member to be, and the end of its own log.
    pub fn progress(&self) -> (BTreeMap<Rid, LogIndex>, LogIndex) {
        let end = self.store.log.len().saturating_sub(1);
        let Role::Leader(leader) = &self.role else {
            return (BTreeMap::new(), LogIndex(end));
        };
        let index = |matched: u64| LogIndex(matched.saturating_sub(1));
        let matched = leader
            .progress
            .iter()
            .map(|(&id, progress)| (id, index(progress.matched)))
            .collect();
        (matched, LogIndex(end))
    }
}
