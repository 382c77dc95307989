//! The commands of the program, one file each.

use std::time::Duration;

use clap::ValueEnum;
use funk_sim_tests::stack::plan;
use indicatif::{ProgressBar, ProgressStyle};

pub(crate) mod determinism;
pub(crate) mod engine;
pub(crate) mod mutants;
mod pinned;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod shrink;
pub(crate) mod speed;

/// What the nodes talk over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Transport {
    /// The simulator's own, over its TCP and UDP.
    Tcp,
    /// QUIC as it ships, over simulated UDP.
    Quic,
}

impl From<Transport> for plan::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Quic => Self::Quic,
        }
    }
}

impl Transport {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }
}

/// How far a command is, drawn on a terminal only; `None`: nobody knows how much there is to do.
pub(crate) fn progress(of: Option<u64>, template: &str) -> ProgressBar {
    let bar = of.map_or_else(ProgressBar::no_length, ProgressBar::new);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// This program, as it was called: for commands that are to be typed again.
pub(crate) fn me() -> String {
    std::env::args().next().unwrap_or_else(|| "sim".to_owned())
}

/// The command that replays a seed.
pub(crate) fn replay_command(seed: u64, transport: Transport, mutant: Option<&str>) -> String {
    let mut command = format!("{} replay {seed}", me());
    if transport != Transport::Tcp {
        command += &format!(" --transport {}", transport.name());
    }
    if let Some(mutant) = mutant {
        command += &format!(" --mutant {mutant}");
    }
    command
}

/// Panics of nodes are findings, which are reported as such: nothing is printed for those on the threads of a sweep.
pub(crate) fn keep_panics_of_nodes_quiet() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !QUIET.get() {
            before(panic);
        }
    }));
}

thread_local! {
    static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// What this thread does from now on are runs of nodes.
pub(crate) fn run_nodes_on_this_thread() {
    QUIET.set(true);
}

/// The same on all threads.
pub(crate) fn run_nodes_everywhere() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// A span of time: `5s`, `800ms`, `2m`.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        unit => return Err(format!("{unit:?} is no unit of time: use ms, s or m")),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is no span of time: use 5s or 800ms"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| format!("{text:?}: {error}"))
}
