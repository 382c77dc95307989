//! Rule B1: a candidate is promised to one bootstrap set at a time. n2 and n1, who do not see each other, both want n3; n2's set
//! has its promise, of which n2 may or may not have heard.

use std::collections::BTreeSet;

use funk::engine::bootstrap::BootstrapMessage;

use super::*;

pub(super) fn play() -> Verdict {
    let mut engines = Engines::new();
    let is_promise = |message: &Message| {
        matches!(
            message,
            Message::Bootstrap(BootstrapMessage::Promise { .. })
        )
    };
    engines.start(2, 1, 2, &[3]);
    engines.start(3, 1, 2, &[2]);
    // Between n2 and n3 everything but promises arrives.
    let without_promises =
        |from, to, message: &Message| from != 1 && to != 1 && !is_promise(message);
    engines.run(Duration::from_secs(5), &without_promises);
    if promised(&engines).len() != 1 {
        return violation("B1", "n3 does not promise itself to n2's set");
    }
    // n2 falls silent, and n1 is there. Nobody can tell n3 that nothing will come of n2's set; nor does n1 hear that n3 is
    // held.
    engines.start(1, 1, 2, &[3]);
    let is_busy = |message: &Message| matches!(message, Message::Bootstrap(BootstrapMessage::Busy));
    let without_two = |from, to, message: &Message| {
        from != 2 && to != 2 && !is_promise(message) && !is_busy(message)
    };
    engines.run(Duration::from_secs(3), &without_two);
    let invited = engines.sent.iter().any(|(from, to, message)| {
        (*from, *to) == (1, 3) && matches!(message, Message::Bootstrap(BootstrapMessage::Invite(_)))
    });
    if !invited {
        return violation("B1", "n1 does not invite n3");
    }
    match promised(&engines).len() {
        1 => Ok(()),
        sets => violation("B1", &format!("n3 is promised to {sets} sets at once")),
    }
}

/// The sets that n3 has promised itself to.
fn promised(engines: &Engines) -> BTreeSet<ClusterId> {
    let promises = engines
        .sent
        .iter()
        .filter_map(|(from, _, message)| match message {
            Message::Bootstrap(BootstrapMessage::Promise { cluster }) if *from == 3 => {
                Some(*cluster)
            }
            _ => None,
        });
    promises.collect()
}
