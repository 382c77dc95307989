//! Rules B1 and B3, on engines that have no cluster yet.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use funk::engine::bootstrap::{BootstrapMessage, Invite, Refusal};
use funk::engine::{Engine, Input, Leadership, Message, Output};
use funk::ids::{BootId, ClusterId, RaftId, StoreId, Term};
use funk::time::Time;
use funk::transport::{Peer, PeerKind};

use super::bench::{CLUSTER, addr, candidate, instance, ms, raft_id};

const STEP: Duration = ms(10);

/// Candidates, all on one clock. What they say arrives at once, or never.
struct Candidates {
    now: Time,
    engines: BTreeMap<usize, Engine>,
    /// What was said: from, to, what.
    said: Vec<(usize, usize, Message)>,
}

/// Whether something arrives: from, to, what.
type Passes<'a> = &'a dyn Fn(usize, usize, &Message) -> bool;

impl Candidates {
    /// Starts one that forms a cluster with one more, and knows that one.
    fn start(&mut self, at: usize, other: usize) {
        self.engines.insert(at, candidate(at, other, self.now));
        self.input(at, Input::Tick, &|_, _, _| false);
    }

    fn input(&mut self, at: usize, input: Input, passes: Passes<'_>) {
        let mut inputs = VecDeque::from([(at, input)]);
        while let Some((at, input)) = inputs.pop_front() {
            let Some(engine) = self.engines.get_mut(&at) else {
                continue;
            };
            engine.handle_input(self.now, input);
            while let Some(output) = engine.poll_output() {
                let Output::Send { to, message } = output else {
                    continue;
                };
                let to = (0..3).find(|&other| addr(other) == to.addr).unwrap();
                if passes(at, to, &message) {
                    let (from, message) = (peer(at), message.clone());
                    inputs.push_back((to, Input::Message { from, message }));
                }
                self.said.push((at, to, message));
            }
        }
    }

    fn run(&mut self, span: Duration, passes: Passes<'_>) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + STEP;
            for at in self.engines.keys().copied().collect::<Vec<_>>() {
                self.input(at, Input::Tick, passes);
            }
        }
    }

    /// What n2 has last said of a set to this node: which set, and why not; `None`: it promised itself.
    fn answer_to(&self, to: usize) -> Option<(ClusterId, Option<Refusal>)> {
        let mut said = self.said.iter().rev();
        said.find_map(|(from, receiver, message)| match message {
            _ if (*from, *receiver) != (2, to) => None,
            Message::Bootstrap(BootstrapMessage::Promise { cluster }) => Some((*cluster, None)),
            Message::Bootstrap(BootstrapMessage::Refuse { cluster, reason }) => {
                Some((*cluster, Some(*reason)))
            }
            _ => None,
        })
    }
}

fn peer(at: usize) -> Peer {
    Peer {
        version: funk::versions::NEWEST,
        instance: instance(at, 1),
        kind: PeerKind::Node,
        addr: addr(at),
    }
}

/// n1's set has n2's promise, of which n1 may or may not have heard; then n0, who does not hear that n2 is held, invites it
/// too.
pub(super) fn b1_a_candidate_is_promised_to_one_set_at_a_time() {
    let mut candidates = Candidates {
        now: Time(1_000_000_000),
        engines: BTreeMap::new(),
        said: Vec::new(),
    };
    candidates.start(1, 2);
    candidates.start(2, 1);
    let without_promises = |_, _, message: &Message| {
        !matches!(
            message,
            Message::Bootstrap(BootstrapMessage::Promise { .. })
        )
    };
    candidates.run(ms(2_000), &without_promises);
    let first = candidates.answer_to(1);
    assert!(
        matches!(first, Some((_, None))),
        "n2 is promised to n1's set: {first:?}"
    );
    // n0 is there, and n1 falls silent; nobody misses it yet.
    candidates.start(0, 2);
    let gossip =
        |from, to, message: &Message| from != 1 && to != 1 && matches!(message, Message::Gossip(_));
    candidates.run(ms(300), &gossip);
    let invite = BootstrapMessage::Invite(Invite {
        cluster: CLUSTER,
        expect: 2,
        members: vec![raft_id(0), raft_id(2)],
        voters: 2,
        boot: BootId(1),
        addr: addr(2),
    });
    let (from, message) = (peer(0), Message::Bootstrap(invite));
    candidates.input(2, Input::Message { from, message }, &|_, _, _| false);
    assert_eq!(
        candidates.answer_to(0),
        Some((CLUSTER, Some(Refusal::Bound))),
        "what n2 says to n0's invitation"
    );
}

/// A cluster that came to nothing had terms of its own: they do not keep the next one from having a leader.
pub(super) fn b3_a_leader_of_what_came_to_nothing_leads_the_next_cluster() {
    let now = Time(1_000_000_000);
    let mut engine = candidate(0, 1, now);
    let mut lead = |cluster, term| {
        let id = RaftId {
            node: engine.config().instance.node.clone(),
            store: engine.config().store,
        };
        let elected = Leadership {
            term,
            leader: Some(id),
            is_leader: true,
        };
        let initialised = Input::Initialised {
            cluster,
            only_own: true,
        };
        for input in [initialised, Input::Leadership(elected)] {
            engine.handle_input(now, input);
        }
        let outputs: Vec<Output> = std::iter::from_fn(|| engine.poll_output()).collect();
        engine.handle_input(now, Input::StoreReplaced(StoreId(1_000)));
        outputs
    };
    let opens = |outputs: &[Output], term| {
        let is_opening =
            |output: &Output| matches!(output, Output::Propose { term: of, .. } if *of == term);
        outputs.iter().any(is_opening)
    };
    assert!(opens(&lead(ClusterId(1), Term(5)), Term(5)));
    assert!(
        opens(&lead(ClusterId(2), Term(1)), Term(1)),
        "term 5 was another cluster's"
    );
}
