//! Every bound of the library, by name and with its reason.

use std::time::Duration;

/// Longest node or cluster name: a DNS label, because the name stands in certificates.
pub const MAX_NAME_BYTES: usize = 63;
/// Largest gossip datagram: QUIC guarantees little more than a kilobyte on any path.
pub const MAX_GOSSIP_BYTES: usize = 1_100;
/// Largest datagram of any kind that the library sends.
pub const MAX_DATAGRAM_BYTES: usize = 1_150;
/// Most shards in a cluster (20 bits): a map of this size still fits one raft entry.
pub const MAX_SHARDS: u32 = 1 << 20;
/// Most members that a map can name (worker ids are 16 bits, 0 is none).
pub const MAX_WORKERS: usize = u16::MAX as usize;
/// Largest capacity of a node, relative to the others': in so few steps any ratio that matters can be said.
pub const MAX_CAPACITY: u32 = 1 << 16;
/// Largest weight of a shard, relative to the others': so that weights for [`MAX_SHARDS`] still fit one raft entry.
pub const MAX_WEIGHT: u32 = 1 << 20;
/// Tags a node.
pub const MAX_TAGS: usize = 64;
/// Bytes in the name of a tag.
pub const MAX_TAG_NAME_BYTES: usize = 128;
/// Bytes in the value of a tag.
pub const MAX_TAG_VALUE_BYTES: usize = 1 << 10;
/// Bytes in all names and values of a node's tags.
pub const MAX_TAGS_BYTES: usize = 8 << 10;
/// Bytes in the body of a request or of a response.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;
/// Bytes in an application's log entry.
pub const MAX_APP_ENTRY_BYTES: usize = 1 << 20;
/// Bytes in an encoded log message: the largest application entry, or a map of [`MAX_SHARDS`], with its header.
pub const MAX_LOG_MESSAGE_BYTES: usize = 8 << 20;
/// Bytes in one frame on a stream, header excluded.
pub const MAX_FRAME_BYTES: usize = MAX_REQUEST_BYTES + (64 << 10);
/// How long an opened stream may take to say what it is for, and how long one request may take to arrive or one
/// response to leave: a peer that stalls holds a task and a stream for no longer. Generous, for 8 MiB on a slow path.
pub const STREAM_DEADLINE: Duration = Duration::from_secs(10);
/// Events kept for one subscriber; past it the oldest are dropped and counted.
pub const EVENT_BUFFER: usize = 1_024;
/// Proposals in flight from one node; past it `propose` answers `Overloaded`.
pub const MAX_PROPOSALS_IN_FLIGHT: usize = 4_096;
/// Calls of one node that wait for a shard in hand-off or for a leader; past it `call` answers `Overloaded`.
pub const MAX_WAITING_CALLS: usize = 16_384;
/// Datagrams that wait for the driver; past it they are dropped and counted, which the protocol survives.
pub const DATAGRAM_QUEUE: usize = 4_096;
