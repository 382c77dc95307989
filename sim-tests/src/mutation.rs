//! Deliberate faults in the engine: within how many schedules is each caught, and by which invariant?

/// Switches one on for this thread.
#[cfg(not(funk_mutants))]
pub fn switch_on(_name: &str) -> Result<(), String> {
    Err(NEEDS_CFG.to_owned())
}

/// Prints the table; `false` if one is not caught.
#[cfg(not(funk_mutants))]
pub fn run(_most: u64, _only: Option<&str>) -> bool {
    eprintln!("{NEEDS_CFG}");
    false
}

#[cfg(not(funk_mutants))]
const NEEDS_CFG: &str = "the deliberate faults are compiled in only with \
    RUSTFLAGS=\"--cfg tokio_unstable --cfg funk_mutants\" (use a target directory of its own)";

#[cfg(funk_mutants)]
pub use with_mutants::{run, switch_on};

#[cfg(funk_mutants)]
mod with_mutants {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use funk::mutants::{Mutant, set_mutant};

    use crate::engine_world::{self, Failure};

    /// Switches one on for this thread.
    pub fn switch_on(name: &str) -> Result<(), String> {
        let found = Mutant::ALL.iter().find(|(_, known)| *known == name);
        let names: Vec<_> = Mutant::ALL.iter().map(|(_, known)| *known).collect();
        let (mutant, _) =
            found.ok_or_else(|| format!("no deliberate fault {name:?}; there are {names:?}"))?;
        set_mutant(Some(*mutant));
        Ok(())
    }

    /// Prints the table; `false` if one is not caught.
    pub fn run(most: u64, only: Option<&str>) -> bool {
        // A fault that does not exist is not one that was caught.
        if let Some(Err(error)) = only.map(switch_on) {
            eprintln!("{error}");
            return false;
        }
        std::panic::set_hook(Box::new(|_| {}));
        println!(
            "{:<28} {:>10}  {:>8}  caught by",
            "fault", "schedules", "seed"
        );
        let mut all = true;
        for (mutant, name) in Mutant::ALL
            .iter()
            .filter(|(_, name)| only.is_none_or(|only| only == *name))
        {
            match first_failure(*mutant, most) {
                Some(failure) => {
                    println!(
                        "{name:<28} {:>10}  {:>8}  {}",
                        failure.seed + 1,
                        failure.seed,
                        failure.violation
                    );
                }
                None => {
                    println!("{name:<28} {:>10}  {:>8}  not caught", most, "-");
                    all = false;
                }
            }
        }
        all
    }

    // Threads are no part of any schedule.
    #[allow(clippy::disallowed_methods)]
    fn first_failure(mutant: Mutant, most: u64) -> Option<Failure> {
        let next = AtomicU64::new(0);
        let first: Mutex<Option<Failure>> = Mutex::new(None);
        let work = || {
            set_mutant(Some(mutant));
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let beaten = first
                    .lock()
                    .expect("no panic while locked")
                    .as_ref()
                    .is_some_and(|f| f.seed < seed);
                if seed >= most || beaten {
                    return;
                }
                if let Err(failure) = engine_world::run(seed, false) {
                    let mut first = first.lock().expect("no panic while locked");
                    if first.as_ref().is_none_or(|first| failure.seed < first.seed) {
                        *first = Some(*failure);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(work);
            work();
        });
        first.into_inner().expect("no panic while locked")
    }
}
