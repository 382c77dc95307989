//! Requests of other members: checked, then given to openraft.
//!
//! Openraft trusts its peers and asserts what correct ones keep to; a request that would trip an assertion is
//! refused here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};

use super::Device;
use super::rpc::{
    Call, MAX_SNAPSHOT_BYTES, Refusal, Reply, Request, RpcDecodeError, SNAPSHOT_CHUNK_BYTES,
    SnapshotChunk,
};
use super::types::{Snapshot, SnapshotMeta, TypeConfig, Vote, index_of, term_of};
use crate::ids::{RaftId, Term};
use crate::time::Time;
use crate::transport::Peer;

/// How often a write that is under way is looked after.
const FLUSH_LOOK: Duration = Duration::from_millis(1);

/// How long the beginning of a snapshot is kept for the rest to follow: longer than connections take to come back.
pub(super) const SNAPSHOT_RESUME_WITHIN: Duration = Duration::from_secs(30);

/// A snapshot that is arriving. What is there survives a lost connection: the sender asks how much that is, and goes on from
/// there. It is given up for another snapshot, for another leader, and after [`SNAPSHOT_RESUME_WITHIN`].
pub(super) struct IncomingSnapshot {
    from: RaftId,
    vote: Vote,
    meta: SnapshotMeta,
    total: u64,
    bytes: BytesMut,
    /// When its latest bytes came.
    since: Time,
}

impl IncomingSnapshot {
    /// Whether the chunk belongs to this transfer: the same snapshot of the same leader in the same term.
    fn is_of(&self, from: &RaftId, chunk: &SnapshotChunk) -> bool {
        self.from == *from
            && self.vote == chunk.vote
            && self.meta == chunk.meta
            && self.total == chunk.total
    }
}

impl Device {
    /// Answers a request. Whatever the bytes are, the answer is a reply.
    pub(super) async fn serve(&self, from: &Peer, request: &[u8]) -> Reply {
        let request = match Request::decode(request) {
            Ok(request) => request,
            Err(RpcDecodeError::Malformed) => return Reply::Refused(Refusal::Malformed),
            Err(RpcDecodeError::OtherVersion) => return Reply::Refused(Refusal::OtherVersion),
        };
        let served = match self.check(from, &request) {
            Ok(()) => self.dispatch(request).await,
            Err(refusal) => Err(refusal),
        };
        served.unwrap_or_else(Reply::Refused)
    }

    fn check(&self, from: &Peer, request: &Request) -> Result<(), Refusal> {
        if request.from.node != from.instance.node {
            return Err(Refusal::OtherSender);
        }
        if request.to != self.me {
            return Err(Refusal::OtherStore);
        }
        if self.gate.cluster() != Some(request.cluster) {
            return Err(Refusal::OtherCluster);
        }
        let (vote, committed) = match &request.call {
            Call::Append(append) => (&append.vote, true),
            Call::Vote(vote) | Call::PreVote(vote) => (&vote.vote, false),
            Call::TransferLeader(transfer) => (transfer.from_leader(), true),
            Call::Snapshot(chunk) => (&chunk.vote, true),
        };
        if vote.committed != committed || vote.leader_id.voted_for != request.from {
            return Err(Refusal::Malformed);
        }
        Ok(())
    }

