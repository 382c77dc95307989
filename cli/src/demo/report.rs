//! What came out, as one JSON object, and whether it is good enough.

use serde::Serialize;

use super::faults::{Fault, FaultError, Kind};
use super::load::Results;
use super::measure::histogram::Histogram;
use super::measure::milliseconds;
use super::measure::windows::Stalls;
use super::options::Options;

/// Part of the requests that were due that must have been answered.
const ANSWERED_PART: f64 = 0.9;

/// The object that `--json` prints.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) nodes: usize,
    pub(crate) shards: u32,
    pub(crate) requests: RequestCounts,
    pub(crate) double_owner_ms: f64,
    pub(crate) lost_increments: u64,
    pub(crate) duplicated_increments: u64,
    pub(crate) machine_stall_ms: f64,
    pub(crate) latency_us: Latencies,
    pub(crate) faults: Vec<FaultReport>,
}

/// Requests by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct RequestCounts {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) ambiguous: u64,
    /// Answers computed by a node that was not the owner.
    pub(crate) wrong_owner: u64,
}

/// Latency of answered requests of the load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Latencies {
    pub(crate) get: Latency,
    pub(crate) increment: Latency,
}

/// In microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

impl From<&Histogram> for Latency {
    fn from(latencies: &Histogram) -> Self {
        Self {
            p50: latencies.quantile(0.5),
            p99: latencies.quantile(0.99),
            max: latencies.max(),
        }
    }
}

/// One fault. Times in milliseconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct FaultReport {
    pub(crate) kind: Kind,
    /// Since the load began.
    pub(crate) at_ms: f64,
    /// From the fault until every shard was answered again (a kill), or until the cluster was as it should be and every
    /// shard that moved was answered by its new owner (all others).
    pub(crate) recovered_ms: f64,
    /// Longest get on a shard that moved; null if none moved.
    pub(crate) stall_ms_moved: Option<f64>,
    /// Longest get on a shard that did not move; null if all moved.
    pub(crate) stall_ms_unmoved: Option<f64>,
    /// Longest time between two acknowledged increments.
    pub(crate) log_stall_ms: f64,
    /// How often shards changed their node.
    pub(crate) moved: usize,
    pub(crate) minimum_moves: usize,
    #[serde(skip)]
    pub(crate) node: String,
    /// Requests of the load on shards that moved.
    #[serde(skip)]
    pub(crate) hits: u64,
    /// The machine's own longest stall meanwhile.
    #[serde(skip)]
    pub(crate) machine_stall_ms: f64,
}

impl FaultReport {
    pub(crate) fn new(fault: &Fault, stalls: Stalls, at_ms: f64, machine_stall_ms: f64) -> Self {
        Self {
            kind: fault.kind,
            at_ms,
            recovered_ms: milliseconds(fault.recovered.since(fault.at)),
            stall_ms_moved: stalls.moved.map(milliseconds),
            stall_ms_unmoved: stalls.unmoved.map(milliseconds),
            log_stall_ms: milliseconds(stalls.log),
            moved: fault.moves,
            minimum_moves: fault.minimum_moves,
            node: fault.node.to_string(),
            hits: stalls.hits,
            machine_stall_ms,
        }
    }
}

/// What the verdict needs beside the report.
pub(crate) struct Evidence<'a> {
    pub(crate) options: &'a Options,
    pub(crate) results: &'a Results,
    /// The fault that did not work out, if one did not.
    pub(crate) broken: Option<&'a (Kind, FaultError)>,
    /// Counters that could not be read at the end.
    pub(crate) unreadable: usize,
    /// Violations of ownership in words.
    pub(crate) findings: &'a [String],
}

