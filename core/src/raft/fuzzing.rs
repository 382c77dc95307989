//! The encoding of raft messages, as fuzz targets see it.

use bytes::Bytes;

use super::rpc::{Reply, Request};

/// Reads a request of a raft member and writes it again; `None` if it is none.
pub fn reencode_request(bytes: &[u8]) -> Option<Bytes> {
    Some(Request::decode(bytes).ok()?.encode())
}

/// Reads a reply of a raft member and writes it again; `None` if it is none.
pub fn reencode_reply(bytes: &[u8]) -> Option<Bytes> {
    Some(Reply::decode(bytes).ok()?.encode())
}
