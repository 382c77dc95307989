//! What makes two runs the same: the fingerprint of one, and where two part.

use std::fmt;
use std::str::FromStr;

use super::plan::Plan;
use super::trace::Trace;
use super::{Failure, Outcome, World, finish};

/// Everything about a run, in a few words. Two runs are the same if it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    /// Every message on the network: time, sender, receiver, length, over TCP the bytes too.
    pub messages: u64,
    /// Every event of every node, every message of an engine, every fault.
    pub events: u64,
    /// What the run came to, with all that was counted.
    pub verdict: u64,
}

impl Fingerprint {
    /// That of a run that was traced.
    pub fn new(world: &World, trace: &Trace, result: &Result<Outcome, Box<Failure>>) -> Self {
        Self {
            messages: world.sim.fingerprint(),
            events: trace.fingerprint(),
            verdict: super::trace::hash(result),
        }
    }

    /// Runs a plan for its fingerprint.
    pub fn of(plan: &Plan) -> Self {
        let mut world = World::new(plan.clone(), true);
        let result = finish(&mut world);
        let trace = world.take_trace().unwrap_or_default();
        Self::new(&world, &trace, &result)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            messages,
            events,
            verdict,
        } = self;
        write!(
            f,
            "messages {messages:016x} events {events:016x} verdict {verdict:016x}"
        )
    }
}

impl FromStr for Fingerprint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let hash = |text: &str| u64::from_str_radix(text, 16).map_err(|error| error.to_string());
        match words[..] {
            ["messages", messages, "events", events, "verdict", verdict] => Ok(Self {
                messages: hash(messages)?,
                events: hash(events)?,
                verdict: hash(verdict)?,
            }),
            _ => Err(format!("{text:?} is no fingerprint")),
        }
    }
}

/// The first line in which two logs differ: its number, from 1, and what each has there, if it has one.
pub fn first_difference<'a>(
    one: &'a str,
    other: &'a str,
) -> Option<(usize, Option<&'a str>, Option<&'a str>)> {
    let (mut ones, mut others) = (one.lines(), other.lines());
    let mut number = 0;
    loop {
        number += 1;
        match (ones.next(), others.next()) {
            (None, None) => return None,
            (one, other) if one != other => return Some((number, one, other)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_comes_back_from_its_text() {
        let fingerprint = Fingerprint {
            messages: 7,
            events: u64::MAX,
            verdict: 0x1234,
        };
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert!("messages 1 events".parse::<Fingerprint>().is_err());
    }

    #[test]
    fn logs_part_where_they_differ_and_where_one_ends() {
        assert_eq!(first_difference("a\nb", "a\nb\n"), None);
        assert_eq!(
            first_difference("a\nb", "a\nc"),
            Some((2, Some("b"), Some("c")))
        );
        assert_eq!(first_difference("a", "a\nc"), Some((2, None, Some("c"))));
    }
}
