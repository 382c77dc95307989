//! What the operator said about where shards may be: part of what the log replicates, so that it survives any leader
//! and any restart (rule M9).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// Most nodes with a cordon; past it further ones are not taken. As many as gossip knows at once.
pub const MAX_CORDONS: usize = super::membership::MAX_KNOWN;

/// What keeps shards from a node that is otherwise fit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cordon {
    /// It keeps the shards that it has and gets no new ones.
    Cordoned,
    /// It gets none, and those that it has move away.
    Drained,
}

/// The nodes with a cordon, by name: it holds for every run of them.
pub type Cordons = BTreeMap<NodeId, Cordon>;

/// Puts it up, or takes it away (`None`). Answers whether there was room.
pub(super) fn set(cordons: &mut Cordons, node: &NodeId, cordon: Option<Cordon>) -> bool {
    match cordon {
        None => {
            cordons.remove(node);
        }
        Some(_) if cordons.len() >= MAX_CORDONS && !cordons.contains_key(node) => return false,
        Some(cordon) => {
            cordons.insert(node.clone(), cordon);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_list_takes_no_more_and_still_changes() {
        let name = |n: usize| NodeId::new(&format!("n{n}")).unwrap();
        let mut cordons = Cordons::new();
        for n in 0..MAX_CORDONS {
            assert!(set(&mut cordons, &name(n), Some(Cordon::Cordoned)));
        }
        assert!(!set(
            &mut cordons,
            &name(MAX_CORDONS),
            Some(Cordon::Drained)
        ));
        assert!(set(&mut cordons, &name(0), Some(Cordon::Drained)));
        assert_eq!(cordons.get(&name(0)), Some(&Cordon::Drained));
        assert!(set(&mut cordons, &name(1), None));
        assert!(set(&mut cordons, &name(MAX_CORDONS), Some(Cordon::Drained)));
        assert_eq!(cordons.len(), MAX_CORDONS);
    }
}
