//! Judges a cluster by what its clients saw, and by nothing else.
//!
//! [`linearizability`] decides whether the operations on one object, with the times at which they began and ended,
//! can have taken effect one after the other; [`models`] are the objects that it knows. [`calls`] are the calls of
//! `funk call`, from which [`report`] makes everything that a history of counters can be judged by.
//!
//! Nothing here depends on the library, on a clock or on chance: tests on real processes and simulations use it alike.

pub mod calls;
pub mod fencing;
pub mod increments;
pub mod linearizability;
pub mod models;
pub mod report;