    async fn dispatch(&self, request: Request) -> Result<Reply, Refusal> {
        let stopped = |_| Refusal::Stopped;
        match request.call {
            Call::Append(append) => {
                check_append(&append)?;
                if !append.entries.is_empty() {
                    self.fix(&request.cluster)?;
                }
                let term = Term(append.vote.leader_id.term);
                let _alone = match append.entries.is_empty() {
                    true => None,
                    false => Some(self.entries.lock().await),
                };
                let response = self
                    .raft
                    .append_entries(append)
                    .await
                    .map_err(|_| Refusal::Stopped)?;
                if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                    self.note_heard(term);
                    self.forget_older_snapshot(term);
                }
                Ok(Reply::Append(response))
            }
            Call::Vote(vote) => {
                let response = self.raft.vote(vote).await.map_err(|_| Refusal::Stopped)?;
                Ok(Reply::Vote(response))
            }
            Call::PreVote(vote) => {
                let response = self
                    .raft
                    .pre_vote(vote)
                    .await
                    .map_err(|_| Refusal::Stopped)?;
                Ok(Reply::Vote(response))
            }
            Call::TransferLeader(transfer) => {
                let response = self
                    .raft
                    .handle_transfer_leader(transfer)
                    .await
                    .map_err(stopped)?;
                Ok(Reply::TransferLeader(response))
            }
            Call::Snapshot(chunk) => {
                self.check_chunk(&chunk)?;
                let vote = chunk.vote.clone();
                let total = chunk.total;
                if self.has_installed(&chunk) {
                    // Only the answer to its last chunk was lost.
                    return Ok(Reply::Snapshot { vote, held: total });
                }
                let snapshot = match self.take_chunk(request.from, chunk)? {
                    Progress::Held(held) => return Ok(Reply::Snapshot { vote, held }),
                    Progress::Whole(snapshot) => snapshot,
                };
                self.fix(&request.cluster)?;
                let term = Term(vote.leader_id.term);
                let _alone = self.entries.lock().await;
                if self.is_overtaken(&vote, &snapshot).await {
                    self.note_heard(term);
                    return Ok(Reply::Snapshot { vote, held: total });
                }
                let response = self
                    .raft
                    .install_full_snapshot(vote.clone(), snapshot)
                    .await
                    .map_err(stopped)?;
                if response.vote == vote {
                    self.note_heard(term);
                }
                Ok(Reply::Snapshot {
                    vote: response.vote,
                    held: total,
                })
            }
        }
    }

    fn fix(&self, cluster: &crate::ids::ClusterId) -> Result<(), Refusal> {
        match self.gate.fix(*cluster, false) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::OtherCluster),
            Err(error) => {
                self.note_failure(error.to_string());
                Err(Refusal::Stopped)
            }
        }
    }

    /// Whether the log holds all of the snapshot, and is that of the leader who sent it: entries that were late have
    /// arrived after all. By log matching nothing is missing then, and the log is applied as it is. Openraft would
    /// install the snapshot and take its last entry for the last that was written.
    async fn is_overtaken(&self, vote: &super::types::Vote, snapshot: &Snapshot) -> bool {
        let Some(last) = &snapshot.meta.last_log_id else {
            return false;
        };
        let follows = || self.raft.metrics().borrow_watched().vote == *vote;
        while follows() && self.stores.holds_entry(last) {
            // The answer says that the entry is kept: it must be on the disk.
            if self.stores.has_flushed(last) {
                return true;
            }
            self.environment.sleep(FLUSH_LOOK).await;
        }
        false
    }

    /// The transfer of a leader that was deposed will not go on, nor will one that stands still for long.
    fn forget_older_snapshot(&self, term: Term) {
        let now = self.environment.now();
        let mut incoming = self.incoming();
        if incoming.as_ref().is_some_and(|held| {
            held.vote.leader_id.term < term.0 || now >= held.since + SNAPSHOT_RESUME_WITHIN
        }) {
            *incoming = None;
        }
    }

    /// Whether this very snapshot, of the leader that is followed, was the last to be installed here.
    fn has_installed(&self, chunk: &SnapshotChunk) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.vote == chunk.vote
            && chunk.meta.last_log_id.is_some()
            && metrics.snapshot == chunk.meta.last_log_id
            && metrics.last_applied >= metrics.snapshot
    }

    fn check_chunk(&self, chunk: &SnapshotChunk) -> Result<(), Refusal> {
        if chunk.total > MAX_SNAPSHOT_BYTES {
            return Err(Refusal::TooLarge);
        }
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        let asks = chunk.bytes.is_empty() && chunk.offset == 0;
        let progress = !chunk.bytes.is_empty() || asks;
        let of_the_vote = chunk
            .meta
            .last_log_id
            .as_ref()
            .is_some_and(|last| last.leader_id.term <= chunk.vote.leader_id.term);
        if end > chunk.total
            || !progress
            || chunk.bytes.len() > SNAPSHOT_CHUNK_BYTES
            || !of_the_vote
        {
            return Err(Refusal::Malformed);
        }
        // What is committed here cannot be contradicted by a leader.
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let contradicts = |committed: &super::types::LogId| {
            chunk
                .meta
                .last_log_id
                .is_some_and(|last| last > *committed && last.index <= committed.index)
        };
        if metrics.local_committed.as_ref().is_some_and(contradicts) {
            return Err(Refusal::Malformed);
        }
        Ok(())
    }

    /// The whole snapshot, once its last chunk is there. One arrives at a time: the start of another one ends it.
    fn take_chunk(&self, from: RaftId, chunk: SnapshotChunk) -> Result<Progress, Refusal> {
        let now = self.environment.now();
        let mut incoming = self.incoming();
        let goes_on = |held: &IncomingSnapshot| {
            held.is_of(&from, &chunk) && now < held.since + SNAPSHOT_RESUME_WITHIN
        };
        if !incoming.as_ref().is_some_and(goes_on) {
            if chunk.offset != 0 {
                return Err(Refusal::OutOfOrder);
            }
            *incoming = Some(IncomingSnapshot {
                from,
                vote: chunk.vote.clone(),
                meta: chunk.meta.clone(),
                total: chunk.total,
                bytes: BytesMut::new(),
                since: now,
            });
        }
        let Some(held) = incoming.as_mut() else {
            return Err(Refusal::OutOfOrder);
        };
        let have = held.bytes.len() as u64;
        if chunk.offset > have {
            return Err(Refusal::OutOfOrder);
        }
        if chunk.offset == have {
            held.bytes.extend_from_slice(&chunk.bytes);
            held.since = now;
        }
        // Otherwise it was sent twice, and the sender learns how far it is.
        if held.bytes.len() as u64 != held.total {
            self.note_heard(Term(chunk.vote.leader_id.term));
            return Ok(Progress::Held(held.bytes.len() as u64));
        }
        let whole = incoming.take();
        whole.map_or(Err(Refusal::OutOfOrder), |held| {
            Ok(Progress::Whole(Snapshot {
                meta: held.meta,
                snapshot: Bytes::from(held.bytes),
            }))
        })
    }
}

/// What a chunk made of the snapshot that arrives.
enum Progress {
    /// So many bytes of it are there.
    Held(u64),
    Whole(Snapshot),
}

/// Entries follow each other and the entry before them, and none is newer than the leader that sends it.
fn check_append(append: &AppendEntriesRequest<TypeConfig>) -> Result<(), Refusal> {
    let mut previous = append.prev_log_id;
    for entry in &append.entries {
        let follows = match &previous {
            None => entry.log_id.index == 0,
            Some(previous) => {
                previous.index.checked_add(1) == Some(index_of(&entry.log_id).0)
                    && term_of(previous) <= term_of(&entry.log_id)
            }
        };
        if !follows {
            return Err(Refusal::Malformed);
        }
        previous = Some(entry.log_id);
    }
    let leader = Term(append.vote.leader_id.term);
    if previous.is_some_and(|last| term_of(&last) > leader) {
        return Err(Refusal::Malformed);
    }
    Ok(())
}
