//! What users can get wrong: each error says what was wrong, with which value, and what to do.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::Scratch;

#[test]
fn every_command_has_examples_and_documents_its_exit_statuses() {
    let scratch = Scratch::new("help");
    for command in [
        "node", "call", "status", "cordon", "uncordon", "drain", "ca", "demo",
    ] {
        let help = scratch.funk(&[command, "--help"]).succeeds();
        for part in ["Usage:", "Examples:", "Exit status:"] {
            assert!(
                help.contains(part),
                "{part} is not in the help of {command}"
            );
        }
    }
}

#[test]
fn impossible_arguments_are_named_with_what_is_possible() {
    let scratch = Scratch::new("arguments");
    let at = ["--connect", "127.0.0.1:1"];
    let call = |more: &[&str]| scratch.funk(&[&["call"], &at[..], more].concat());
    let node = |more: &[&str]| scratch.funk(&[&["node"], more].concat());
    call(&["--count", "0", "k"]).fails(2, &["'0'", "--count"]);
    call(&["--rate", "0", "k"]).fails(2, &["'0'", "--rate", "above 0"]);
    call(&["--mix", "2", "k"]).fails(2, &["'2'", "--mix", "0 to 1"]);
    call(&["--mix", "0.5", "--get", "k"]).fails(2, &["--mix needs both", "not --get alone"]);
    call(&["--deadline", "x", "k"]).fails(2, &["'x'", "--deadline", "for example 2.5"]);
    call(&["--deadline", "0", "k"]).fails(2, &["--deadline 0", "give some seconds"]);
    call(&["--cluster", "A", "k"]).fails(2, &["'A'", "--cluster", "lower-case"]);
    call(&[]).fails(2, &["<KEY>"]);
    scratch
        .funk(&["call", "--connect", "127.0.0.1:1,localhost:7401", "k"])
        .fails(
            2,
            &[
                "'localhost:7401'",
                "an IP address and a port",
                "127.0.0.1:7401",
            ],
        );
    scratch
        .funk(&["status", "--connect", "127.0.0.1"])
        .fails(2, &["'127.0.0.1'", "an IP address and a port"]);
    node(&["--name", "N1", "--listen", "127.0.0.1:0"]).fails(2, &["'N1'", "lower-case"]);
    let listen = ["--name", "n1", "--listen", "127.0.0.1:0"];
    let node = |more: &[&str]| scratch.funk(&[&["node"], &listen[..], more].concat());
    node(&["--shards", "0"]).fails(2, &["'0'", "--shards", "1048576"]);
    node(&["--timing", "slow"]).fails(2, &["slow", "fast, lan, wan"]);
    node(&["--non-voting", "--non-member"]).fails(2, &["--non-member"]);
    node(&["--bootstrap-expect", "3"]).fails(2, &["--bootstrap-expect 3 needs --join"]);
}

#[test]
fn development_certificates_are_for_this_machine_only() {
    let scratch = Scratch::new("elsewhere");
    let next = ["loopback", "funk ca init DIR", "--tls DIR"];
    let refused = |arguments: &[&str], what: &str, issue: &str| {
        let ran = scratch.funk(arguments);
        ran.fails(2, &[&[what, issue], &next[..]].concat());
    };
    let issue = "funk ca issue DIR n1`";
    refused(
        &["node", "--name", "n1", "--listen", "0.0.0.0:0"],
        "--listen 0.0.0.0:0",
        issue,
    );
    refused(
        &[
            "node",
            "--name",
            "n1",
            "--listen",
            "127.0.0.1:0",
            "--join",
            "192.0.2.1:7401",
        ],
        "--join 192.0.2.1:7401",
        issue,
    );
    let issue = "funk ca issue DIR cli --client`";
    refused(
        &["call", "--connect", "127.0.0.1:1,192.0.2.1:7401", "k"],
        "--connect 192.0.2.1:7401",
        issue,
    );
    refused(
        &["status", "--connect", "[2001:db8::1]:7401"],
        "--connect [2001:db8::1]:7401",
        issue,
    );
    assert!(!scratch.path().join("data").exists(), "nothing was made");
}

#[test]
fn a_taken_port_has_a_status_of_its_own() {
    let scratch = Scratch::new("port");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let ran = scratch.funk(&["node", "--name", "n1", "--listen", &addr]);
    ran.fails(4, &[&addr, "in use", "choose another"]);
}

#[test]
fn where_nobody_answers_the_error_says_where_and_what_to_check() {
    let scratch = Scratch::new("nobody");
    // Taken, so that no node of another test is there, and silent.
    let silent = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let addrs = silent
        .each_ref()
        .map(|socket| socket.local_addr().unwrap().to_string());
    let both = addrs.join(",");
    let call = ["call", "--connect", &both, "--deadline", "1.5", "k"];
    let next = ["is a node running there", "cluster `funk`"];
    scratch
        .funk(&call)
        .fails(1, &[&addrs[0], &addrs[1], next[0], next[1]]);
    let status = ["status", "--connect", &addrs[0]];
    scratch.funk(&status).fails(1, &[&addrs[0], next[0]]);
    // Each call is told as JSON all the same.
    let ran = scratch.funk(&[&call[..], &["--json"]].concat());
    ran.fails(1, &[]);
    let lines: Vec<serde_json::Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["outcome"], "failed");
    assert_eq!(lines[0]["value"], serde_json::Value::Null);
    assert!(lines[0]["attempts"].as_u64().unwrap() >= 2);
    assert_eq!(lines[1]["summary"]["failed"], 1);
}

