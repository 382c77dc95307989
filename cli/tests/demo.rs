//! The program as its users run it.
#![allow(
    clippy::disallowed_methods,
    reason = "a test beside the nodes, not inside one"
)]

use std::process::{Command, Output};

fn funk(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_funk"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

#[test]
fn three_nodes_survive_everything_and_only_the_object_is_on_standard_output() {
    // A small load: this test shares its machine with others, and judges safety, not speed.
    let output = funk(&[
        "demo",
        "--nodes",
        "3",
        "--seconds",
        "10",
        "--rate",
        "200",
        "--seed",
        "1",
        "--json",
    ]);
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stderr),
        text(&output.stdout)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["nodes"], 3);
    let kinds: Vec<_> = report["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| &fault["kind"])
        .collect();
    let expected = [
        "kill_node",
        "restart_node",
        "kill_leader",
        "restart_leader",
        "step_down",
        "leave",
        "return",
    ];
    assert_eq!(kinds, expected);
    for fault in report["faults"].as_array().unwrap() {
        assert_eq!(fault["moved"], fault["minimum_moves"], "{fault}");
        let moves = if fault["kind"] == "step_down" {
            0..1
        } else {
            341..343
        };
        assert!(moves.contains(&fault["moved"].as_i64().unwrap()), "{fault}");
    }
}

#[test]
fn arguments_that_are_not_possible_are_all_named() {
    let output = funk(&["demo", "--nodes", "2", "--timing", "wan"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let errors = text(&output.stderr);
    for expected in [
        "--nodes 2 is not possible: 3 to 50",
        "--seconds 15 is not possible: 90 to 3600",
        "--help",
    ] {
        assert!(errors.contains(expected), "{expected} is not in {errors}");
    }
}

#[test]
fn unknown_words_and_missing_commands_are_explained() {
    for arguments in [&["demo", "--timing", "slow"][..], &["dem"], &[]] {
        let output = funk(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            text(&output.stderr).contains("Usage:")
                || text(&output.stderr).contains("fast, lan, wan")
        );
    }
    let help = funk(&["demo", "--help"]);
    assert!(help.status.success());
    assert!(text(&help.stdout).contains("Examples:"));
}
