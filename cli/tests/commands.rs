//! Nodes as processes: they form a cluster, answer, leave, and refuse whom they must.

mod common;

use std::net::UdpSocket;

use common::{Node, Scratch};
use serde_json::Value;

/// Addresses that were free a moment ago.
fn free<const N: usize>() -> [String; N] {
    let sockets: [UdpSocket; N] = [(); N].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().to_string())
}

/// Three nodes, n1 to n3, that know each other's addresses.
fn three(scratch: &Scratch) -> Vec<Node> {
    let addrs: [String; 3] = free();
    let join = addrs.join(",");
    let start = |n: usize| {
        let (name, listen) = (format!("n{}", n + 1), addrs[n].as_str());
        let names = ["--name", &name, "--listen", listen];
        let others = ["--join", &join, "--bootstrap-expect", "3", "--shards", "64"];
        scratch.node(&[&names[..], &others[..]].concat())
    };
    let mut nodes: Vec<Node> = (0..3).map(start).collect();
    nodes.iter_mut().for_each(Node::operational);
    nodes
}

fn connect(nodes: &[Node]) -> String {
    let addrs: Vec<String> = nodes.iter().map(|node| node.addr.to_string()).collect();
    addrs.join(",")
}

#[test]
fn nodes_form_a_cluster_answer_and_leave() {
    let scratch = Scratch::new("cluster");
    let mut nodes = three(&scratch);
    let all = connect(&nodes);
    let call = |more: &[&str]| scratch.funk(&[&["call", "--connect", &all], more].concat());

    let text = call(&["--increment", "apples"]).succeeds();
    assert!(text.starts_with("apples = 1  (owner n"), "{text}");
    let lines = call(&["--get", "apples", "--json"]).json();
    let call_keys = [
        "attempts", "end_us", "epoch", "error", "id", "key", "op", "outcome", "owner", "shard",
        "start_us", "value",
    ];
    let keys: Vec<&String> = lines[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, call_keys);
    assert_eq!(lines[0]["value"], 1);
    assert_eq!(lines[0]["op"], "get");
    assert!(lines[0]["epoch"].as_u64().unwrap() > 0);
    assert!(lines[0]["start_us"].as_u64() < lines[0]["end_us"].as_u64());

    // A load: each call a line, each increment counted once.
    let load = [
        "--get",
        "--increment",
        "--idempotent",
        "--keys",
        "5",
        "--count",
        "200",
    ];
    let more = ["--concurrency", "8", "--deadline", "20", "--json", "k"];
    let lines = call(&[&load[..], &more[..]].concat()).json();
    assert_eq!(lines.len(), 201);
    let increments = lines
        .iter()
        .filter(|line| line["op"] == "increment")
        .count();
    assert!((50..150).contains(&increments), "{increments}");
    let summary = &lines[200]["summary"];
    assert_eq!(
        (&summary["ok"], &summary["failed"]),
        (&200.into(), &0.into())
    );
    assert!(summary["latency_us"]["p99"].as_u64() <= summary["latency_us"]["max"].as_u64());
    let value = |n: usize| {
        let lines = call(&["--get", &format!("k-{n}"), "--json"]).json();
        lines[0]["value"].as_u64().unwrap() as usize
    };
    assert_eq!((0..5).map(value).sum::<usize>(), increments);

    // What one node has: all are asked for a shard, whichever counter it is that they are asked about.
    let one = ["--replica", "0", "--keys", "5", "--in-turn", "--count", "5"];
    let lines = call(&[&one[..], &["--json", "k"]].concat()).json();
    for (n, line) in lines[..5].iter().enumerate() {
        assert_eq!(line["key"], format!("k-{n}"));
        assert_eq!((&line["shard"], &line["op"]), (&0.into(), &"get".into()));
        assert_eq!(line["owner"], lines[0]["owner"], "one node for all of them");
    }
    assert!(lines[5]["summary"]["machine_stall_ms"].as_f64() > Some(0.0));

    let status = |node: &Node| -> Value {
        let addr = node.addr.to_string();
        scratch
            .funk(&["status", "--connect", &addr, "--json"])
            .json()
            .remove(0)
    };
    let second = status(&nodes[1]);
    assert_eq!(
        (&second["node"], &second["state"]),
        (&"n2".into(), &"operational".into())
    );
    assert_eq!(second["boot"], nodes[1].boot.as_str());
    assert_eq!(second["members"].as_array().unwrap().len(), 3);
    let table = scratch
        .funk(&["status", "--connect", &nodes[0].addr.to_string()])
        .succeeds();
    assert!(
        table.contains("n3") && table.contains("alive") && table.contains("leader"),
        "{table}"
    );

    // The first leaves: its shards go on elsewhere.
    let mut first = nodes.remove(0);
    first.signal("TERM");
    first.event("leaving");
    assert_eq!(first.event("stopped")["reason"], "left");
    assert_eq!(first.ended().code(), Some(0), "{}", first.log());
    let rest = connect(&nodes);
    let sum: u64 = (0..5)
        .map(|n| {
            let key = format!("k-{n}");
            let lines = scratch
                .funk(&["call", "--connect", &rest, &key, "--json"])
                .json();
            assert_ne!(lines[0]["owner"], "n1");
            lines[0]["value"].as_u64().unwrap()
        })
        .sum();
    assert_eq!(sum as usize, increments);
}

