//! A node's clock: an offset, and a rate that errs by up to the bound that the nodes are told.

use funk::time::Time;

const MILLION: u128 = 1_000_000;

/// True time, in nanoseconds since the run began.
pub(super) type TrueTime = u64;

/// Reads `offset + true * (1 + ppm / 1e6)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// What it shows at true time 0.
    pub(super) offset: u64,
    /// Error of its rate, in parts per million.
    pub(super) ppm: i32,
}

impl Clock {
    fn rate(&self) -> u128 {
        (MILLION as i128 + i128::from(self.ppm)) as u128
    }

    /// What it shows at this true time.
    pub(super) fn read(&self, at: TrueTime) -> Time {
        Time(self.offset + (u128::from(at) * self.rate() / MILLION) as u64)
    }

    /// The first true time at which it shows `time` or later; 0 if it did from the start.
    pub(super) fn when(&self, time: Time) -> TrueTime {
        let shown = u128::from(time.0.saturating_sub(self.offset));
        u64::try_from((shown * MILLION).div_ceil(self.rate())).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_first_moment_that_reads_so() {
        for ppm in [-10_000, -3, 0, 7, 10_000] {
            let clock = Clock { offset: 5_000, ppm };
            for time in [5_001, 123_456_789, 60_000_000_000].map(Time) {
                let at = clock.when(time);
                assert!(
                    clock.read(at) >= time && clock.read(at - 1) < time,
                    "{ppm} {time:?}"
                );
            }
        }
    }
}
