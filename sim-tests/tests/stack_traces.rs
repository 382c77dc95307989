//! What a run leaves behind for people: the trace for the Perfetto viewer, the timeline, the plan as a file that is run
//! again, and the smaller plan that still fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use funk_sim_tests::stack::determinism::Fingerprint;
use funk_sim_tests::stack::plan::{Cut, Fault, Moment, Strike, Target};
use funk_sim_tests::stack::trace::{Mark, Trace};
use funk_sim_tests::stack::trace_messages::deliveries;
use funk_sim_tests::stack::trace_spans::Window;
use funk_sim_tests::stack::{self, Plan, World, finish, shrink, timeline, trace_chrome};
use roxmltree::{Document, Node};
use serde_json::Value;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The namespace of the elements of a picture.
const SVG: &str = "http://www.w3.org/2000/svg";

/// A seed of the swarm with several kinds of faults, cut short.
const SEED: u64 = 8;

/// A run with what was written down of it.
struct Run {
    plan: Plan,
    trace: Trace,
    fingerprint: Fingerprint,
}

fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let plan = Plan {
            calm_at: ms(10_000),
            length: Duration::ZERO,
            ..Plan::swarm(SEED)
        };
        let mut world = World::new(plan.clone(), true);
        let result = finish(&mut world);
        assert!(result.is_ok(), "{}", result.unwrap_err());
        let trace = world.take_trace().unwrap();
        let fingerprint = Fingerprint::new(&world, &trace, &result);
        Run {
            plan,
            trace,
            fingerprint,
        }
    })
}

/// Four seconds in which the faults are thick.
const WINDOW: Window = Window {
    from: ms(6_000),
    to: ms(10_000),
};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Runs the program in the directory of the files.
fn sim(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.output().unwrap()
}

/// What the program printed, and how it ended.
fn said(output: &Output) -> (String, Option<i32>) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (
        String::from_utf8_lossy(&text).into_owned(),
        output.status.code(),
    )
}

fn chrome(window: Window) -> Vec<u8> {
    let Run { plan, trace, .. } = run();
    let mut bytes = Vec::new();
    trace_chrome::write(plan, trace, window, &mut bytes).unwrap();
    bytes
}

/// The events of the trace of [`WINDOW`], by what they are.
fn events() -> BTreeMap<String, Vec<Value>> {
    let trace: Value = serde_json::from_slice(&chrome(WINDOW)).expect("it is JSON");
    let mut events: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for event in trace["traceEvents"].as_array().expect("a list of events") {
        let kind = event["ph"].as_str().expect("every event has a phase");
        events
            .entry(kind.to_owned())
            .or_default()
            .push(event.clone());
    }
    events
}

fn track(event: &Value) -> (u64, u64) {
    let number = |key| event[key].as_u64().expect("every event is on a track");
    (number("pid"), number("tid"))
}

fn begin(event: &Value) -> f64 {
    event["ts"].as_f64().expect("every event has a time")
}

fn end(event: &Value) -> f64 {
    begin(event) + event["dur"].as_f64().expect("a slice has a length")
}

/// Names of processes (track 0) and of their tracks.
fn names(events: &[Value]) -> BTreeMap<(u64, u64), String> {
    let named = events
        .iter()
        .filter(|event| event["name"] != "thread_sort_index");
    let named = named.filter(|event| event["name"] != "process_sort_index");
    let name = |event: &Value| event["args"]["name"].as_str().unwrap().to_owned();
    named.map(|event| (track(event), name(event))).collect()
}

