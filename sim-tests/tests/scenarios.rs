//! Every scenario, played with one seed over the simulator's TCP; the most important ones over QUIC as well.
//! `sim` plays them with other seeds.

use funk_sim_tests::scenarios::{self, Scenario};
use funk_sim_tests::stack::plan::Transport;

/// Played over QUIC as well.
const OVER_QUIC: &[&str] = &[
    "partition-symmetric",
    "all-nodes-restart",
    "paused-leader",
    "clock-skew-at-the-bound",
    "start-of-five",
    "minority-restart",
];

fn play(scenario: &Scenario, transport: Transport) -> Result<(), String> {
    match scenario.run(1, transport) {
        Ok(_) => Ok(()),
        Err(failure) => Err(format!("{} over {transport:?}: {failure}", scenario.name)),
    }
}

/// Plays this half of them; all failures are told.
fn play_all(scenarios: impl Iterator<Item = &'static Scenario>, transport: Transport) {
    let failed: Vec<String> = scenarios
        .filter_map(|scenario| play(scenario, transport).err())
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_other_scenario_holds() {
    play_all(scenarios::ALL.iter().step_by(2), Transport::Tcp);
}

#[test]
fn and_so_do_the_others() {
    play_all(scenarios::ALL.iter().skip(1).step_by(2), Transport::Tcp);
}

#[test]
fn some_hold_over_quic() {
    let named = OVER_QUIC.iter().filter_map(|name| scenarios::find(name));
    let named: Vec<_> = named.collect();
    assert_eq!(named.len(), OVER_QUIC.len(), "a scenario was renamed");
    play_all(named.into_iter(), Transport::Quic);
}
