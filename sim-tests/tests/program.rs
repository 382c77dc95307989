//! The program `sim` from the outside: what it prints for other programs, and how it ends.

use std::process::Command;

use serde_json::Value;

/// Runs it; what it printed, and its status.
fn sim(arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    let output = command.args(arguments).output().unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (
        String::from_utf8_lossy(&text).into_owned(),
        output.status.code(),
    )
}

#[test]
fn speeds_of_all_simulators_are_measured_under_the_load_that_was_asked_for() {
    let (text, status) = sim(&["speed", "--seconds", "0.5", "--calls", "200", "--json"]);
    assert_eq!(status, Some(0), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let rows = report["measured"].as_array().unwrap();
    assert_eq!(rows.len(), 7);
    for row in rows {
        let name = row["name"].as_str().unwrap();
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("simulated_s_per_s") > 0.0, "{row}");
        assert!(number("messages_per_simulated_s") > 50.0, "{row}");
        // Of some 200 milliseconds of simulated time in each turn.
        let calls = match name {
            "idle raft" | "whole stack, no load" => 0.0..=0.0,
            "engines alone, faults" => 50.0..=5_000.0,
            _ => 100.0..=300.0,
        };
        assert!(calls.contains(&number("calls_per_simulated_s")), "{row}");
        let ratio = row["ratio_to_idle_raft"].as_f64();
        assert_eq!(ratio.is_none(), name.starts_with("engines"), "{row}");
        assert!(name != "idle raft" || ratio == Some(1.0), "{row}");
    }
}

#[test]
fn wrong_arguments_are_told_apart_from_failures() {
    for arguments in [
        &["speed", "--seconds", "-1"][..],
        &["speed", "--calls", "0"],
        &["run", "--pinned", "--seeds", "0..3"],
        &["run", "--seeds", "3..3"],
    ] {
        let (text, status) = sim(arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {text}");
        assert!(text.contains("error"), "{text}");
    }
}
