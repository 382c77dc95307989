//! I1: no two nodes would hand out a guard for the same shard, and nobody serves a shard while another node has a
//! live guard in flight on it.

use funk::ids::{Epoch, ShardId};

use super::{Serving, Verdict, Violation, token};

/// Checks these shards over all nodes, at one moment of true time.
pub fn check<'a>(
    nodes: impl Iterator<Item = Serving<'a>> + Clone,
    shards: impl Iterator<Item = ShardId>,
) -> Verdict {
    for shard in shards {
        let mut holder: Option<Serving<'a>> = None;
        for node in nodes.clone().filter(|node| holds(node, shard)) {
            if let Some(other) = holder {
                return Err(Violation::new(
                    "I1",
                    format!(
                        "shard {shard}: {} and {} at once",
                        describe(&other, shard),
                        describe(&node, shard)
                    ),
                ));
            }
            holder = Some(node);
        }
    }
    Ok(())
}

fn holds(node: &Serving<'_>, shard: ShardId) -> bool {
    node.leased && (token(node.open, shard) != Epoch(0) || guards(node, shard) > 0)
}

fn guards(node: &Serving<'_>, shard: ShardId) -> u32 {
    node.guards
        .get(shard.0 as usize)
        .copied()
        .unwrap_or_default()
}

fn describe(node: &Serving<'_>, shard: ShardId) -> String {
    let (open, guards) = (token(node.open, shard), guards(node, shard));
    match open {
        Epoch(0) => format!("{} with {guards} guards in flight", node.instance),
        epoch => format!("{} (epoch {epoch}, {guards} guards)", node.instance),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funk::ids::{BootId, Instance, NodeId};

    #[test]
    fn two_servers_or_a_server_and_a_guard_are_seen_and_a_lapsed_lease_is_not_served() {
        let instance = |name| Instance {
            node: NodeId::new(name).unwrap(),
            boot: BootId(1),
        };
        let (a, b) = (instance("a"), instance("b"));
        let open = [Epoch(1), Epoch(0)];
        let shut = [Epoch(0), Epoch(0)];
        let serving = |instance, leased, open, guards| Serving {
            instance,
            leased,
            open,
            guards,
        };
        let check = |first, second| check([first, second].into_iter(), (0..2).map(ShardId)).is_ok();
        let first = serving(&a, true, &open[..], &[0, 0][..]);
        assert!(!check(first, serving(&b, true, &open, &[0, 0])));
        assert!(!check(first, serving(&b, true, &shut, &[1, 0])));
        assert!(check(first, serving(&b, true, &shut, &[0, 1])));
        assert!(check(first, serving(&b, false, &open, &[1, 1])));
    }
}
