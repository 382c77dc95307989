//! Rules that chance hardly ever puts to the test: each has a script that drives engines, or what the log applies to,
//! by hand to the one moment that matters.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use funk::engine::message::{Grant, Ping};
use funk::engine::{Engine, EngineConfig, Input, LeaseView, Message, Output, Tags};
use funk::ids::{
    BootId, ClusterId, ClusterName, Instance, LogIndex, MemberKind, NodeId, RaftId, StoreId, Term,
};
use funk::time::Time;
use funk::timing::Timing;
use funk::transport::{Peer, PeerKind};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::invariants::{Verdict, Violation};

mod grant_for_this_run;
mod leader_after_its_entry;
mod one_promise;
mod stale_entry;

/// A script.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// Plays it.
    pub play: fn() -> Verdict,
}

/// All of them.
pub const ALL: &[Rule] = &[
    Rule {
        name: "rule: grant for this run",
        play: grant_for_this_run::play,
    },
    Rule {
        name: "rule: leader after its entry",
        play: leader_after_its_entry::play,
    },
    Rule {
        name: "rule: one promise",
        play: one_promise::play,
    },
    Rule {
        name: "rule: stale entry",
        play: stale_entry::play,
    },
];

const CLUSTER: ClusterId = ClusterId(7);
const STEP: Duration = Duration::from_millis(10);

fn instance(number: u8, boot: u64) -> Instance {
    Instance {
        node: NodeId::new(&format!("n{number}")).expect("a letter and a digit are a name"),
        boot: BootId(boot),
    }
}

fn addr(number: u8) -> SocketAddr {
    (IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)), 7_000).into()
}

fn raft_id(number: u8) -> RaftId {
    RaftId {
        node: instance(number, 1).node,
        store: StoreId(u64::from(number)),
    }
}

fn violation<T>(rule: &'static str, what: &str) -> Result<T, Violation> {
    Err(Violation::new(rule, what))
}

/// A few engines, each with the world's clock; messages arrive within the step in which they were sent, or never.
struct Engines {
    now: Time,
    engines: BTreeMap<u8, Engine>,
    /// The last lease that each has shown.
    leases: BTreeMap<u8, LeaseView>,
    /// What was sent: from, to, what.
    sent: Vec<(u8, u8, Message)>,
}

impl Engines {
    fn new() -> Self {
        Self {
            now: Time::default() + Duration::from_secs(1_000),
            engines: BTreeMap::new(),
            leases: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    /// Starts a node that knows of the others by `seeds`.
    fn start(&mut self, number: u8, boot: u64, expect: u16, seeds: &[u8]) {
        let config = EngineConfig {
            cluster: ClusterName::new("rules").expect("a lower-case name"),
            instance: instance(number, boot),
            addr: addr(number),
            store: raft_id(number).store,
            kind: MemberKind::Voter,
            seeds: seeds.iter().map(|seed| addr(*seed)).collect(),
            bootstrap_expect: expect,
            shards: 4,
            voters: 3,
            timing: Timing::lan(),
            tags: Tags::default(),
        };
        let rng = ChaCha8Rng::seed_from_u64(u64::from(number));
        self.engines
            .insert(number, Engine::new(config, rng, self.now));
        self.input(number, Input::Tick, &|_, _, _| false);
    }

    /// Gives a node an input; what it sends arrives where `passes` (from, to, what) says so, and so on.
    fn input(&mut self, number: u8, input: Input, passes: &dyn Fn(u8, u8, &Message) -> bool) {
        let mut inputs = VecDeque::from([(number, input)]);
        while let Some((at, input)) = inputs.pop_front() {
            let Some(engine) = self.engines.get_mut(&at) else {
                continue;
            };
            engine.handle_input(self.now, input);
            while let Some(output) = engine.poll_output() {
                match output {
                    Output::Lease(lease) => {
                        self.leases.insert(at, lease);
                    }
                    Output::Send { to, message } => {
                        let Some(to) = (1..=9).find(|number| addr(*number) == to.addr) else {
                            continue;
                        };
                        if passes(at, to, &message) {
                            let from = Peer {
                                instance: engine.config().instance.clone(),
                                kind: PeerKind::Node,
                                addr: addr(at),
                            };
                            let message = message.clone();
                            inputs.push_back((to, Input::Message { from, message }));
                        }
                        self.sent.push((at, to, message));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Lets time pass.
    fn run(&mut self, span: Duration, passes: &dyn Fn(u8, u8, &Message) -> bool) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + STEP;
            for number in self.engines.keys().copied().collect::<Vec<_>>() {
                self.input(number, Input::Tick, passes);
            }
        }
    }

    fn has_lease(&self, number: u8) -> bool {
        let lease = self.leases.get(&number);
        lease.is_some_and(|lease| self.now < lease.until)
    }
}

/// Nothing arrives.
fn nothing(_: u8, _: u8, _: &Message) -> bool {
    false
}

/// A ping with a grant, asked for at this moment, under no map.
fn ping(term: u64, boot: u64, stamp: Time) -> Message {
    Message::Ping(Ping {
        cluster: CLUSTER,
        term: Term(term),
        boot: BootId(boot),
        grant: Some(Grant {
            stamp,
            map: LogIndex(0),
        }),
        dismissed: false,
    })
}

fn peer(number: u8) -> Peer {
    Peer {
        instance: instance(number, 1),
        kind: PeerKind::Node,
        addr: addr(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_holds() {
        for rule in ALL {
            assert_eq!((rule.play)(), Ok(()), "{}", rule.name);
        }
    }
}
