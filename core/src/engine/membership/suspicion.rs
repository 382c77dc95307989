//! A suspect is told so, directly and at once, by everybody who suspects it.
//!
//! SWIM alone lets gossip carry the accusation and the denial; where packets are lost, either may come too late,
//! and a node that lives is called failed. (Lifeguard calls this its buddy system, and does it with ordinary probes.)

use foca::{Header, Message, State};

use super::Membership;
use super::packet::{Packet, SwimMessage};

/// How often a suspect is asked in a probe interval.
const QUESTIONS_A_PROBE: u32 = 2;
/// Suspects that are asked in one round.
const MAX_QUESTIONED: usize = 32;

impl Membership {
    /// A ping that carries the accusation: the answer carries the denial.
    pub(super) fn question_suspects(&mut self) {
        if self.next_question.is_none_or(|at| at > self.now) {
            return;
        }
        let suspects = self.swim.states();
        let mut suspects: Vec<_> = suspects
            .filter(|member| member.state() == State::Suspect)
            .cloned()
            .collect();
        suspects.sort_by(|a, b| a.id().cmp(b.id()));
        let again = self.now + self.timing.probe / QUESTIONS_A_PROBE;
        self.next_question = (!suspects.is_empty()).then_some(again);
        for suspect in suspects.into_iter().take(MAX_QUESTIONED) {
            let to = suspect.id().peer_addr();
            let question = Packet::Swim(Box::new(SwimMessage {
                header: Header {
                    src: self.swim.identity().clone(),
                    src_incarnation: 0,
                    dst: suspect.id().clone(),
                    message: Message::Ping(0),
                },
                members: vec![suspect],
            }));
            self.send(to, &question);
        }
    }
}
