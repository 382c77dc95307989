//! `funk demo`: a cluster in one process, under load, while its nodes die.

mod counter;
mod faults;
mod fleet;
mod load;
mod measure;
mod options;
mod probe;
mod progress;
mod report;
mod table;

use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use faults::{FaultError, Faults};
use fleet::{Fleet, FleetError};
use load::{Load, Requests};
pub(crate) use measure::histogram::Histogram;
use measure::ledger::Ledger;
pub(crate) use measure::machine::Ticker;
pub(crate) use measure::milliseconds;
use measure::now;
use measure::windows::Windows;
pub(crate) use options::{DemoArgs, OptionError, Options, Preset};
use probe::Probes;
use progress::Progress;
use report::{Evidence, FaultReport, Latencies, Report, RequestCounts};

/// Why the demo could not run at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("the nodes did not form a cluster: {0}; look at their logs with FUNK_LOG=info")]
    Formation(FaultError),
}

/// What came out.
pub(crate) struct Outcome {
    /// For people.
    pub(crate) table: String,
    /// For programs.
    pub(crate) json: String,
    /// What was not as it must be; empty: the run was good.
    pub(crate) wrong: Vec<String>,
}

/// Runs the demo from beginning to end. Nothing of it runs any more when it returns.
pub(crate) async fn run(options: &Options) -> Result<Outcome, DemoError> {
    let ticker = Ticker::start();
    let ledger = Arc::new(Ledger::new(options.shards));
    let mut progress = Progress::start();
    progress.say("starting all nodes at the same moment");
    let mut fleet = Fleet::start(options, ledger.clone()).await?;
    let outcome = with_fleet(options, &mut fleet, &ledger, &ticker, &mut progress).await;
    progress.say("stopping");
    fleet.stop().await;
    outcome
}

async fn with_fleet(
    options: &Options,
    fleet: &mut Fleet,
    ledger: &Ledger,
    ticker: &Ticker,
    progress: &mut Progress,
) -> Result<Outcome, DemoError> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let windows = Arc::new(Windows::default());
    let requests = Arc::new(Requests::new(options, fleet.callers(), windows.clone()));
    let probes = Probes {
        callers: fleet.callers(),
        requests: requests.clone(),
        deadline: options.preset.deadline(),
    };
    let mut faults = Faults {
        fleet,
        probes,
        preset: options.preset,
        progress,
        seed: rng.random(),
    };
    faults.progress.say("forming a cluster");
    faults.ready().await.map_err(DemoError::Formation)?;

    faults.progress.follow(requests.clone());
    let begin = now();
    let load = Load::start(requests.clone(), options.rate, rng.random());
    let span = Duration::from_secs(options.seconds);
    let (over, broken) = faults.run(begin, span).await;
    faults.progress.say("undisturbed");
    tokio::time::sleep((begin + span).since(now())).await;
    faults.progress.say("waiting for the last answers");
    load.finish().await;
    faults.progress.say("reading all counters");
    let unreadable = requests.settle().await;

    let results = requests.results();
    let report_of = |fault: &faults::Fault| {
        let stalls = windows.stalls(fault.window, &fault.moved);
        let machine = ticker.longest_within(fault.at, fault.recovered);
        FaultReport::new(
            fault,
            stalls,
            milliseconds(fault.at.since(begin)),
            milliseconds(machine),
        )
    };
    let report = Report {
        nodes: options.nodes,
        shards: options.shards,
        requests: RequestCounts {
            ok: results.ok,
            failed: results.failed,
            ambiguous: results.ambiguous,
            wrong_owner: ledger.wrong_owner(),
        },
        double_owner_ms: milliseconds(ledger.double_owner()),
        lost_increments: requests.counts.lost(),
        duplicated_increments: requests.counts.duplicated(),
        machine_stall_ms: milliseconds(ticker.longest()),
        latency_us: Latencies {
            get: (&results.get).into(),
            increment: (&results.increment).into(),
        },
        faults: over.iter().map(report_of).collect(),
    };
    let evidence = Evidence {
        options,
        results: &results,
        broken: broken.as_ref(),
        unreadable,
        findings: &ledger.findings(),
    };
    Ok(Outcome {
        wrong: report::verdict(&report, &evidence),
        table: table::table(&report, options, &results, ledger.guards()),
        json: serde_json::to_string(&report).expect("numbers and text always encode"),
    })
}
