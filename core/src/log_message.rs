//! What the log holds.