#[test]
fn every_node_has_its_tracks_in_the_trace_and_spans_on_them() {
    let events = events();
    let names = names(&events["M"]);
    let pids: BTreeMap<&str, u64> = names
        .iter()
        .filter(|((_, tid), _)| *tid == 0)
        .map(|((pid, _), name)| (name.split(',').next().unwrap(), *pid))
        .collect();
    for node in 1..=run().plan.nodes.len() {
        let pid = pids[format!("n{node}").as_str()];
        let tracks: BTreeMap<&str, u64> = names
            .iter()
            .filter(|((of, tid), _)| *of == pid && *tid > 0)
            .map(|((_, tid), name)| (name.as_str(), *tid))
            .collect();
        for (track_name, texts) in [
            ("state", &["Operational", "Resharding"][..]),
            ("role", &["Leader", "Follower", "NonVoter"]),
            ("lease", &["valid"]),
            ("serving", &["1 shards", "shards"]),
        ] {
            let on = (pid, tracks[track_name]);
            let slices: Vec<&Value> = events["X"]
                .iter()
                .filter(|event| track(event) == on)
                .collect();
            let fits = |slice: &&Value| {
                let name = slice["name"].as_str().unwrap();
                texts.iter().any(|text| name.ends_with(text))
            };
            assert!(
                slices.iter().any(fits),
                "n{node} has no {track_name}: {slices:?}"
            );
            // Slices of one track that overlap would be drawn into each other.
            for pair in slices.windows(2) {
                assert!(begin(pair[1]) >= end(pair[0]) - 1e-3, "{pair:?}");
            }
        }
    }
    assert_eq!(
        pids.len(),
        run().plan.nodes.len() + 2,
        "and cluster and shards"
    );
    let tracks: BTreeSet<_> = names.keys().copied().collect();
    for event in events
        .iter()
        .filter(|(kind, _)| *kind != "M")
        .flat_map(|(_, list)| list)
    {
        assert!(
            tracks.contains(&track(event)),
            "on a track without a name: {event}"
        );
        let window = (
            WINDOW.from.as_micros() as f64,
            WINDOW.to.as_micros() as f64 + 1e3,
        );
        assert!((window.0..=window.1).contains(&begin(event)), "{event}");
    }
}

#[test]
fn arrows_of_the_trace_lead_from_the_slice_that_was_sent_to_the_one_received() {
    let events = events();
    let ends = |kind: &str| -> BTreeMap<u64, &Value> {
        let arrows = events[kind].iter();
        let ends: BTreeMap<u64, &Value> = arrows
            .map(|arrow| (arrow["id"].as_u64().unwrap(), arrow))
            .collect();
        assert_eq!(ends.len(), events[kind].len(), "an id has two arrows");
        ends
    };
    let (from, to) = (ends("s"), ends("f"));
    assert!(from.keys().eq(to.keys()), "an arrow has one end");
    assert!(from.len() > 500, "{} arrows", from.len());
    let slices: BTreeMap<((u64, u64), u64), &Value> = events["X"]
        .iter()
        .filter(|slice| slice["cat"] == "message")
        .map(|slice| ((track(slice), begin(slice).to_bits()), slice))
        .collect();
    let slice = |arrow: &Value| slices[&(track(arrow), begin(arrow).to_bits())];
    for (id, sent) in &from {
        let received = to[id];
        assert!(
            begin(sent) <= begin(received),
            "{sent} arrives at {received}"
        );
        assert_ne!(track(sent).0, track(received).0);
        assert_eq!(received["bp"], "e");
        let text = |arrow| {
            let name = slice(arrow)["name"].as_str().unwrap();
            let (peer, message) = name.split_once(": ").unwrap();
            (peer.to_owned(), message.to_owned())
        };
        let ((to, sent), (from, received)) = (text(sent), text(received));
        assert!(to.starts_with("to ") && from.starts_with("from "));
        assert_eq!(sent, received, "another message than was sent");
    }
    // Nothing that arrived within the window lacks its arrow, unless it left before the window or its clocks cross.
    let trace = &run().trace;
    let at = |entry: usize| trace.entries[entry].at;
    let within = deliveries(trace)
        .into_iter()
        .filter(|delivery| {
            WINDOW.contains(at(delivery.sent)) && WINDOW.contains(at(delivery.received))
        })
        .count();
    assert!(
        from.len() <= within && from.len() * 100 >= within * 95,
        "{} of {within}",
        from.len()
    );
}

