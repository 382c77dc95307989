//! State that the log replicates.
