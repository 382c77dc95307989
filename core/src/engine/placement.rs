//! The next map from the last one and the nodes there are.
