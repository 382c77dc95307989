//! The report for people: measured beside what is aimed at.

use std::fmt::Write as _;

use super::faults::Kind;
use super::load::Results;
use super::options::Options;
use super::report::{FaultReport, Latency, Report};

/// Shards that do not move should be answered without a pause that anybody notices.
const STALL_TARGET_MS: f64 = 20.0;

/// The whole table, with its last line break.
pub(crate) fn table(report: &Report, options: &Options, results: &Results, guards: u64) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = lines(&mut out, report, options, results, guards);
    out
}

fn lines(
    out: &mut String,
    report: &Report,
    options: &Options,
    results: &Results,
    guards: u64,
) -> std::fmt::Result {
    writeln!(
        out,
        "{} nodes, {} shards, {} requests/s for {} s, timing {}, seed {}",
        report.nodes,
        report.shards,
        options.rate,
        options.seconds,
        options.preset.name(),
        options.seed
    )?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<18} {:<5} {:>8} {:>10} {:>8} {:>10} {:>10} {:>8} {:>6} {:>6} {:>8}",
        "fault",
        "node",
        "at",
        "recovered",
        "target",
        "stall",
        "stall of",
        "stall of",
        "moved",
        "least",
        "machine"
    )?;
    writeln!(
        out,
        "{:<18} {:<5} {:>8} {:>10} {:>8} {:>10} {:>10} {:>8} {:>6} {:>6} {:>8}",
        "", "", "ms", "ms", "ms", "of moved", "the others", "the log", "", "moves", "stall ms"
    )?;
    for fault in &report.faults {
        row(out, fault, options)?;
    }
    writeln!(out)?;
    let requests = &report.requests;
    let due = 0.9 * f64::from(options.rate) * options.seconds as f64;
    let mut line = |what: &str, value: String, target: &str| {
        writeln!(out, "{what:<38} {value:>12}   {target}")
    };
    line(
        "requests answered",
        requests.ok.to_string(),
        &format!("at least {due:.0}"),
    )?;
    line("failed", requests.failed.to_string(), "0")?;
    line(
        "ambiguous increments",
        requests.ambiguous.to_string(),
        "few: those that a kill cut off",
    )?;
    line(
        "answers of a node that was not owner",
        requests.wrong_owner.to_string(),
        "0",
    )?;
    line(
        "two owners at once, ms",
        report.double_owner_ms.to_string(),
        "0",
    )?;
    line(
        "acknowledged increments lost",
        report.lost_increments.to_string(),
        "0",
    )?;
    line(
        "increments executed twice",
        report.duplicated_increments.to_string(),
        "0",
    )?;
    line(
        "gets whose caller was killed",
        results.abandoned.to_string(),
        "(nobody was left to hear the answer)",
    )?;
    line(
        "sent again, certainly not executed",
        results.asked_again.to_string(),
        "",
    )?;
    line(
        "skipped, too many in flight",
        results.skipped.to_string(),
        "",
    )?;
    line("guards watched", guards.to_string(), "")?;
    line(
        "longest stall of the machine itself, ms",
        format!("{:.1}", report.machine_stall_ms),
        "under 20, or times say little",
    )?;
    writeln!(out)?;
    latency(out, "get", report.latency_us.get)?;
    latency(out, "increment", report.latency_us.increment)?;
    Ok(())
}

fn row(out: &mut String, fault: &FaultReport, options: &Options) -> std::fmt::Result {
    let (node, leader) = options.preset.recovery_targets();
    let target = match fault.kind {
        Kind::KillNode => format!("<={}", node.as_millis()),
        Kind::KillLeader => format!("<={}", leader.as_millis()),
        _ => "-".to_owned(),
    };
    let stall = |stall: Option<f64>| stall.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
    let mark = |missed: bool| if missed { "!" } else { "" };
    let unmoved = fault
        .stall_ms_unmoved
        .is_some_and(|ms| ms >= STALL_TARGET_MS);
    let unmoved = format!("{}{}", stall(fault.stall_ms_unmoved), mark(unmoved));
    let moved = format!(
        "{}{}",
        fault.moved,
        mark(fault.moved != fault.minimum_moves)
    );
    writeln!(
        out,
        "{:<18} {:<5} {:>8.0} {:>10.1} {:>8} {:>10} {:>10} {:>8.1} {:>6} {:>6} {:>8.1}",
        fault.kind.to_string(),
        fault.node,
        fault.at_ms,
        fault.recovered_ms,
        target,
        stall(fault.stall_ms_moved),
        unmoved,
        fault.log_stall_ms,
        moved,
        fault.minimum_moves,
        fault.machine_stall_ms,
    )
}

fn latency(out: &mut String, what: &str, latency: Latency) -> std::fmt::Result {
    let Latency { p50, p99, max } = latency;
    writeln!(
        out,
        "latency of {what:<10} p50 {p50:>7} us   p99 {p99:>7} us   max {max:>8} us"
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{good, options};
    use super::*;

    #[test]
    fn targets_stand_beside_what_was_measured_and_misses_are_marked() {
        let mut report = good();
        report.faults[0].moved = 206;
        report.faults[0].stall_ms_unmoved = Some(21.0);
        let text = table(&report, &options(), &Results::default(), 7);
        let row = text
            .lines()
            .find(|line| line.starts_with("kill a node"))
            .unwrap();
        for expected in ["400.5", "<=450", "21.0!", "206!"] {
            assert!(row.contains(expected), "{expected} is not in {row}");
        }
        let row = text
            .lines()
            .find(|line| line.starts_with("kill the leader"))
            .unwrap();
        assert!(row.contains("<=600") && !row.contains('!'), "{row}");
        assert!(text.contains("at least 13500"), "{text}");
    }
}