#[test]
fn an_authority_and_what_it_issues_are_secret_and_never_overwritten() {
    let scratch = Scratch::new("ca");
    let dir = scratch.join("certs");
    scratch
        .funk(&["ca", "issue", &dir, "n1"])
        .fails(1, &["certs/ca.key is not there", "funk ca init"]);
    scratch.funk(&["ca", "init", &dir]).succeeds();
    let before = std::fs::read(scratch.path().join("certs/ca.key")).unwrap();
    scratch
        .funk(&["ca", "init", &dir])
        .fails(1, &["certs/ca.pem exists", "--force"]);
    assert_eq!(
        std::fs::read(scratch.path().join("certs/ca.key")).unwrap(),
        before
    );
    scratch.funk(&["ca", "issue", &dir, "n1"]).succeeds();
    scratch
        .funk(&["ca", "issue", &dir, "cli", "--client"])
        .succeeds();
    scratch
        .funk(&["ca", "issue", &dir, "n1", "--client"])
        .fails(
            1,
            &["certs/n1.pem exists", "--force", "directories of their own"],
        );
    let mode = |path: &str| {
        let metadata = std::fs::metadata(scratch.path().join(path)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("certs"), 0o700);
    for file in ["ca.pem", "ca.key", "n1.pem", "n1.key", "cli.pem", "cli.key"] {
        assert_eq!(mode(&format!("certs/{file}")), 0o600, "{file}");
    }
    let old = std::fs::read(scratch.path().join("certs/n1.key")).unwrap();
    scratch
        .funk(&["ca", "issue", &dir, "n1", "--force"])
        .succeeds();
    assert_ne!(
        std::fs::read(scratch.path().join("certs/n1.key")).unwrap(),
        old
    );
    assert_eq!(mode("certs/n1.key"), 0o600);
    scratch
        .funk(&["ca", "issue", &dir, "N1"])
        .fails(2, &["'N1'", "lower-case"]);
}

#[test]
fn files_that_do_not_serve_are_named_with_the_way_out() {
    let scratch = Scratch::new("files");
    let dir = scratch.join("certs");
    scratch.funk(&["ca", "init", &dir]).succeeds();
    scratch.funk(&["ca", "issue", &dir, "n1"]).succeeds();
    scratch
        .funk(&["ca", "issue", &dir, "cli", "--client"])
        .succeeds();
    let node = |name: &str| {
        scratch.funk(&[
            "node",
            "--name",
            name,
            "--listen",
            "127.0.0.1:0",
            "--tls",
            &dir,
        ])
    };
    node("n2").fails(1, &["certs/n2.pem is not there", "funk ca issue DIR n2"]);
    node("cli").fails(
        1,
        &[
            "client `cli`",
            "node `cli` is needed",
            "funk ca issue DIR cli`",
        ],
    );
    let call = |name: &str| {
        let client = ["--tls", &dir, "--client", name];
        scratch.funk(&[&["call", "--connect", "127.0.0.1:1"], &client[..], &["k"]].concat())
    };
    call("n1").fails(1, &["node `n1`", "client `n1` is needed", "--client`"]);
    let key = scratch.path().join("certs/n1.key");
    let open = |mode| std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
    open(0o640);
    node("n1").fails(1, &["certs/n1.key", "mode 0640", "chmod 600"]);
    open(0o600);
    // The certificate of another authority, then one that is none.
    let other = scratch.join("other");
    scratch.funk(&["ca", "init", &other]).succeeds();
    scratch.funk(&["ca", "issue", &other, "n1"]).succeeds();
    for file in ["n1.pem", "n1.key"] {
        std::fs::copy(
            scratch.path().join("other").join(file),
            scratch.path().join("certs").join(file),
        )
        .unwrap();
    }
    node("n1").fails(1, &["certs/n1.pem", "another authority", "certs/ca.pem"]);
    std::fs::write(scratch.path().join("certs/n1.pem"), "hello").unwrap();
    node("n1").fails(1, &["certs/n1.pem", "BEGIN CERTIFICATE"]);
    std::fs::remove_file(scratch.path().join("certs/ca.pem")).unwrap();
    node("n1").fails(1, &["certs/ca.pem is not there"]);
}

#[test]
fn an_expired_certificate_is_refused_where_it_is_read() {
    use funk_quic::{Authority, PeerName, Validity};
    let scratch = Scratch::new("expired");
    let authority = Authority::new().unwrap();
    let n1 = PeerName::Node(funk::NodeId::new("n1").unwrap());
    let issued = authority
        .issue(&n1, Validity::days((2001, 1, 1), (2002, 1, 1)))
        .unwrap();
    let write = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("ca.pem", authority.certificate_pem());
    write("n1.pem", &issued.certificate_pem);
    write("n1.key", &issued.key_pem);
    let dir = scratch.join("");
    scratch
        .funk(&[
            "node",
            "--name",
            "n1",
            "--listen",
            "127.0.0.1:0",
            "--tls",
            &dir,
        ])
        .fails(1, &["n1.pem", "has expired", "issue one"]);
}