#[test]
fn every_fault_is_marked_in_the_trace() {
    let events = events();
    let marked = |marks: &[Value]| marks.iter().filter(|mark| mark["cat"] == "fault").count();
    let faults = run().trace.entries.iter().filter(|entry| {
        WINDOW.contains(entry.at) && matches!(entry.mark, Mark::Strike(_) | Mark::Fault(_))
    });
    let faults = faults.count();
    assert!(faults > 3, "the window shows no faults: choose another");
    assert_eq!(marked(&events["i"]), faults);
    // What lasts is a span, too; among them those that began before the window.
    let lasting = run()
        .trace
        .entries
        .iter()
        .filter(|entry| match &entry.mark {
            Mark::Strike(fault) => {
                let until = entry.at + fault.lasts();
                !fault.lasts().is_zero() && entry.at < WINDOW.to && until > WINDOW.from
            }
            _ => false,
        });
    assert_eq!(marked(&events["X"]), lasting.count());
}

#[test]
fn the_timeline_is_xml_with_a_row_for_each_node() {
    let Run { plan, trace, .. } = run();
    let svg = timeline::svg(plan, trace, WINDOW, "seed <10> & more");
    let document = Document::parse(&svg).expect("it is well-formed");
    let picture = document.root_element();
    assert_eq!(picture.tag_name().name(), "svg");
    let number = |element: &Node<'_, '_>, key: &str| -> f64 {
        element.attribute(key).unwrap().parse().unwrap()
    };
    let named = |name: &str| -> Vec<Node<'_, '_>> {
        let is_named = |node: &Node<'_, '_>| node.has_tag_name((SVG, name));
        picture.descendants().filter(is_named).collect()
    };
    let texts = named("text");
    assert_eq!(texts[0].text(), Some("seed <10> & more"));
    let rows: Vec<f64> = (1..=plan.nodes.len())
        .map(|node| {
            let name = format!("n{node}");
            let labels: Vec<_> = texts
                .iter()
                .filter(|text| text.text() == Some(&name))
                .collect();
            assert_eq!(labels.len(), 1, "{name}");
            number(labels[0], "y")
        })
        .collect();
    let lane = rows[1] - rows[0];
    for pair in rows.windows(2) {
        assert!((pair[1] - pair[0] - lane).abs() < 1e-6, "{rows:?}");
    }
    assert!(
        !texts
            .iter()
            .any(|text| text.text() == Some(&format!("n{}", plan.nodes.len() + 1)))
    );
    // Everything is inside the picture, and each node has a lease and a state within its lane.
    let (width, height) = (number(&picture, "width"), number(&picture, "height"));
    let bars = named("rect");
    // The first is the background.
    for bar in &bars[1..] {
        let right = number(bar, "x") + number(bar, "width");
        let below = number(bar, "y") + number(bar, "height");
        assert!(right <= width + 0.5 && below <= height + 0.5, "{bar:?}");
    }
    let is_lease = |title: &Node<'_, '_>| {
        title
            .text()
            .is_some_and(|text| text.starts_with("lease valid"))
    };
    assert!(named("title").iter().any(is_lease));
    for row in &rows {
        let in_lane =
            |bar: &&Node<'_, '_>| (row - 20.0..row - 20.0 + lane).contains(&number(bar, "y"));
        assert!(
            bars[1..].iter().filter(in_lane).count() >= 4,
            "an empty lane at {row}"
        );
    }
}

