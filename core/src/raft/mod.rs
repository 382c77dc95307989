//! The raft group.
