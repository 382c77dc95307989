//! Clusters of real processes, and the faults that only processes have.
//!
//! Everything is judged by what the programs printed: nodes their events, `funk status` what they say of themselves,
//! `funk call` one line for each call. What was printed is kept if a test fails, which then says where. Nothing
//! sleeps but the pauses that are themselves the fault.
#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests beside the nodes, not inside one"
)]

mod certificates;
mod faults;
mod fleet;
mod formation;
mod garbage;
mod kill_loop;
mod load;
mod names;
mod place;
mod process;
mod records;
mod replicas;
mod rolling;
mod settings;
mod transcript;
