//! Which message that was received is which that was sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use funk::ids::NodeId;

use super::trace::{Entry, Mark, Trace};

/// What was not received after so long was lost.
const LOST_AFTER: Duration = Duration::from_secs(20);

/// A message on its way; entries of the trace, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Where it is sent.
    pub sent: usize,
    /// Where it is received.
    pub received: usize,
}

/// The place of a node of the plan by its name.
pub fn place(name: &NodeId) -> Option<usize> {
    let number: usize = name.as_str().strip_prefix('n')?.parse().ok()?;
    number.checked_sub(1)
}

/// Every message that arrived.
pub fn deliveries(trace: &Trace) -> Vec<Delivery> {
    // A seed address does not say who lives there; what was sent to nodes by name does.
    let mut residents = BTreeMap::new();
    for entry in &trace.entries {
        if let Mark::Sent(to, _) = &entry.mark
            && let Some(name) = &to.node
        {
            residents.insert(to.addr, place(name));
        }
    }
    let mut on_their_way: BTreeMap<(usize, usize), VecDeque<usize>> = BTreeMap::new();
    let mut deliveries = Vec::new();
    for (number, Entry { at, node, mark }) in trace.entries.iter().enumerate() {
        let Some(node) = *node else { continue };
        match mark {
            Mark::Sent(to, _) => {
                let receiver = match &to.node {
                    Some(name) => place(name),
                    None => residents.get(&to.addr).copied().flatten(),
                };
                if let Some(receiver) = receiver {
                    let queue = on_their_way.entry((node, receiver)).or_default();
                    queue.push_back(number);
                    let is_lost = |sent: &mut usize| trace.entries[*sent].at + LOST_AFTER < *at;
                    while queue.pop_front_if(is_lost).is_some() {}
                }
            }
            Mark::Received(from, message) => {
                let queue = place(from).and_then(|from| on_their_way.get_mut(&(from, node)));
                let Some(queue) = queue else { continue };
                let is_it = |sent: &usize| match &trace.entries[*sent].mark {
                    Mark::Sent(_, sent) => sent == message,
                    _ => false,
                };
                if let Some(sent) = queue.iter().position(is_it).and_then(|at| queue.remove(at)) {
                    deliveries.push(Delivery {
                        sent,
                        received: number,
                    });
                }
            }
            _ => {}
        }
    }
    deliveries
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use funk::engine::Message;
    use funk::ids::PeerAddr;

    #[test]
    fn a_message_is_matched_with_its_like_and_not_with_one_to_somebody_else() {
        let name = |number| NodeId::new(&format!("n{number}")).expect("a name");
        let gossip = |byte| Message::Gossip(Bytes::from(vec![byte]));
        let sent = |to: usize, byte| {
            let addr = ([10, 0, 0, to as u8], 7_000).into();
            let node = Some(name(to));
            Mark::Sent(PeerAddr { node, addr }, gossip(byte))
        };
        let to_seed = |to: usize, byte| {
            let addr = ([10, 0, 0, to as u8], 7_000).into();
            Mark::Sent(PeerAddr { node: None, addr }, gossip(byte))
        };
        let mut trace = Trace::default();
        let mut add = |node, mark| trace.add(Duration::ZERO, Some(node), mark);
        add(0, sent(3, 1));
        add(0, sent(2, 1));
        add(0, sent(2, 2));
        add(0, to_seed(2, 1));
        add(1, Mark::Received(name(1), gossip(2)));
        add(1, Mark::Received(name(1), gossip(1)));
        add(1, Mark::Received(name(1), gossip(1)));
        add(1, Mark::Received(name(1), gossip(9)));
        let pairs: Vec<_> = deliveries(&trace)
            .iter()
            .map(|delivery| (delivery.sent, delivery.received))
            .collect();
        assert_eq!(pairs, [(2, 4), (1, 5), (3, 6)]);
    }
}
