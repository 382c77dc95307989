//! Versions of the protocol: which ones this program speaks, and how two nodes settle on one.
//!
//! One number stands for everything that nodes say to each other and write into the log: datagrams, streams, raft's
//! messages, entries and snapshots. A node speaks all versions of a range. Two nodes speak the highest that both know;
//! if there is none, they refuse each other, and the error names both ranges. The first lines of an introduction, by
//! which transports find that out, are the same in all versions.
//!
//! What a node *writes into the log* all others must be able to apply. So the cluster has a version too: it begins
//! with [`FIRST`], and a leader raises it, by an entry of the log, once every raft member and every owner of shards
//! speaks the higher one. Until then it proposes nothing of that version. A node that meets an entry (or a snapshot)
//! of a version that it does not know stops before it applies it. See "Versions and upgrades" in `ARCHITECTURE.md`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The first version that there was: that of a new cluster, and of a node that has not said which ones it speaks.
pub const FIRST: u8 = 1;
/// The oldest version that this program speaks. Raised when a version is given up.
pub const OLDEST: u8 = 1;
/// The newest version that this program speaks. Raised with every change that older programs would not understand.
pub const NEWEST: u8 = 1;

/// The versions that a node speaks: `oldest` to `newest`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest one.
    pub oldest: u8,
    /// The newest one; not smaller than `oldest`.
    pub newest: u8,
}

impl VersionRange {
    /// What this program speaks.
    pub const SPOKEN: Self = Self {
        oldest: OLDEST,
        newest: NEWEST,
    };

    /// Whether the version is one of them.
    pub fn contains(self, version: u8) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// The version in which a node that speaks these talks to one that speaks `theirs`: the highest that both know.
    pub fn common(self, theirs: Self) -> Result<u8, NoCommonVersion> {
        let newest = self.newest.min(theirs.newest);
        if newest >= self.oldest && newest >= theirs.oldest {
            Ok(newest)
        } else {
            Err(NoCommonVersion { ours: self, theirs })
        }
    }
}

impl Default for VersionRange {
    fn default() -> Self {
        Self::SPOKEN
    }
}

/// As people write it: `3`, or `1 to 3`.
impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "{}", self.oldest)
        } else {
            write!(f, "{} to {}", self.oldest, self.newest)
        }
    }
}

/// Two nodes have no version in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "no version of the protocol in common: this node speaks {ours}, the other one {theirs}; upgrade the {} one, by way \
     of a release that speaks versions of both",
    if self.ours.newest < self.theirs.newest { "former" } else { "latter" }
)]
pub struct NoCommonVersion {
    /// What the node speaks that reports the error.
    pub ours: VersionRange,
    /// What its peer speaks.
    pub theirs: VersionRange,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(oldest: u8, newest: u8) -> VersionRange {
        VersionRange { oldest, newest }
    }

    #[test]
    fn two_nodes_speak_the_highest_version_that_both_know() {
        for (ours, theirs, common) in [
            (range(1, 1), range(1, 2), Some(1)),
            (range(1, 2), range(1, 2), Some(2)),
            (range(2, 4), range(3, 9), Some(4)),
            (range(1, 1), range(2, 3), None),
            // What somebody sends who speaks nothing at all.
            (range(1, 2), range(2, 1), None),
        ] {
            assert_eq!(ours.common(theirs).ok(), common, "{ours}, {theirs}");
            assert_eq!(theirs.common(ours).ok(), common, "{theirs}, {ours}");
        }
    }

    #[test]
    fn the_error_names_both_ranges_and_who_is_to_be_upgraded() {
        let error = range(1, 2).common(range(3, 3)).unwrap_err().to_string();
        for part in ["speaks 1 to 2", "the other one 3;", "upgrade the former"] {
            assert!(error.contains(part), "{error}");
        }
        let error = range(3, 3).common(range(1, 2)).unwrap_err().to_string();
        assert!(error.contains("upgrade the latter"), "{error}");
    }
}
