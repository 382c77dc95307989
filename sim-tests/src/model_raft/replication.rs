//! Heartbeats, entries, snapshots, commit.

use super::*;

impl Raft {
    /// A heartbeat, unless no quorum answers and this is a silent slot.
    pub(super) fn beat(&mut self, now: Time) {
        let heartbeat = self.options.heartbeat;
        let allowed = self.may_beat(now);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.heartbeat_at = now + heartbeat;
        leader.beats += 1;
        let report = leader.beats.is_multiple_of(REPORT_EVERY);
        let transferring = leader.transferring;
        if allowed || transferring {
            self.replicate(now, true);
        }
        if report {
            self.out.push(Out::Members);
        }
        self.count_quorum(now);
        self.advance_commit(now);
        self.show();
    }

    fn may_beat(&self, now: Time) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        if leader.transferring {
            return false;
        }
        let since = leader.quorum_at.or(leader.elected_at);
        let age = since.map_or(Duration::ZERO, |at| now.since(at));
        let Some(over) = age.checked_sub(self.options.election_max) else {
            return true;
        };
        (over.as_nanos() / self.options.quorum_loss_probe.as_nanos()) % 2 == 1
    }

    pub(super) fn append(&mut self, now: Time, payload: Payload) {
        let term = self.store.term;
        let is_config = matches!(payload, Payload::Config(_));
        self.store.push(Entry { term, payload });
        if is_config {
            self.config_appended();
        }
        self.replicate(now, false);
        self.count_quorum(now);
        self.advance_commit(now);
    }

    /// Sends everybody what it lacks. A heartbeat begins at what is known to match: what was sent since may be lost.
    fn replicate(&mut self, now: Time, heartbeat: bool) {
        let len = self.store.log.len();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let mut sends = Vec::new();
        for (&id, progress) in leader.progress.iter_mut().filter(|(id, _)| **id != self.id) {
            if heartbeat && progress.matched > 0 {
                progress.next = progress.matched;
            }
            // A leader that hands on sends no heartbeats, but replication of what is there goes on.
            if leader.transferring && progress.matched == len {
                continue;
            }
            sends.push((id, progress.next));
            progress.next = len;
        }
        for (id, next) in sends {
            self.send_append(now, id, next);
        }
    }

    fn send_append(&mut self, now: Time, to: Rid, next: u64) {
        let term = self.store.term;
        let log = &self.store.log;
        let message = match (log.term_at(next), &self.store.snapshot) {
            (Some(prev_term), _) => Message::Append {
                term,
                prev_len: next,
                prev_term,
                entries: log.slice(next, MAX_APPEND),
                commit: self.commit,
                sent_at: now,
            },
            (None, Some(snapshot)) => Message::Install {
                term,
                snapshot: snapshot.clone(),
                sent_at: now,
            },
            (None, None) => return,
        };
        self.send(to, message);
    }

    pub(super) fn refuse(&mut self, from: Rid, sent_at: Time) {
        let term = self.store.term;
        self.send(
            from,
            Message::Appended {
                term,
                ok: false,
                len: 0,
                sent_at,
            },
        );
    }

    fn answer(&mut self, to: Rid, ok: bool, len: u64, sent_at: Time) {
        let term = self.store.term;
        self.send(
            to,
            Message::Appended {
                term,
                ok,
                len,
                sent_at,
            },
        );
    }

    pub(super) fn on_append(
        &mut self,
        from: Rid,
        prev: (u64, u64),
        entries: Vec<Entry>,
        commit: u64,
        sent_at: Time,
    ) {
        let (prev_len, prev_term) = prev;
        let purged = prev_len < self.store.log.first();
        if !purged && self.store.log.term_at(prev_len) != Some(prev_term) {
            let hint = self
                .store
                .log
                .len()
                .min(prev_len.saturating_sub(1))
                .max(self.commit);
            return self.answer(from, false, hint, sent_at);
        }
        let end = prev_len + entries.len() as u64;
        let (had, had_config) = (self.store.log.len(), self.store.config().cloned());
        for (len, entry) in (prev_len + 1..).zip(entries) {
            if len <= self.store.log.first() || self.store.log.term_at(len) == Some(entry.term) {
                continue;
            }
            if len <= self.store.log.len() {
                assert!(len > self.commit, "a committed entry would be overwritten");
                self.store.truncate(len - 1);
            }
            self.store.push(entry);
        }
        self.tell_of_first_entries(had);
        if self.store.config() != had_config.as_ref() {
            self.out.push(Out::Members);
        }
        self.commit = self.commit.max(commit.min(end));
        self.apply(Time::default());
        self.answer(from, true, end, sent_at);
    }

    pub(super) fn on_install(&mut self, from: Rid, snapshot: &Arc<Snapshot>, sent_at: Time) {
        if snapshot.len > self.commit {
            let had = self.store.log.len();
            self.store.install(snapshot);
            self.tell_of_first_entries(had);
            self.load(snapshot);
            self.out.push(Out::Members);
        }
        self.answer(from, true, snapshot.len, sent_at);
    }

    pub(super) fn on_appended(
        &mut self,
        now: Time,
        from: Rid,
        term: u64,
        ok: bool,
        len: u64,
        sent_at: Time,
    ) {
        if term > self.store.term {
            return self.follow_term(now, term);
        }
        if term < self.store.term {
            return;
        }
        let own_len = self.store.log.len();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return;
        };
        progress.acked = progress.acked.max(Some(sent_at));
        let mut again = None;
        if ok {
            progress.matched = progress.matched.max(len);
            if progress.next < progress.matched {
                progress.next = progress.matched;
            }
            if progress.matched < own_len && progress.next < own_len {
                again = Some(progress.next);
                progress.next = own_len;
            }
        } else if len < progress.next {
            again = Some(len.max(progress.matched));
            progress.next = own_len;
        }
        if let Some(next) = again {
            self.send_append(now, from, next);
        }
        self.count_quorum(now);
        self.advance_commit(now);
    }

    /// `q` of rule L3: a quorum of voters answered heartbeats sent at or after it; the leader answers itself now.
    fn count_quorum(&mut self, now: Time) {
        let Some(config) = self.store.config().cloned() else {
            return;
        };
        let term = self.store.term;
        let me = self.id;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.transferring {
            return;
        }
        let acked = |id: Rid| {
            if id == me {
                Some(now)
            } else {
                leader.progress.get(&id).and_then(|p| p.acked)
            }
        };
        let Some(quorum) = config.quorum_value(acked).flatten() else {
            return;
        };
        if Some(quorum) > leader.quorum_at {
            leader.quorum_at = Some(quorum);
            self.out.push(Out::QuorumAck {
                term,
                sent_at: quorum,
            });
        }
    }

    fn advance_commit(&mut self, now: Time) {
        let Some(config) = self.store.config().cloned() else {
            return;
        };
        let own_len = self.store.log.len();
        let me = self.id;
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let matched = |id: Rid| {
            if id == me {
                own_len
            } else {
                leader.progress.get(&id).map_or(0, |p| p.matched)
            }
        };
        let Some(len) = config.quorum_value(matched) else {
            return;
        };
        // Only entries of its own term are counted; those before are committed with them.
        if len > leader.opened_at && len > self.commit {
            self.commit = len;
            self.apply(now);
            // Followers learn of it at once, so that a map change takes no heartbeat.
            self.replicate(now, false);
        }
    }
}