/// Everything that is not as it must be, each with its value and what to do next; empty: the run was good.
pub(crate) fn verdict(report: &Report, evidence: &Evidence<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut need = |holds: bool, text: String| {
        if !holds {
            wrong.push(text);
        }
    };
    let Evidence {
        options,
        results,
        broken,
        unreadable,
        findings,
    } = evidence;
    let seen = findings.join("; ");
    need(
        report.requests.wrong_owner == 0,
        format!(
            "wrong_owner is {}, must be 0: {seen}",
            report.requests.wrong_owner
        ),
    );
    need(
        report.double_owner_ms == 0.0,
        format!(
            "double_owner_ms is {}, must be 0: {seen}",
            report.double_owner_ms
        ),
    );
    need(
        report.lost_increments == 0,
        format!(
            "lost_increments is {}, must be 0: something acknowledged is gone",
            report.lost_increments
        ),
    );
    need(
        report.duplicated_increments == 0,
        format!(
            "duplicated_increments is {}, must be 0: something was executed twice",
            report.duplicated_increments
        ),
    );
    need(
        report.requests.failed == 0,
        format!(
            "failed is {}, must be 0, the first: {}; look at the nodes' logs with FUNK_LOG=info",
            report.requests.failed,
            results.reasons.join("; ")
        ),
    );
    if let Some((kind, error)) = broken {
        need(
            false,
            format!("the fault {kind:?} did not take place as it should: {error}"),
        );
    }
    for kind in Kind::SCHEDULE {
        let took_place = report.faults.iter().any(|fault| fault.kind == kind);
        let is_known = broken.is_some();
        need(
            took_place || is_known,
            format!("the fault {kind:?} did not take place"),
        );
    }
    for fault in report.faults.iter().filter(|fault| fault.moved > 0) {
        need(
            fault.hits > 0,
            format!(
                "no request hit a moved shard in {:?}: raise --rate or lower --shards",
                fault.kind
            ),
        );
    }
    let due = ANSWERED_PART * f64::from(options.rate) * options.seconds as f64;
    need(
        report.requests.ok as f64 >= due,
        format!(
            "ok is {}, must be at least {due:.0} (0.9 x rate x seconds), {} were skipped with too many in flight; \
             the machine stood still for up to {} ms: lower --rate or close other programs",
            report.requests.ok, results.skipped, report.machine_stall_ms
        ),
    );
    need(
        *unreadable == 0,
        format!("{unreadable} counters could not be read at the end, must be 0"),
    );
    wrong
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::options::Preset;
    use super::*;
    use funk::NodeId;

    pub(in super::super) fn options() -> Options {
        Options {
            nodes: 5,
            shards: 1_024,
            seconds: 15,
            rate: 1_000,
            seed: 1,
            preset: Preset::Lan,
            json: false,
        }
    }

    pub(in super::super) fn good() -> Report {
        let latency = Latency {
            p50: 200,
            p99: 2_000,
            max: 300_000,
        };
        let fault = |kind| FaultReport {
            kind,
            at_ms: 1_000.0,
            recovered_ms: 400.5,
            stall_ms_moved: (kind != Kind::StepDown).then_some(400.5),
            stall_ms_unmoved: Some(3.25),
            log_stall_ms: 6.0,
            moved: if kind == Kind::StepDown { 0 } else { 205 },
            minimum_moves: if kind == Kind::StepDown { 0 } else { 205 },
            node: "n2".to_owned(),
            hits: u64::from(kind != Kind::StepDown),
            machine_stall_ms: 2.0,
        };
        Report {
            nodes: 5,
            shards: 1_024,
            requests: RequestCounts {
                ok: 14_950,
                failed: 0,
                ambiguous: 3,
                wrong_owner: 0,
            },
            double_owner_ms: 0.0,
            lost_increments: 0,
            duplicated_increments: 0,
            machine_stall_ms: 4.5,
            latency_us: Latencies {
                get: latency,
                increment: latency,
            },
            faults: Kind::SCHEDULE.into_iter().map(fault).collect(),
        }
    }

    fn judge(report: &Report, unreadable: usize) -> Vec<String> {
        let (options, results) = (options(), Results::default());
        let evidence = Evidence {
            options: &options,
            results: &results,
            broken: None,
            unreadable,
            findings: &[],
        };
        verdict(report, &evidence)
    }

    #[test]
    fn a_good_run_is_good() {
        assert_eq!(judge(&good(), 0), Vec::<String>::new());
    }

    #[test]
    fn every_condition_is_judged_by_itself() {
        type Spoil = fn(&mut Report);
        let spoilt: [(Spoil, &str); 8] = [
            (|r| r.requests.wrong_owner = 1, "wrong_owner is 1"),
            (|r| r.double_owner_ms = 0.001, "double_owner_ms is 0.001"),
            (|r| r.lost_increments = 2, "lost_increments is 2"),
            (
                |r| r.duplicated_increments = 3,
                "duplicated_increments is 3",
            ),
            (|r| r.requests.failed = 4, "failed is 4"),
            (|r| drop(r.faults.remove(4)), "StepDown did not take place"),
            (
                |r| r.faults[2].hits = 0,
                "no request hit a moved shard in KillLeader",
            ),
            (
                |r| r.requests.ok = 13_499,
                "ok is 13499, must be at least 13500",
            ),
        ];
        for (spoil, expected) in spoilt {
            let mut report = good();
            spoil(&mut report);
            let wrong = judge(&report, 0);
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert!(wrong[0].contains(expected), "{wrong:?}");
        }
        assert_eq!(judge(&good(), 2).len(), 1);
    }

    #[test]
    fn a_fault_that_went_wrong_fails_the_run_once() {
        let (options, results) = (options(), Results::default());
        let node = NodeId::new("n1").unwrap();
        let broken = (Kind::KillLeader, FaultError::CloseFrame { node, frames: 4 });
        let mut report = good();
        report.faults.truncate(2);
        let evidence = Evidence {
            options: &options,
            results: &results,
            broken: Some(&broken),
            unreadable: 0,
            findings: &[],
        };
        let wrong = verdict(&report, &evidence);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("saw 4 close frames"), "{wrong:?}");
    }

    #[test]
    fn the_object_has_exactly_these_keys() {
        let json = serde_json::to_value(good()).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let sorted = |keys: &str| -> Vec<String> {
            let mut keys: Vec<String> = keys.split_whitespace().map(str::to_owned).collect();
            keys.sort();
            keys
        };
        let top = "nodes shards requests double_owner_ms lost_increments duplicated_increments \
                   machine_stall_ms latency_us faults";
        assert_eq!(keys(&json), sorted(top));
        assert_eq!(
            keys(&json["requests"]),
            sorted("ok failed ambiguous wrong_owner")
        );
        assert_eq!(keys(&json["latency_us"]), sorted("get increment"));
        assert_eq!(keys(&json["latency_us"]["get"]), sorted("p50 p99 max"));
        let fault = "kind at_ms recovered_ms stall_ms_moved stall_ms_unmoved log_stall_ms moved minimum_moves";
        assert_eq!(keys(&json["faults"][0]), sorted(fault));
        assert_eq!(json["faults"][2]["kind"], "kill_leader");
    }
}
