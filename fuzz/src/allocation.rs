//! Counts what a decoder allocates and holds it to a bound.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What may be allocated for an input of so many bytes, everything counted that was freed again on the way.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Bytes for any input, the empty one too.
    pub constant: usize,
    /// Bytes for each byte of the input.
    pub per_byte: usize,
    /// Bytes that no input exceeds, however long.
    pub most: usize,
}

impl Bound {
    /// A bound that grows with the input without end.
    pub const fn linear(constant: usize, per_byte: usize) -> Self {
        Self {
            constant,
            per_byte,
            most: usize::MAX,
        }
    }

    /// What is allowed for `len` bytes.
    pub fn of(self, len: usize) -> usize {
        let grown = self.per_byte.saturating_mul(len);
        self.constant.saturating_add(grown).min(self.most)
    }

    /// Runs a decoder on `len` bytes. Single-threaded, as fuzz targets are: other threads would be counted too.
    ///
    /// # Panics
    ///
    /// If it allocates more than the bound.
    pub fn hold<T>(self, len: usize, decode: impl FnOnce() -> T) -> T {
        let region = Region::new(ALLOCATOR);
        let decoded = decode();
        let allocated = region.change().bytes_allocated;
        let allowed = self.of(len);
        assert!(
            allocated <= allowed,
            "{len} bytes made the decoder allocate {allocated} bytes; {allowed} are allowed"
        );
        decoded
    }
}