#[test]
fn a_plan_from_a_file_is_the_same_run() {
    let Run {
        plan, fingerprint, ..
    } = run();
    let again = Plan::from_json(&plan.to_json()).unwrap();
    assert_eq!(again, *plan);
    std::fs::write(file("traces-plan.json"), plan.to_json()).unwrap();
    // By the program, in a process of its own.
    let output = sim(&[
        "replay",
        "--plan",
        "traces-plan.json",
        "--quiet",
        "--fingerprint",
        "--trace",
        "traces-trace.json",
        "--svg",
        "traces-timeline.svg",
        "--log",
        "traces-events.log",
    ]);
    let (text, status) = said(&output);
    assert_eq!(status, Some(0), "{text}");
    let printed = text
        .lines()
        .find(|line| line.starts_with("messages "))
        .unwrap();
    assert_eq!(printed.parse(), Ok(*fingerprint));
    let trace = std::fs::read(file("traces-trace.json")).unwrap();
    let whole = Window::last(None, &run().trace);
    assert!(trace == chrome(whole), "the trace is another one");
    let svg = std::fs::read_to_string(file("traces-timeline.svg")).unwrap();
    Document::parse(&svg).unwrap();
    let log = std::fs::read_to_string(file("traces-events.log")).unwrap();
    assert_eq!(log.lines().count(), run().trace.log(false).len());
}

/// Clocks that err by fifteen times what is configured; a slow owner is cut off from a fast leader. Beside that, faults
/// that do no harm.
fn beyond_the_bound() -> Plan {
    let mut plan = Plan::quiet(4, 4);
    plan.nodes[3].votes = false;
    for (at, node) in plan.nodes.iter_mut().enumerate() {
        node.rate = if at == 2 { 0.85 } else { 1.15 };
    }
    let now = |at, fault| Strike {
        at: ms(at),
        moment: Moment::Now,
        fault,
    };
    let target = Target::Node(2);
    plan.strikes = vec![
        now(500, Fault::Tags { target, times: 2 }),
        now(
            800,
            Fault::Loss {
                percent: 10,
                span: ms(300),
            },
        ),
        now(
            1_500,
            Fault::Cut {
                cut: Cut::Isolate(target),
                span: ms(1_500),
            },
        ),
        now(4_000, Fault::StepDown),
        now(
            4_500,
            Fault::Slow {
                latency: ms(20),
                span: ms(500),
            },
        ),
    ];
    plan.calm_at = ms(5_500);
    plan
}

#[test]
fn a_plan_that_fails_becomes_smaller_and_fails_in_the_same_way() {
    let plan = beyond_the_bound();
    let failure = stack::run(&plan).expect_err("clocks lie");
    assert_eq!(failure.violation.invariant, "I1", "{failure}");
    let mut tried = 0;
    let shrunk = shrink::shrink(&plan, 25, &mut |_| tried += 1).expect("it fails");
    assert_eq!(shrunk.runs, tried + 1);
    assert_eq!(shrunk.failure.violation.invariant, "I1");
    let cut = |strike: &Strike| matches!(strike.fault, Fault::Cut { .. });
    assert_eq!(shrunk.plan.strikes.len(), 1, "{:?}", shrunk.plan.strikes);
    assert!(cut(&shrunk.plan.strikes[0]), "{:?}", shrunk.plan.strikes);
    assert!(shrunk.plan.nodes.len() < plan.nodes.len());
    assert!(shrunk.failure.at < failure.at);
    // What is written down is what fails, at the same moment, wherever it is run.
    std::fs::write(file("traces-shrunk.json"), shrunk.plan.to_json()).unwrap();
    let (text, status) = said(&sim(&["replay", "--plan", "traces-shrunk.json", "--quiet"]));
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains(&format!("FAILED {}", shrunk.failure)),
        "{text}"
    );
}

#[test]
fn a_plan_that_holds_cannot_be_shrunk() {
    let plan = Plan::quiet(1, 3);
    let outcome = shrink::shrink(&plan, 25, &mut |_| panic!("nothing is tried")).unwrap_err();
    assert!(outcome.simulated > ms(1_000));
}
