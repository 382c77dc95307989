//! What every single node has at the end, not only the owners of the counters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use funk_history::calls::{Call, Outcome};

use crate::fleet::Fleet;
use crate::load::{Shape, read_all};
use crate::place::Place;
use crate::process::PATIENCE;

/// Values by counter.
type Values = BTreeMap<String, u64>;

/// The values of these answers, and who gave all of them; `None`: not every call was answered, or not by one node.
fn reading(calls: &[Call]) -> Option<(String, Values)> {
    let mut owners = BTreeSet::new();
    let mut values = Values::new();
    for call in calls {
        let Outcome::Answered { owner, value, .. } = &call.outcome else {
            return None;
        };
        owners.insert(owner.clone());
        values.insert(call.key.clone(), *value);
    }
    match owners.len() {
        1 => Some((owners.pop_first()?, values)),
        _ => None,
    }
}

/// Waits until every node of the fleet has what the owners answered in `last`. Each is asked for a shard that it owns.
pub(crate) fn wait_for_all(
    place: &Place,
    fleet: &Fleet<'_>,
    shards: u32,
    shape: Shape,
    last: &[Call],
) {
    let answered = last.iter().filter_map(|call| match &call.outcome {
        Outcome::Answered { value, .. } => Some((call.key.clone(), *value)),
        _ => None,
    });
    let expected: Values = answered.collect();
    assert_eq!(expected.len(), shape.keys as usize, "not all were read");
    let mut missing: BTreeSet<&str> = (0..fleet.len()).map(|node| fleet.name(node)).collect();
    let mut seen: BTreeMap<String, Values> = BTreeMap::new();
    let until = Instant::now() + PATIENCE;
    for shard in (0..shards).cycle() {
        let calls = read_all(place, fleet, shape, Some(shard)).calls;
        if let Some((owner, values)) = reading(&calls) {
            if values == expected {
                missing.remove(owner.as_str());
            }
            seen.insert(owner, values);
        }
        if missing.is_empty() {
            return;
        }
        assert!(
            Instant::now() < until,
            "{missing:?} do not have everything; they have {:#?}\nof {expected:#?}\n{}",
            missing
                .iter()
                .map(|node| (node, seen.get(*node)))
                .collect::<Vec<_>>(),
            fleet.describe()
        );
    }
}
