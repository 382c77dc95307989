//! A node whose disk is full, or cannot be written to at all, on a real file system: a small one in a mount namespace of its
//! own. Where the machine does not allow that, the test says so and passes: core's tests have the same on a simulated
//! disk.
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
use std::time::{Duration, Instant};

use common::{Node, Ran, Scratch};
use serde_json::Value;

/// Ends what would hang.
const HANG: Duration = Duration::from_secs(60);

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

    /// From inside: makes it read-only, which binds root, too, or writable again.
    fn remount(&self, how: &str) {
        let mut command = Command::new("nsenter");
        let target = self.holder.id().to_string();
        let inside = ["--mount", "--target", &target, "mount", "-o"];
        let command = command.args(inside).args([how, &self.dir]);
        assert!(command.status().unwrap().success(), "{how}");
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

const SHARDS: u32 = 16;

/// Three nodes, the third of them on the small disk.
struct Three<'a> {
    scratch: &'a Scratch,
    small: &'a SmallDisk,
    addrs: Vec<String>,
}

impl<'a> Three<'a> {
    fn new(scratch: &'a Scratch, small: &'a SmallDisk) -> Self {
        let sockets: Vec<UdpSocket> = (0..3)
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let addr = |socket: &UdpSocket| socket.local_addr().unwrap().to_string();
        Self {
            scratch,
            small,
            addrs: sockets.iter().map(addr).collect(),
        }
    }

    fn arguments(&self, n: usize) -> Vec<String> {
        let dir = match n {
            2 => self.small.dir.clone(),
            _ => self.scratch.join(&format!("disk-{n}")),
        };
        let (name, shards) = (format!("n{}", n + 1), SHARDS.to_string());
        let (addr, join) = (&self.addrs[n], self.addrs.join(","));
        let named = ["--name", &name, "--listen", addr, "--join", &join];
        let expected = ["--bootstrap-expect", "3", "--shards", &shards];
        let all = [&named[..], &expected[..], &["--data-dir", &dir]].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    fn start(&self, n: usize) -> Node {
        let arguments = self.arguments(n);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let holder = self.small.holder.id().to_string();
        match n {
            2 => {
                let way = ["nsenter", "--mount", "--target", &holder];
                self.scratch.node_by(&way, &arguments)
            }
            _ => self.scratch.node(&arguments),
        }
    }

    /// Runs the third node until it ends by itself.
    fn third_fails(&self) -> Ran {
        let mut command = Command::new("nsenter");
        let holder = self.small.holder.id().to_string();
        command
            .args(["--mount", "--target", &holder])
            .args([env!("CARGO_BIN_EXE_funk"), "node"])
            .args(self.arguments(2))
            .env("XDG_DATA_HOME", self.scratch.join("data"))
            .stdin(Stdio::null());
        command.output().unwrap().into()
    }

    /// By way of the first two.
    fn increment(&self) {
        let others = self.addrs[..2].join(",");
        let once = ["--increment", "--idempotent", "apples"];
        let call = [&["call", "--connect", &others], &once[..]].concat();
        self.scratch.funk(&call).succeeds();
    }

    /// Waits until the third node has caught up: its own copy has this value.
    fn third_has(&self, value: u64) {
        let begin = Instant::now();
        let mut shards = (0..SHARDS).map(|shard| shard.to_string()).cycle();
        let mut seen = Value::Null;
        while seen["owner"] != "n3" || seen["value"] != value {
            assert!(begin.elapsed() < HANG, "{value} are there, but n3: {seen}");
            let shard = shards.next().unwrap();
            let of = ["--replica", &shard, "apples", "--json"];
            let call = [&["call", "--connect", &self.addrs[2]], &of[..]].concat();
            seen = self.scratch.funk(&call).json().remove(0);
        }
    }
}

/// 1 MiB; `None`, and said so: not on this machine.
fn small_disk(scratch: &Scratch) -> Option<SmallDisk> {
    let mounted = SmallDisk::mount(&scratch.join("small"));
    mounted
        .inspect_err(|why| {
            // Not by a macro, whose words are shown only if a test fails.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: no small file system for this test: {why}"
            );
        })
        .ok()
}

#[test]
fn a_node_on_a_full_disk_stops_the_others_go_on_and_it_comes_back() {
    let scratch = Scratch::new("disk-full");
    let Some(small) = small_disk(&scratch) else {
        return;
    };
    let three = Three::new(&scratch, &small);
    let mut nodes: Vec<Node> = (0..3).map(|n| three.start(n)).collect();
    nodes.iter_mut().for_each(Node::operational);
    three.increment();
    small.fill();
    // The file system's last page has room for some.
    for _ in 0..60 {
        three.increment();
    }
    let mut third = nodes.pop().unwrap();
    assert_eq!(third.event("stopped")["reason"], "failed");
    assert_eq!(third.ended().code(), Some(1));
    third.logs(&[
        "No space left on device",
        "make room on the disk, then start the node again",
    ]);
    three.increment();
    fs::remove_file(small.outside("filler")).unwrap();
    let mut third = three.start(2);
    third.operational();
    three.third_has(62);
}

#[test]
fn a_node_that_may_not_write_to_its_directory_does_not_start_until_it_may() {
    let scratch = Scratch::new("disk-read-only");
    let Some(small) = small_disk(&scratch) else {
        return;
    };
    let three = Three::new(&scratch, &small);
    let refused = || {
        let ran = three.third_fails();
        ran.fails(6, &["--data-dir", &small.dir, "Read-only file system"]);
    };
    // An empty one, and one of a node that was there before.
    small.remount("remount,ro");
    refused();
    small.remount("remount,rw");
    let mut nodes: Vec<Node> = (0..3).map(|n| three.start(n)).collect();
    nodes.iter_mut().for_each(Node::operational);
    three.increment();
    let mut third = nodes.pop().unwrap();
    third.signal("KILL");
    third.ended();
    small.remount("remount,ro");
    refused();
    three.increment();
    small.remount("remount,rw");
    let mut third = three.start(2);
    third.operational();
    three.third_has(2);
}
