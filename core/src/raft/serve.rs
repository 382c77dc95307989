//! Requests of other members: checked, then given to openraft.
//!
//! Openraft trusts its peers and asserts what correct ones keep to; a request that would trip an assertion is
//! refused here.

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
use crate::transport::Peer;

/// How often a write that is under way is looked after.
const FLUSH_LOOK: std::time::Duration = std::time::Duration::from_millis(1);

/// A snapshot that is arriving.
pub(super) struct IncomingSnapshot {
    from: RaftId,
    vote: Vote,
    meta: SnapshotMeta,
    bytes: BytesMut,
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
                let (vote, last) = (chunk.vote.clone(), is_last(&chunk));
                let Some(snapshot) = self.take_chunk(request.from, chunk)? else {
                    return Ok(Reply::Snapshot { vote });
                };
                debug_assert!(last, "only the last chunk completes a snapshot");
                self.fix(&request.cluster)?;
                let term = Term(vote.leader_id.term);
                let _alone = self.entries.lock().await;
                if self.is_overtaken(&vote, &snapshot).await {
                    self.note_heard(term);
                    return Ok(Reply::Snapshot { vote });
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

    /// The transfer of a leader that was deposed will not go on.
    fn forget_older_snapshot(&self, term: Term) {
        let mut incoming = self.incoming();
        if incoming
            .as_ref()
            .is_some_and(|held| held.vote.leader_id.term < term.0)
        {
            *incoming = None;
        }
    }

    fn check_chunk(&self, chunk: &SnapshotChunk) -> Result<(), Refusal> {
        if chunk.total > MAX_SNAPSHOT_BYTES {
            return Err(Refusal::TooLarge);
        }
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        let progress = !chunk.bytes.is_empty() || chunk.total == 0;
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

    /// The whole snapshot, once its last chunk is there. One arrives at a time: a first chunk ends any other.
    fn take_chunk(&self, from: RaftId, chunk: SnapshotChunk) -> Result<Option<Snapshot>, Refusal> {
        let mut incoming = self.incoming();
        if chunk.offset == 0 {
            *incoming = Some(IncomingSnapshot {
                from: from.clone(),
                vote: chunk.vote.clone(),
                meta: chunk.meta.clone(),
                bytes: BytesMut::new(),
            });
        }
        let continues = |held: &&mut IncomingSnapshot| {
            held.from == from
                && held.vote == chunk.vote
                && held.meta == chunk.meta
                && held.bytes.len() as u64 == chunk.offset
        };
        let Some(held) = incoming.as_mut().filter(continues) else {
            return Err(Refusal::OutOfOrder);
        };
        held.bytes.extend_from_slice(&chunk.bytes);
        if !is_last(&chunk) {
            self.note_heard(Term(chunk.vote.leader_id.term));
            return Ok(None);
        }
        let whole = incoming.take();
        Ok(whole.map(|held| Snapshot {
            meta: held.meta,
            snapshot: Bytes::from(held.bytes),
        }))
    }
}

fn is_last(chunk: &SnapshotChunk) -> bool {
    chunk.offset + chunk.bytes.len() as u64 == chunk.total
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
