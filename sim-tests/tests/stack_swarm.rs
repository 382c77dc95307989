//! The swarm of the whole stack: some seeds hold, over both transports, and a seed is the same run wherever it runs.
//! `sim run` runs any number of them.

use funk_sim_tests::stack::plan::Transport;
use funk_sim_tests::stack::{self, Plan};

fn run(seed: u64, transport: Transport) -> Result<u64, String> {
    let plan = Plan {
        transport,
        ..Plan::swarm(seed)
    };
    match stack::run(&plan) {
        Ok(outcome) => Ok(outcome.fingerprint),
        Err(failure) => Err(format!("seed {seed} over {transport:?} {failure}")),
    }
}

#[test]
fn seeds_hold_and_repeat() {
    for seed in 0..6 {
        let here = run(seed, Transport::Tcp).unwrap();
        // Threads are no part of any run.
        #[allow(clippy::disallowed_methods)]
        let there = std::thread::spawn(move || run(seed, Transport::Tcp));
        assert_eq!(
            there.join().unwrap(),
            Ok(here),
            "seed {seed} is another run"
        );
    }
}

#[test]
fn seeds_hold_over_quic() {
    for seed in 0..2 {
        run(seed, Transport::Quic).unwrap();
    }
}
