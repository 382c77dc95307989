//! Counts what a decoder allocates and holds it to a bound.

/// What may be allocated for an input of so many bytes, everything counted that was
/// freed again on the way; what grows counts anew at every step.
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

    /// Runs a decoder on `len` bytes.
    ///
    /// # Panics
    ///
    /// If it allocates more than the bound.
    pub fn hold<T>(self, len: usize, decode: impl FnOnce() -> T) -> T {
        let mut decoded = None;
        let counted = allocation_counter::measure(|| decoded = Some(decode()));
        let allowed = self.of(len);
        assert!(
            counted.bytes_total <= allowed as u64,
            "{len} bytes made the decoder allocate {} bytes; {allowed} are allowed",
            counted.bytes_total
        );
        decoded.expect("it ran")
    }
}
