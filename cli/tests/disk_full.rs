//! A node whose disk is full, on a real file system: a small one in a mount namespace of its own. Where the machine does
//! not allow that, the test says so and passes: core's tests have the same on a simulated disk.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test beside the nodes, not inside one"
)]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};

use common::{Node, Scratch};

/// Keeps a mount namespace with a small file system in it.
struct SmallDisk {
    holder: Child,
    dir: String,
}

impl SmallDisk {
    /// 1 MiB at `dir`; or why there is none.
    fn mount(dir: &str) -> Result<Self, String> {
        fs::create_dir(dir).map_err(|error| error.to_string())?;
        let script = "mount -t tmpfs -o size=1m funk \"$1\" && echo mounted && exec sleep 600";
        let mut command = Command::new("unshare");
        let command = command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
            dir,
        ]);
        let spawned = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut holder = spawned.map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        let out = holder.stdout.take().expect("piped");
        let read = BufReader::new(out).read_line(&mut line);
        let dir = dir.to_owned();
        let disk = Self { holder, dir };
        match read {
            Ok(_) if line == "mounted\n" => Ok(disk),
            _ => Err("a tmpfs cannot be mounted in a namespace of its own".to_owned()),
        }
    }

    /// Where a file of it is, from outside.
    fn outside(&self, name: &str) -> String {
        format!("/proc/{}/root{}/{name}", self.holder.id(), self.dir)
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut filler = File::create(self.outside("filler")).unwrap();
        while filler.write_all(&[1; 4_096]).is_ok() {}
        while filler.write_all(&[1]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn a_node_on_a_full_disk_stops_the_others_go_on_and_it_comes_back() {
    let scratch = Scratch::new("disk-full");
    let small = match SmallDisk::mount(&scratch.join("small")) {
        Ok(small) => small,
        Err(why) => {
            eprintln!("SKIPPED: no small file system for this test: {why}");
            return;
        }
    };
    let sockets: Vec<UdpSocket> = (0..3)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let addrs: Vec<String> = sockets
        .iter()
        .map(|s| s.local_addr().unwrap().to_string())
        .collect();
    drop(sockets);
    let join = addrs.join(",");
    let holder = small.holder.id().to_string();
    let start = |n: usize| -> Node {
        let (name, dir) = (format!("n{}", n + 1), scratch.join(&format!("disk-{n}")));
        let named = ["--name", &name, "--listen", &addrs[n], "--join", &join];
        let expected = ["--bootstrap-expect", "3", "--shards", "16", "--data-dir"];
        let arguments = |dir| [&named[..], &expected[..], &[dir]].concat();
        match n {
            2 => scratch.node_by(
                &["nsenter", "--mount", "--target", &holder],
                &arguments(&small.dir),
            ),
            _ => scratch.node(&arguments(&dir)),
        }
    };
    let mut nodes: Vec<Node> = (0..3).map(start).collect();
    nodes.iter_mut().for_each(Node::operational);
    let others = addrs[..2].join(",");
    let mut done = 0;
    let mut increment = || {
        let call = [
            "call",
            "--connect",
            &others,
            "--increment",
            "--idempotent",
            "apples",
        ];
        scratch.funk(&call).succeeds();
        done += 1;
    };
    increment();
    small.fill();
    // The file system's last page has room for some.
    for _ in 0..60 {
        increment();
    }
    let mut third = nodes.pop().unwrap();
    assert_eq!(third.event("stopped")["reason"], "failed");
    assert_eq!(third.ended().code(), Some(1));
    third.logs(&[
        "No space left on device",
        "make room on the disk, then start the node again",
    ]);
    increment();
    fs::remove_file(small.outside("filler")).unwrap();
    let mut third = start(2);
    third.operational();
    let value = || {
        let get = ["call", "--connect", &addrs[2], "--get", "apples", "--json"];
        scratch.funk(&get).json()[0]["value"].as_u64().unwrap()
    };
    assert_eq!(value(), done);
}
