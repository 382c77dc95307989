//! Messages of the replicated log.

use funk::log_message::LogMessage;

use crate::allocation::Bound;

/// The content is copied once, a name twice (a string, then a shared one).
const MESSAGE: Bound = Bound::linear(1 << 10, 4);

/// A log message, as every member of the raft group may have written it.
pub fn message(bytes: &[u8]) {
    let Ok(message) = MESSAGE.hold(bytes.len(), || {
        LogMessage::decode(bytes, funk::versions::VersionRange::SPOKEN)
    }) else {
        return;
    };
    assert_eq!(
        LogMessage::decode(&message.encode(), funk::versions::VersionRange::SPOKEN),
        Ok(message)
    );
}
