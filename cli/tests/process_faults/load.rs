//! A load of calls on a cluster, and the history that is left of it.

use std::path::PathBuf;

use funk_history::calls::Call;
use funk_history::report::{BUDGET, Report};
use rustix::process::Signal;

use crate::arguments;
use crate::fleet::Fleet;
use crate::place::Place;
use crate::process::{PATIENCE, Process};
use crate::records::{Recording, is_answer, parse};

/// A call that has no answer after this has failed, unless the load says otherwise.
const DEADLINE_SECONDS: u32 = 10;

/// What a load asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Its counters are this name with a number.
    pub(crate) name: &'static str,
    /// How many counters.
    pub(crate) keys: u32,
    /// Calls a second.
    pub(crate) rate: u32,
    /// Calls in flight at most.
    pub(crate) concurrency: u32,
    /// A call that has no answer after this has failed.
    pub(crate) deadline_seconds: u32,
    /// A load that nobody stops ends after this.
    pub(crate) longest_seconds: u32,
    /// Whether increments have ids, by which they are applied once and may be sent again.
    pub(crate) idempotent: bool,
}

impl Shape {
    /// Enough that every fault meets some calls, few enough for a busy machine.
    pub(crate) const USUAL: Self = Self {
        name: "counter",
        keys: 8,
        rate: 100,
        concurrency: 8,
        deadline_seconds: DEADLINE_SECONDS,
        longest_seconds: 300,
        idempotent: true,
    };
}

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
        Self::shaped(addresses, place, tls, Shape::USUAL)
    }

    /// Gets and increments as `shape` says.
    pub(crate) fn shaped(
        addresses: &str,
        place: &Place,
        tls: Option<&PathBuf>,
        shape: Shape,
    ) -> Self {
        let mut arguments = arguments![
            "call",
            "--connect",
            addresses,
            "--seconds",
            shape.longest_seconds,
            "--rate",
            shape.rate,
            "--concurrency",
            shape.concurrency,
            "--keys",
            shape.keys,
            "--deadline",
            shape.deadline_seconds,
            "--get",
            "--increment",
            "--json",
            shape.name,
        ];
        if shape.idempotent {
            arguments.extend(arguments!["--idempotent"]);
        }
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
        self.stop_recording().calls
    }

    /// The same, with the summary and the shards.
    pub(crate) fn stop_recording(self) -> Recording {
        self.process.signal(Signal::TERM);
        self.finish()
    }

    /// Answers so far.
    pub(crate) fn answers(&self) -> usize {
        let lines = self.process.stdout.lines();
        lines.iter().filter(|line| is_answer(line)).count()
    }

    fn finish(mut self) -> Recording {
        self.process.wait();
        let stdout = &self.process.stdout;
        match parse(&stdout.lines(), stdout.file()) {
            Ok(recording) => recording,
            Err(error) => panic!("{error}\n{}", self.process.describe()),
        }
    }
}

/// Reads every counter of a load once; with `replica` as the owner of that shard has it, which may lag behind.
pub(crate) fn read_all(
    place: &Place,
    fleet: &Fleet<'_>,
    shape: Shape,
    replica: Option<u32>,
) -> Recording {
    let mut arguments = arguments![
        "call",
        "--connect",
        fleet.addresses(),
        "--get",
        "--keys",
        shape.keys,
        "--in-turn",
        "--count",
        shape.keys,
        "--deadline",
        DEADLINE_SECONDS,
        "--json",
        shape.name,
    ];
    if let Some(shard) = replica {
        arguments.extend(arguments!["--replica", shard]);
    }
    let process = Process::start(place, "read", &arguments);
    Load { process, seen: 0 }.finish()
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
        calls.extend(Load { process, seen: 0 }.finish().calls);
    }
    Report::new(&calls, BUDGET)
}
