//! Nodes as processes with data directories: killed, all of them, and started again; and directories that are refused.

mod common;

use std::fs;
use std::net::UdpSocket;

use common::{Node, Scratch};
use serde_json::Value;

const INCREMENTS: u64 = 25;

/// Three addresses that were free a moment ago.
fn addresses() -> Vec<String> {
    let sockets: Vec<UdpSocket> = (0..3)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let addr = |socket: &UdpSocket| socket.local_addr().unwrap().to_string();
    sockets.iter().map(addr).collect()
}

fn arguments<'a>(name: &'a str, listen: &'a str, join: &'a str, dir: &'a str) -> Vec<&'a str> {
    let named = ["--name", name, "--listen", listen, "--join", join];
    let kept = [
        "--bootstrap-expect",
        "3",
        "--shards",
        "32",
        "--data-dir",
        dir,
    ];
    [&named[..], &kept[..]].concat()
}

#[test]
fn processes_that_are_all_killed_come_back_with_everything_that_was_acknowledged() {
    let scratch = Scratch::new("data-dir");
    let addrs = addresses();
    let join = addrs.join(",");
    let dirs: Vec<String> = (1..=3)
        .map(|n| scratch.join(&format!("disk-{n}")))
        .collect();
    let start = |n: usize| {
        let name = format!("n{}", n + 1);
        scratch.node(&arguments(&name, &addrs[n], &join, &dirs[n]))
    };
    let value = || -> u64 {
        let get = ["call", "--connect", &join, "--get", "apples", "--json"];
        scratch.funk(&get).json()[0]["value"].as_u64().unwrap()
    };
    let mut members = Vec::new();
    for round in 1..=3 {
        let mut nodes: Vec<Node> = (0..3).map(start).collect();
        nodes.iter_mut().for_each(Node::operational);
        if round > 1 {
            assert_eq!(value(), (round - 1) * INCREMENTS, "round {round}");
        }
        for _ in 0..INCREMENTS {
            let increment = ["call", "--connect", &join, "--increment", "apples"];
            scratch.funk(&increment).succeeds();
        }
        // A second process on one of the directories.
        let second = arguments("n1", "127.0.0.1:0", &join, &dirs[0]);
        let second = scratch.funk(&[&["node"], &second[..]].concat());
        second.fails(6, &["--data-dir", &dirs[0], "in use by another process"]);
        let busy = scratch.funk(&["inspect", "--data-dir", &dirs[0]]);
        busy.fails(6, &["in use by another process"]);
        for node in &nodes {
            node.signal("KILL");
        }
        for node in &mut nodes {
            node.ended();
        }
        drop(nodes);
        let inspect = |dir: &String| -> Value {
            let run = scratch.funk(&["inspect", "--data-dir", dir, "--json"]);
            run.json().remove(0)
        };
        let found: Vec<Value> = dirs.iter().map(inspect).collect();
        assert_eq!(found[1]["node"], "n2");
        assert!(
            found
                .iter()
                .all(|one| one["cluster_id"] == found[0]["cluster_id"])
        );
        let stores: Vec<Value> = found.iter().map(|one| one["store"].clone()).collect();
        let voters = found[0]["membership"]["voters"][0]
            .as_array()
            .unwrap()
            .len();
        assert_eq!(voters, 3);
        assert!(round == 1 || members == stores, "the same raft members");
        members = stores;
    }
}

#[test]
fn a_directory_that_is_damaged_or_somebody_elses_is_refused_and_says_what_to_do() {
    let scratch = Scratch::new("refused-dir");
    let dir = scratch.join("disk");
    let node = |name: &str, cluster: &str| {
        let arguments = [
            "node",
            "--name",
            name,
            "--listen",
            "127.0.0.1:0",
            "--shards",
            "8",
        ];
        let kept = ["--cluster", cluster, "--data-dir", &dir];
        [&arguments[..], &kept[..]]
            .concat()
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let run = |arguments: &[String]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        scratch.funk(&arguments)
    };
    scratch
        .funk(&["inspect", "--data-dir", &dir])
        .fails(1, &[&dir]);
    {
        let arguments = node("n1", "funk");
        let arguments: Vec<&str> = arguments[1..].iter().map(String::as_str).collect();
        let mut first = scratch.node(&arguments);
        first.operational();
        first.signal("KILL");
        first.ended();
    }
    run(&node("n2", "funk")).fails(6, &["--data-dir", "node `n1`, not to `n2`"]);
    run(&node("n1", "other")).fails(6, &["cluster `funk`, not to `other`"]);
    let text = scratch.funk(&["inspect", "--data-dir", &dir]).succeeds();
    assert!(text.contains("node         n1 of cluster `funk`"), "{text}");
    assert!(
        text.ends_with("Every byte is as it was written.\n"),
        "{text}"
    );
    let files = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path());
    let segment = files
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "log"));
    let segment = segment.unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[100] ^= 0x20;
    fs::write(&segment, bytes).unwrap();
    let place = segment.to_str().unwrap();
    run(&node("n1", "funk")).fails(6, &[place, "damaged at offset", "To rejoin"]);
    let inspected = scratch.funk(&["inspect", "--data-dir", &dir]);
    inspected.fails(6, &[place, "damaged at offset"]);
    // Without a disk there is nothing to keep.
    let both = [
        "node",
        "--name",
        "n1",
        "--listen",
        "127.0.0.1:0",
        "--non-member",
        "--data-dir",
        &dir,
    ];
    assert_eq!(scratch.funk(&both).status, Some(2));
}

#[test]
fn a_new_cluster_is_made_from_the_directory_of_the_only_node_that_is_left() {
    let scratch = Scratch::new("recover-dir");
    let addrs = addresses();
    let join = addrs.join(",");
    let dirs: Vec<String> = (1..=3)
        .map(|n| scratch.join(&format!("disk-{n}")))
        .collect();
    let start = |n: usize| {
        let name = format!("n{}", n + 1);
        scratch.node(&arguments(&name, &addrs[n], &join, &dirs[n]))
    };
    let mut nodes: Vec<Node> = (0..3).map(start).collect();
    nodes.iter_mut().for_each(Node::operational);
    let increment = ["call", "--connect", &join, "--increment", "apples"];
    for _ in 0..5 {
        scratch.funk(&increment).succeeds();
    }
    let recover = [
        "recover",
        "--data-dir",
        &dirs[0],
        "--force-new-cluster",
        "--yes",
    ];
    scratch
        .funk(&recover)
        .fails(6, &["in use by another process"]);
    for node in &mut nodes {
        node.signal("KILL");
        node.ended();
    }
    drop(nodes);
    scratch
        .funk(&recover[..4])
        .fails(2, &["add --yes if that is meant"]);
    assert_eq!(scratch.funk(&recover[..3]).status, Some(2));
    let text = scratch.funk(&recover).succeeds();
    assert!(text.contains("Node n1 is the only member"), "{text}");
    assert!(text.contains(".backup-"), "{text}");
    let mut first = start(0);
    first.operational();
    fs::remove_dir_all(&dirs[1]).unwrap();
    let mut second = start(1);
    second.operational();
    let text = scratch.funk(&increment).succeeds();
    assert!(text.starts_with("apples = 6  (owner n"), "{text}");
}
