//! A load of calls on a cluster, and the history that is left of it.

use std::path::PathBuf;

use funk_history::calls::Call;
use funk_history::report::{BUDGET, Report};
use rustix::process::Signal;

use crate::arguments;
use crate::fleet::Fleet;
use crate::place::Place;
use crate::process::{PATIENCE, Process};
use crate::records::{is_answer, parse};

/// Counters that a load uses.
const KEYS: u32 = 8;
/// Calls a second: enough that every fault meets some, few enough for a busy machine.
const RATE: u32 = 100;
const CONCURRENCY: u32 = 8;
/// A call that has no answer after this has failed.
const DEADLINE_SECONDS: u32 = 10;
/// A load that nobody stops ends after this.
const LONGEST_SECONDS: u32 = 300;

/// A running `funk call`.
pub(crate) struct Load {
    process: Process,
    seen: usize,
}

impl Load {
    /// Idempotent increments and gets through all nodes, until it is stopped.
    pub(crate) fn start(place: &Place, fleet: &Fleet<'_>, tls: Option<&PathBuf>) -> Self {
        Self::through(&fleet.addresses(), place, tls)
    }

    /// The same through the nodes at these addresses only.
    pub(crate) fn through(addresses: &str, place: &Place, tls: Option<&PathBuf>) -> Self {
        let mut arguments = arguments![
            "call",
            "--connect",
            addresses,
            "--seconds",
            LONGEST_SECONDS,
            "--rate",
            RATE,
            "--concurrency",
            CONCURRENCY,
            "--keys",
            KEYS,
            "--deadline",
            DEADLINE_SECONDS,
            "--get",
            "--increment",
            "--idempotent",
            "--json",
            "counter",
        ];
        if let Some(tls) = tls {
            arguments.extend(arguments!["--tls", tls.display()]);
        }
        Self {
            process: Process::start(place, "load", &arguments),
            seen: 0,
        }
    }

    /// Waits for so many answers after those that were there at the last call of this.
    pub(crate) fn wait_answers(&mut self, answers: usize, what: &str) {
        let mut left = answers;
        let found = self.process.stdout.wait(self.seen, PATIENCE, |line| {
            left -= usize::from(is_answer(line));
            (left == 0).then_some(())
        });
        assert!(
            found.is_some(),
            "{left} of {answers} answers were missing {what}\n{}",
            self.process.describe()
        );
        self.seen = self.process.stdout.count();
    }

    /// Begins no more calls, and waits for those that are under way; answers with all of them.
    pub(crate) fn stop(self) -> Vec<Call> {
        self.process.signal(Signal::TERM);
        self.finish()
    }

    fn finish(mut self) -> Vec<Call> {
        self.process.wait();
        let stdout = &self.process.stdout;
        match parse(&stdout.lines(), stdout.file()) {
            Ok(recording) => recording.calls,
            Err(error) => panic!("{error}\n{}", self.process.describe()),
        }
    }
}

/// Reads every counter of a history once more, and judges all of it.
pub(crate) fn judge(
    place: &Place,
    fleet: &Fleet<'_>,
    tls: Option<&PathBuf>,
    mut calls: Vec<Call>,
) -> Report {
    let keys: std::collections::BTreeSet<_> = calls.iter().map(|call| call.key.clone()).collect();
    for key in keys {
        let mut arguments = arguments![
            "call",
            "--connect",
            fleet.addresses(),
            "--get",
            key,
            "--deadline",
            DEADLINE_SECONDS,
            "--json"
        ];
        if let Some(tls) = tls {
            arguments.extend(arguments!["--tls", tls.display()]);
        }
        let process = Process::start(place, "get", &arguments);
        calls.extend(Load { process, seen: 0 }.finish());
    }
    Report::new(&calls, BUDGET)
}
