//! Latencies in little memory: buckets that are never wider than 1/64 of what they hold (the idea of HdrHistogram).

/// Each power of two is cut into so many buckets.
const STEPS: u64 = 64;
const STEPS_BITS: u32 = STEPS.trailing_zeros();
/// 2^32 us is more than an hour: what takes longer counts as that.
const POWERS: u32 = 32;

/// Counts of whole microseconds.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = bucket(u64::MAX) + 1;
        Self {
            counts: vec![0; buckets].into(),
            total: 0,
            max: 0,
        }
    }
}

fn bucket(us: u64) -> usize {
    let us = us.min((1 << POWERS) - 1);
    let power = us.max(1).ilog2();
    if power < STEPS_BITS {
        return us as usize;
    }
    let shift = power - STEPS_BITS;
    ((u64::from(shift) * STEPS) + (us >> shift)) as usize
}

/// The largest value that falls into a bucket.
fn upper_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let step = bucket - shift * STEPS;
    ((step + 1) << shift) - 1
}

impl Histogram {
    pub(crate) fn record(&mut self, us: u64) {
        self.counts[bucket(us)] += 1;
        self.total += 1;
        self.max = self.max.max(us);
    }

    /// A value that the given part of all values (0 to 1) does not exceed, at most 1/64 too high; 0 without values.
    pub(crate) fn quantile(&self, part: f64) -> u64 {
        let rank = ((self.total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end(at).min(self.max);
            }
        }
        self.max
    }

    /// The largest value, exactly.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut last = 0;
        for us in 0..100_000 {
            let at = bucket(us);
            assert!(at == last || at == last + 1, "{us}");
            assert!(us <= upper_end(at), "{us}");
            assert!(at == 0 || us > upper_end(at - 1), "{us}");
            last = at;
        }
    }

    #[test]
    fn quantiles_are_right_within_a_sixty_fourth() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|us| histogram.record(us));
        for (part, exact) in [(0.5, 5_000), (0.99, 9_900), (0.001, 10)] {
            let found = histogram.quantile(part);
            assert!(
                found >= exact && found <= exact + exact / 64 + 1,
                "{part}: {found}"
            );
        }
        assert_eq!((histogram.quantile(1.0), histogram.max()), (10_000, 10_000));
    }

    #[test]
    fn extremes_are_held() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        histogram.record(u64::MAX);
        assert_eq!(histogram.max(), u64::MAX);
        histogram.record(0);
        assert_eq!(histogram.quantile(0.5), 0);
    }
}
