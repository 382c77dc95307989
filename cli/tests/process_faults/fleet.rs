//! Nodes of one cluster as processes, and what they say about themselves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::arguments;
use crate::place::Place;
use crate::process::{PATIENCE, Process};

/// One node: a name, an address, and the process that runs under them now.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    process: Option<Process>,
}

/// The nodes of one cluster.
pub(crate) struct Fleet<'a> {
    place: &'a Place,
    nodes: Vec<Node>,
    tls: Option<PathBuf>,
    /// `None`: as many as the program has without being told.
    shards: Option<u32>,
    /// Whether each node has a data directory of its own.
    durable: bool,
}

impl<'a> Fleet<'a> {
    /// Nodes `n1`, `n2`, and so on. None runs yet. Without `tls` they use the development authority.
    pub(crate) fn new(place: &'a Place, size: usize, tls: Option<PathBuf>) -> Self {
        let nodes = (1..=size).map(|number| Node {
            name: format!("n{number}"),
            address: place.address(),
            process: None,
        });
        Self {
            place,
            nodes: nodes.collect(),
            tls,
            shards: None,
            durable: false,
        }
    }

    /// The same with data directories and so many shards.
    pub(crate) fn durable(self, shards: u32) -> Self {
        Self {
            shards: Some(shards),
            durable: true,
            ..self
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].address
    }

    /// All addresses, as `--join` and `--connect` take them.
    pub(crate) fn addresses(&self) -> String {
        let addresses: Vec<_> = self
            .nodes
            .iter()
            .map(|node| node.address.to_string())
            .collect();
        addresses.join(",")
    }

    /// Starts one more process that wants to be a node of this cluster.
    pub(crate) fn spawn(&self, name: &str, address: SocketAddr, tls: Option<&PathBuf>) -> Process {
        let mut arguments = arguments![
            "node",
            "--name",
            name,
            "--listen",
            address,
            "--join",
            self.addresses(),
            "--bootstrap-expect",
            self.len(),
            "--json",
        ];
        if let Some(tls) = tls {
            arguments.extend(arguments!["--tls", tls.display()]);
        }
        if let Some(shards) = self.shards {
            arguments.extend(arguments!["--shards", shards]);
        }
        if self.durable {
            let dir = self.place.folder().join(format!("disk-{name}"));
            arguments.extend(arguments!["--data-dir", dir.display()]);
        }
        Process::start(self.place, name, &arguments)
    }

    pub(crate) fn start(&mut self, node: usize) {
        let Node { name, address, .. } = &self.nodes[node];
        let process = self.spawn(name, *address, self.tls.as_ref());
        self.nodes[node].process = Some(process);
    }

    pub(crate) fn start_all(&mut self) {
        for node in 0..self.len() {
            self.start(node);
        }
    }

    pub(crate) fn process(&self, node: usize) -> &Process {
        let Node { name, process, .. } = &self.nodes[node];
        process
            .as_ref()
            .unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// The process of a node, which is no longer the fleet's.
    pub(crate) fn take(&mut self, node: usize) -> Process {
        let Node { name, process, .. } = &mut self.nodes[node];
        process
            .take()
            .unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// SIGKILL to all of these, one right after the other.
    pub(crate) fn kill(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.process(*node).signal(Signal::KILL);
        }
        for node in nodes {
            self.take(*node).kill();
        }
    }

    /// SIGTERM; returns when the node has left.
    pub(crate) fn leave(&mut self, node: usize) {
        let mut process = self.take(node);
        process.signal(Signal::TERM);
        let status = process.wait();
        assert!(
            status.success(),
            "a node that left: {status}\n{}",
            process.describe()
        );
    }

    /// Waits until the newest process of a node says that it is operational.
    pub(crate) fn wait_operational(&self, node: usize) {
        let process = self.process(node);
        let found = process.stdout.wait(0, PATIENCE, |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["event"] == "state_changed" && is(&event["to"], "operational")).then_some(())
        });
        assert!(
            found.is_some(),
            "{} did not become operational\n{}",
            self.name(node),
            self.describe()
        );
    }

    /// What a node says about itself; `None`: it did not answer.
    pub(crate) fn status(&self, node: usize) -> Option<Value> {
        status(self.place, self.address(node), self.tls.as_ref())
    }

    /// Asks a node until what it says is `wanted`.
    pub(crate) fn wait_status<T>(
        &self,
        node: usize,
        what: &str,
        mut wanted: impl FnMut(&Value) -> Option<T>,
    ) -> T {
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < until {
            // The time that the program takes to ask paces this.
            let status = self.status(node);
            if let Some(found) = status.as_ref().and_then(&mut wanted) {
                return found;
            }
            last = status.or(last);
        }
        panic!(
            "{} never said that {what}; at last it said {}\n{}",
            self.name(node),
            last.unwrap_or_default(),
            self.describe()
        );
    }

    /// The node that leads, as node `asked` sees it.
    pub(crate) fn leader(&self, asked: usize) -> usize {
        self.wait_status(asked, "somebody leads", |status| {
            let leader = status["leader"].as_str()?;
            self.nodes.iter().position(|node| node.name == leader)
        })
    }

    /// Waits until all nodes vote, are operational, and see all others alive, in one cluster; answers with its id.
    pub(crate) fn wait_whole(&self) -> String {
        let ids: Vec<_> = (0..self.len())
            .map(|node| {
                self.wait_operational(node);
                self.wait_status(node, "it votes and sees all alive", |status| {
                    self.whole(status)
                })
            })
            .collect();
        assert!(
            ids.iter().all(|id| *id == ids[0]),
            "more than one cluster: {ids:?}\n{}",
            self.describe()
        );
        ids[0].clone()
    }

    fn whole(&self, status: &Value) -> Option<String> {
        let members = status["members"].as_array()?;
        let alive = members
            .iter()
            .filter(|member| is(&member["state"], "alive"))
            .filter(|member| {
                self.nodes
                    .iter()
                    .any(|node| member["node"] == node.name.as_str())
            })
            .count();
        let votes = is(&status["role"], "leader") || is(&status["role"], "follower");
        let whole = alive == self.len() && votes && is(&status["state"], "operational");
        status["cluster_id"]
            .as_str()
            .filter(|_| whole)
            .map(str::to_owned)
    }

    /// What all of them printed last.
    pub(crate) fn describe(&self) -> String {
        let processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let texts: Vec<_> = processes.map(Process::describe).collect();
        texts.join("\n")
    }
}

/// Whether a word is meant, however it is capitalised.
pub(crate) fn is(value: &Value, word: &str) -> bool {
    value
        .as_str()
        .is_some_and(|found| found.eq_ignore_ascii_case(word))
}

/// What the node at an address says about itself; `None`: it did not answer.
pub(crate) fn status(place: &Place, address: SocketAddr, tls: Option<&PathBuf>) -> Option<Value> {
    let mut arguments = arguments!["status", "--connect", address, "--json"];
    if let Some(tls) = tls {
        arguments.extend(arguments!["--tls", tls.display()]);
    }
    let mut process = Process::start(place, "status", &arguments);
    if !process.wait().success() {
        return None;
    }
    let text = process.stdout.lines().join("\n");
    let status = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("a status that is no JSON ({error}): {text}"));
    Some(status)
}