#[test]
fn a_node_that_cannot_leave_in_time_or_is_told_twice_says_so() {
    let scratch = Scratch::new("leave");
    // Alone it could leave; two of three have no quorum without the third.
    let mut nodes = three(&scratch);
    nodes.truncate(1);
    let mut last = nodes.remove(0);
    last.event("leader_lost");
    last.signal("TERM");
    last.event("leaving");
    last.signal("TERM");
    assert_eq!(last.event("stopped")["reason"], "stopped");
    assert_eq!(last.ended().code(), Some(3));

    let names = [
        "--name",
        "n1",
        "--listen",
        "127.0.0.1:0",
        "--drain-timeout",
        "0",
    ];
    let mut hasty = scratch.node(&names);
    hasty.operational();
    hasty.signal("INT");
    assert_eq!(hasty.ended().code(), Some(3));
}

#[test]
fn m9_a_node_is_drained_by_asking_another_and_stays() {
    let scratch = Scratch::new("drain");
    let nodes = three(&scratch);
    let first = nodes[0].addr.to_string();
    let ask = |command: &str, more: &[&str]| {
        scratch.funk(&[&[command, "n2", "--connect", &first], more].concat())
    };
    let drained = ask("drain", &["--json"]).json().remove(0);
    let expected = serde_json::json!({ "node": "n2", "cordon": "drained", "shards": 0 });
    assert_eq!(drained, expected);
    let second = nodes[1].addr.to_string();
    let table = scratch.funk(&["status", "--connect", &second]).succeeds();
    let drained = |line: &str| line.starts_with("n2") && line.ends_with(" drained");
    assert!(table.lines().any(drained), "{table}");
    let text = ask("cordon", &[]).succeeds();
    assert!(text.contains("keeps its 0 shards"), "{text}");
    let cleared = ask("uncordon", &["--json"]).json().remove(0);
    assert_eq!(cleared["cordon"], Value::Null);
    scratch
        .funk(&["drain", "n9", "--connect", &first])
        .fails(1, &["no node n9", "funk status"]);
    let call = ["call", "--connect", &second, "--increment", "pears"];
    scratch.funk(&call).succeeds();
}

#[test]
fn one_name_is_one_process() {
    let scratch = Scratch::new("name");
    let mut nodes = three(&scratch);
    let all = connect(&nodes);
    let mut second = scratch.node(&["--name", "n1", "--listen", "127.0.0.1:0", "--join", &all]);
    let mut first = nodes.remove(0);
    first.event("superseded");
    assert_eq!(first.event("stopped")["reason"], "superseded");
    assert_eq!(first.ended().code(), Some(5));
    first.logs(&["a newer process runs as node `n1`", "--name of its own"]);
    second.operational();
    let rest = format!("{},{}", connect(&nodes), second.addr);
    let lines = scratch
        .funk(&[
            "call",
            "--connect",
            &rest,
            "--increment",
            "--deadline",
            "20",
            "--json",
            "a",
        ])
        .json();
    assert_eq!(lines[0]["outcome"], "ok");
}

#[test]
fn a_node_of_another_authority_is_refused_and_both_logs_say_why() {
    let scratch = Scratch::new("strangers");
    let dirs = ["ours", "theirs"].map(|dir| scratch.join(dir));
    for dir in &dirs {
        scratch.funk(&["ca", "init", dir]).succeeds();
        scratch
            .funk(&["ca", "issue", dir, "cli", "--client"])
            .succeeds();
    }
    scratch.funk(&["ca", "issue", &dirs[0], "n1"]).succeeds();
    scratch.funk(&["ca", "issue", &dirs[1], "n2"]).succeeds();
    let mut ours = scratch.node(&["--name", "n1", "--listen", "127.0.0.1:0", "--tls", &dirs[0]]);
    let addr = ours.addr.to_string();
    ours.operational();
    let listen = [
        "--name",
        "n2",
        "--listen",
        "127.0.0.1:0",
        "--join",
        &addr,
        "--tls",
        &dirs[1],
    ];
    let mut stranger = scratch.node(&listen);
    let stranger_addr = format!("addr={}", stranger.addr);
    ours.logs(&["connection refused", &stranger_addr, "another authority"]);
    stranger.logs(&[
        "connection refused",
        &addr,
        "another authority",
        "issue certificates",
    ]);
    let call = |dir: &str| {
        scratch.funk(&[
            "call",
            "--connect",
            &addr,
            "--tls",
            dir,
            "--deadline",
            "10",
            "a",
        ])
    };
    call(&dirs[1]).fails(1, &[&addr, "another authority"]);
    call(&dirs[0]).succeeds();
    let other = [
        "call",
        "--connect",
        &addr,
        "--tls",
        &dirs[0],
        "--cluster",
        "other",
        "a",
    ];
    scratch
        .funk(&other)
        .fails(1, &["wrong cluster", "`other`", "same cluster name"]);
}

#[test]
fn five_that_start_at_once_share_one_development_authority() {
    let scratch = Scratch::new("dev-ca");
    let addrs: [String; 5] = free();
    let join = addrs.join(",");
    let mut nodes: Vec<Node> = std::thread::scope(|scope| {
        let start = |n: usize| {
            let (scratch, join, listen) = (&scratch, &join, &addrs[n]);
            scope.spawn(move || {
                let name = format!("n{n}");
                let names = ["--name", &name, "--listen", listen];
                scratch.node(&[&names[..], &["--join", join, "--bootstrap-expect", "3"]].concat())
            })
        };
        let starting: Vec<_> = (0..5).map(start).collect();
        starting
            .into_iter()
            .map(|node| node.join().unwrap())
            .collect()
    });
    nodes.iter_mut().for_each(Node::operational);
    let names: Vec<_> = std::fs::read_dir(scratch.path().join("data/funk"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["dev-ca"], "what the slower ones made is gone");
    for node in &mut nodes {
        assert_eq!(node.log(), "");
    }
}
