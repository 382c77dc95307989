//! Seeds that once failed: run first, each with what it found.
//!
//! A seed means a schedule only while [`Profile`](crate::engine_world::profile::Profile) and world stay as they
//! are; the rule it broke has a unit test as well.

/// Seed, and what it found when it was pinned.
pub const PINNED: &[(u64, &str)] = &[
    (
        1,
        "a leader that heard no quorum asked for a tick at once, again and again",
    ),
    (
        36,
        "a refused configuration change was asked for again at once, without end",
    ),
    (
        16,
        "a joint configuration outlived the leader that began it, and nobody ended it (M1)",
    ),
    (53, "the same"),
    (
        94,
        "a lost store was counted as a live voter because its name answered (M0, M2)",
    ),
    (
        138,
        "the same, while gossip did not know of the new run yet",
    ),
    (
        12,
        "the model raft did not replicate while leadership was handed on",
    ),
    (1620, "the check of I2 met a map by snapshot first"),
    (
        631,
        "the check of I5 did not know of pins whose leader had died",
    ),
];
