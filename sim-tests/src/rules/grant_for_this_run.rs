//! Rule L1: a grant that was meant for an earlier run of the node is none. The run that asked for it is dead, and the leader
//! that waits for the lease of this run knows nothing of it.

use super::*;

pub(super) fn play() -> Verdict {
    let mut engines = Engines::new();
    engines.start(1, 2, 0, &[2]);
    let initialised = Input::Initialised {
        cluster: CLUSTER,
        only_own: false,
    };
    engines.input(1, initialised, &nothing);
    let granted = |engines: &mut Engines, boot| {
        let message = ping(1, boot, engines.now);
        let from = peer(2);
        engines.input(1, Input::Message { from, message }, &nothing);
        engines.has_lease(1)
    };
    if granted(&mut engines, 1) {
        return violation("L1", "n1/2 takes a lease that was granted to n1/1");
    }
    if !granted(&mut engines, 2) {
        return violation("L1", "n1/2 does not take its own lease");
    }
    Ok(())
}
