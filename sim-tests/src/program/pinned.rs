//! `sim run --pinned`: the seeds that are run every time.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use funk_sim_tests::pinned::{Held, PINNED, Pin};
use serde_json::json;

use super::{keep_panics_of_nodes_quiet, me, progress, run_nodes_on_this_thread};
use crate::Done;

/// What came of each.
type Ran = Vec<(Pin, Result<Held, String>)>;

pub(super) fn run(jobs: NonZeroUsize, is_json: bool) -> Done {
    keep_panics_of_nodes_quiet();
    let ran = run_all(jobs);
    let failed = ran.iter().filter(|(_, result)| result.is_err()).count();
    if is_json {
        print_json(&ran);
    } else {
        print_text(&ran, failed);
    }
    Ok(failed == 0)
}

/// All of them, in their order.
fn run_all(jobs: NonZeroUsize) -> Ran {
    let next = AtomicUsize::new(0);
    let ran = Mutex::new(BTreeMap::new());
    let bar = progress(
        Some(PINNED.len() as u64),
        "{bar:30} {pos}/{len} pinned seeds, {eta} left",
    );
    let work = || {
        run_nodes_on_this_thread();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(pin) = PINNED.get(at) else { return };
            let result = pin.run();
            let mut ran = ran.lock().unwrap_or_else(PoisonError::into_inner);
            ran.insert(at, (*pin, result));
            bar.inc(1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.get() {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    let ran = ran.into_inner().unwrap_or_else(PoisonError::into_inner);
    ran.into_values().collect()
}

fn print_text(ran: &Ran, failed: usize) {
    for (pin, result) in ran {
        match result {
            Ok(Held { reaches: true, .. }) => println!("{pin} held: {}", pin.why),
            Ok(_) => println!(
                "{pin} held, but did NOT REACH what it is pinned for, \"{}\": pin another",
                pin.reaches
            ),
            Err(what) => {
                println!("{pin} FAILED {what}\n    {} {}", me(), pin.replay());
                println!("    pinned because: {}", pin.why);
            }
        }
    }
    println!("{} pinned seeds held, {failed} failed", ran.len() - failed);
}

fn print_json(ran: &Ran) {
    let list: Vec<_> = ran
        .iter()
        .map(|(pin, result)| {
            json!({
                "pin": pin.to_string(),
                "seed": pin.seed,
                "why": pin.why,
                "should_reach": pin.reaches,
                "reaches": result.as_ref().ok().map(|held| held.reaches),
                "failure": result.as_ref().err(),
                "replay": format!("{} {}", me(), pin.replay()),
            })
        })
        .collect();
    println!("{:#}", json!({ "pinned": list }));
}
