//! The program as real processes, with a data directory of the test's own.
#![allow(
    clippy::disallowed_methods,
    reason = "a test beside the nodes, not inside one"
)]
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Ends what would hang; no test measures time.
const HANG: Duration = Duration::from_secs(60);

/// A directory that goes with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("funk-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_funk"));
        command
            .args(arguments)
            .env("XDG_DATA_HOME", self.0.join("data"))
            .env_remove("FUNK_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub fn funk(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// Starts a node and waits until it listens.
    pub fn node(&self, arguments: &[&str]) -> Node {
        self.node_by(&[], arguments)
    }

    /// The same, by way of a program that ends as `funk`.
    pub fn node_by(&self, way: &[&str], arguments: &[&str]) -> Node {
        let arguments = [&["node", "--json"], arguments].concat();
        let mut command = self.command(&arguments);
        if let Some((program, more)) = way.split_first() {
            let funk = std::mem::replace(&mut command, Command::new(program));
            command
                .args(more)
                .arg(funk.get_program())
                .args(funk.get_args());
            command.envs(
                funk.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
            command.env_remove("FUNK_LOG").stdin(Stdio::null());
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).expect(&line));
            }
        });
        let (sender, log) = mpsc::channel();
        let mut err = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            let mut chunk = [0; 4_096];
            while let Ok(read @ 1..) = err.read(&mut chunk) {
                let _ = sender.send(String::from_utf8_lossy(&chunk[..read]).into_owned());
            }
        });
        let mut node = Node {
            child,
            addr: ([127, 0, 0, 1], 0).into(),
            boot: String::new(),
            lines,
            log,
            logged: String::new(),
        };
        let listening = node.event("listening");
        node.addr = listening["addr"].as_str().unwrap().parse().unwrap();
        node.boot = listening["boot"].as_str().unwrap().to_owned();
        node
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a process came to.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Fails with this status, and says all of these on standard error.
    #[track_caller]
    pub fn fails(&self, status: i32, texts: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        for text in texts {
            assert!(self.err.contains(text), "{text:?} is not in {}", self.err);
        }
    }

    #[track_caller]
    pub fn succeeds(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.out
    }

    /// The lines of standard output.
    #[track_caller]
    pub fn json(self) -> Vec<Value> {
        let lines = self.succeeds();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// A node in a process. Killed when dropped.
pub struct Node {
    child: Child,
    pub addr: SocketAddr,
    pub boot: String,
    lines: mpsc::Receiver<Value>,
    log: mpsc::Receiver<String>,
    logged: String,
}

impl Node {
    /// The next event of this name; others before it are skipped.
    #[track_caller]
    pub fn event(&mut self, name: &str) -> Value {
        self.event_where(|event| event["event"] == name)
    }

    #[track_caller]
    pub fn event_where(&mut self, holds: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(HANG) {
                Ok(event) if holds(&event) => return event,
                Ok(event) => seen.push(event),
                Err(error) => panic!("{error}: {seen:#?}\n{}", self.log()),
            }
        }
    }

    #[track_caller]
    pub fn operational(&mut self) {
        self.event_where(|event| event["event"] == "state_changed" && event["to"] == "operational");
    }

    /// Everything on standard error so far.
    pub fn log(&mut self) -> &str {
        self.logged.extend(self.log.try_iter());
        &self.logged
    }

    /// Waits until one line of the log has all of these.
    #[track_caller]
    pub fn logs(&mut self, texts: &[&str]) {
        let begin = Instant::now();
        loop {
            let log = self.log();
            let all = |line: &str| texts.iter().all(|text| line.contains(text));
            if log.lines().any(all) {
                return;
            }
            assert!(begin.elapsed() < HANG, "no line with {texts:?} in\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal: TERM, STOP, ...
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < HANG, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
