//! What the demo measures, outside the library: by a clock and a ledger of its own.

pub(crate) mod counts;
pub(crate) mod histogram;
pub(crate) mod ledger;
pub(crate) mod machine;
pub(crate) mod windows;

use std::sync::OnceLock;
use std::time::Duration;

use funk::runtime::Environment;
use funk::time::Time;

/// The one clock that everything is measured by. All nodes run in this process, and a node that is not
/// simulated keeps its leases by this very clock, so that [`funk::ShardGuard::valid_until`] can be compared with it.
pub(crate) fn now() -> Time {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(Environment::system).now()
}

/// A span in milliseconds with microseconds after the point; what is not zero is never rounded to zero.
pub(crate) fn milliseconds(span: Duration) -> f64 {
    span.as_nanos().div_ceil(1_000) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nanosecond_is_not_nothing() {
        assert_eq!(milliseconds(Duration::ZERO), 0.0);
        assert_eq!(milliseconds(Duration::from_nanos(1)), 0.001);
        assert_eq!(milliseconds(Duration::from_micros(12_345)), 12.345);
    }
}
