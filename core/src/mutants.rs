//! Deliberate faults, to prove that the checks see. Compiled in under `--cfg funk_mutants` only.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A deliberate fault.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[cfg_attr(not(funk_mutants), allow(dead_code))]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        #[cfg(funk_mutants)]
        impl Mutant {
            /// All of them, with the name used on command lines.
            pub const ALL: &'static [(Mutant, &'static str)] = &[$((Mutant::$name, $text),)*];
        }
    };
}

mutants! {
    /// The acknowledgement is sent while guards are still in flight (rule S2).
    AckBeforeDrain = "ack-before-drain",
    /// A silent node is excused without waiting for its lease (rules L2, L4).
    CommitWithoutLeaseWait = "commit-without-lease-wait",
    /// Grants go on although no quorum answers (rule L3).
    GrantWithoutQuorum = "grant-without-quorum",
    /// Epochs are computed from the proposal and not from the committed map (rule P2).
    EpochsFromPending = "epochs-in-entry",
    /// Snapshots forget the pending proposal (rule P3).
    SnapshotWithoutPending = "snapshot-without-pending",
    /// A renewal revives guards issued before a lapse (rule S6).
    RenewalRevivesLapsed = "renewal-revives-lapsed",
    /// A drain counts only for the shards lost in the latest step (rule S2).
    EarlierDrainsForgotten = "earlier-drains-forgotten",
    /// What `acquire` returns is served although it was taken away meanwhile (rule S3).
    AcquiredUnchecked = "acquired-unchecked",
    /// A leader serves its shards before it has applied an entry of its term (rule P1).
    ServesBeforeReady = "serves-before-ready",
    /// A commit counts although its proposal is not the latest (rule P2).
    CommitsAnyProposal = "commits-any-proposal",
    /// A grant counts before its map is applied (rule L1).
    GrantCountsAtOnce = "grant-counts-at-once",
    /// A grant of an older term is accepted (rule L1).
    GrantOfOldTerm = "grant-of-old-term",
    /// A new leader keeps what it was granted, in full length (rule L1).
    LeaderKeepsGrants = "leader-keeps-grants",
    /// The leader trusts every clock (rule L2 without its star).
    LapseWithoutStar = "lapse-without-star",
    /// A new leader does not wait for what its predecessor granted (rule L4).
    InheritedLeasesForgotten = "inherited-leases-forgotten",
    /// A new leader waits for `L` only (rule L4).
    InheritedLeasesTooShort = "inherited-leases-too-short",
    /// Grants go on to a node that was excused, before the map without it is in force (rule L5).
    GrantsToTheExcused = "grants-to-the-excused",
    /// A candidate promises itself to a second bootstrap set while it is held by a first.
    BootstrapPromiseIgnored = "bootstrap-promise-ignored",
    /// An initiator starts although one promise is missing.
    BootstrapWithoutAllPromises = "bootstrap-without-all-promises",
    /// A vote is answered before it would survive a loss of power.
    VoteNotPersisted = "vote-not-persisted",
    /// An append is acknowledged before it would survive a loss of power.
    FlushAcknowledgedEarly = "flush-acknowledged-early",
    /// What a proposal takes away is served until it is in force (rule S1).
    ServesLostUntilCommit = "serves-lost-until-commit",
    /// What a proposal gives is served before it is in force (rule S3).
    ServesBeforeCommit = "serves-before-commit",
    /// A grant for another run of the node is accepted (rule L1).
    BootIgnoredInGrant = "boot-ignored-in-grant",
    /// A restarted node takes what its former run owned for its own (rule S5).
    OwnerWithoutBoot = "owner-without-boot",
    /// A leader grants before it has applied an entry of its term (rule P1).
    GrantsBeforeReady = "grants-before-ready",
    /// A lease is counted from the arrival of its grant, not from the stamp that it echoes (rule L1).
    LeaseFromReceipt = "lease-from-receipt",
    /// `q` is the time at which a quorum's answers came, not that at which they were asked for (rule L3).
    QuorumWhenAnswered = "quorum-when-answered",
    /// Nodes that gain shards need not acknowledge (rule P2, invariant I4).
    AckSetWithoutGainers = "ack-set-without-gainers",
    /// An acknowledgement counts for whatever is pending (rule P4).
    AnyAckCounts = "any-ack-counts",
    /// A new owner gets the old token.
    EpochNotRaised = "epoch-not-raised",
    /// Tags are never pulled.
    TagPullOff = "tag-pull-off",
    /// A node that others hold for dead does not take a new identity.
    IdentityNotRenewed = "identity-not-renewed",
    /// Every store has the same id: a node that lost its log votes as the one that had it (rule M0).
    StoreIdIgnored = "store-id-ignored",
    /// Members are removed and replaced whoever is left (rule M2).
    RemovalBelowQuorum = "removal-below-quorum",
    /// What a file layer reads is taken as it is.
    ChecksumIgnored = "checksum-ignored",
    /// The directory is not synchronised after a file was created, renamed or removed.
    DirectoryNotSynced = "directory-not-synced",
    /// A snapshot forgets the raft configuration.
    SnapshotWithoutMembership = "snapshot-without-membership",
    /// A leader raises the version of the cluster before all members speak it.
    VersionRaisedEarly = "version-raised-early",
    /// Leases go by a clock that stands still while the machine sleeps (rule L0).
    ClockStopsInSleep = "clock-stops-in-sleep",
    /// An entry of a guard is applied whoever owns the shard by then.
    StaleProposalsApplied = "stale-proposals-applied",
    /// Guards are handed out without a look at the lease (rule S4).
    LeaseUnchecked = "lease-unchecked",
}

#[cfg(not(funk_mutants))]
#[inline(always)]
pub(crate) const fn mutated(_mutant: Mutant) -> bool {
    false
}

#[cfg(funk_mutants)]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Switches one fault on (or all off) for this thread.
    pub fn set_mutant(mutant: Option<Mutant>) {
        ACTIVE.with(|active| active.set(mutant));
    }

    pub(crate) fn mutated(mutant: Mutant) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutant))
    }
}

#[cfg(funk_mutants)]
pub(crate) use switch::mutated;
#[cfg(funk_mutants)]
pub use switch::set_mutant;
