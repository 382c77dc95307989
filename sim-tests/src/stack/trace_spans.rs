//! From when to when a node was what: the marks of a trace, joined into spans.

use std::collections::BTreeMap;
use std::time::Duration;

use funk::engine::{Event, NodeState, Role};
use funk::ids::{Epoch, ShardId};

use super::plan::Plan;
use super::record::Phase;
use super::trace::{Entry, Mark, Trace};

/// From one time to another something was the case.
#[derive(Clone, PartialEq, Debug)]
pub struct Span<T> {
    /// When it began.
    pub from: Duration,
    /// When it ended; never before it began.
    pub to: Duration,
    /// What was the case.
    pub is: T,
}

/// A shard was answered for, under a valid lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owned {
    /// By which node.
    pub node: usize,
    /// Under which token.
    pub epoch: Epoch,
}

/// One node's spans. Those of one kind do not overlap, and are in order.
#[derive(Clone, Debug, Default)]
pub struct NodeSpans {
    /// No power, or not started yet.
    pub down: Vec<Span<()>>,
    /// Its state.
    pub state: Vec<Span<NodeState>>,
    /// Its role.
    pub role: Vec<Span<Role>>,
    /// Its lease was valid, by its own clock.
    pub lease: Vec<Span<()>>,
    /// How many shards it answered for, if any.
    pub serving: Vec<Span<usize>>,
}

/// All spans of a run.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    /// By node.
    pub nodes: Vec<NodeSpans>,
    /// The hand-offs.
    pub phases: Vec<Span<Phase>>,
    /// Who answered for each shard while its lease was valid. Spans of one shard overlap if two did at once.
    pub shards: BTreeMap<ShardId, Vec<Span<Owned>>>,
    /// When the trace ends.
    pub end: Duration,
}

impl Spans {
    /// The spans of a plan's trace.
    pub fn new(plan: &Plan, trace: &Trace) -> Self {
        let end = trace.entries.iter().map(|entry| entry.at).max();
        let end = end.unwrap_or_default();
        let mut courses: Vec<Course> = plan
            .nodes
            .iter()
            .map(|node| Course::new(node.rate))
            .collect();
        let mut phase = Condition::default();
        for Entry { at, node, mark } in &trace.entries {
            if let Mark::Phase(next) = mark {
                phase.turn(*at, (*next != Phase::None).then_some(*next));
            }
            if let Some(course) = node.and_then(|node| courses.get_mut(node)) {
                course.mark(*at, mark);
            }
        }
        let mut shards: BTreeMap<ShardId, Vec<Span<Owned>>> = BTreeMap::new();
        let mut nodes = Vec::new();
        for (node, course) in courses.into_iter().enumerate() {
            let (spans, open) = course.end(end);
            for (shard, span) in open {
                let valid = spans.lease.iter().filter_map(|lease| {
                    let (from, to) = (lease.from.max(span.from), lease.to.min(span.to));
                    let owned = Owned {
                        node,
                        epoch: span.is,
                    };
                    (from < to).then_some(Span {
                        from,
                        to,
                        is: owned,
                    })
                });
                shards.entry(shard).or_default().extend(valid);
            }
            nodes.push(spans);
        }
        for owned in shards.values_mut() {
            owned.sort_by_key(|span| span.from);
        }
        Self {
            nodes,
            phases: phase.end(end),
            shards,
            end,
        }
    }

    /// The shards that two nodes answered for at once, with the times that they did.
    pub fn owned_twice(&self) -> BTreeMap<ShardId, Vec<Span<()>>> {
        let overlaps = |spans: &[Span<Owned>]| {
            let mut overlaps = Vec::new();
            for (at, first) in spans.iter().enumerate() {
                let later = spans[at + 1..].iter();
                for second in later.take_while(|second| second.from < first.to) {
                    if second.is.node != first.is.node {
                        let (from, to) = (second.from, first.to.min(second.to));
                        overlaps.push(Span { from, to, is: () });
                    }
                }
            }
            joined(overlaps)
        };
        let shards = self.shards.iter();
        shards
            .map(|(shard, spans)| (*shard, overlaps(spans)))
            .filter(|(_, spans)| !spans.is_empty())
            .collect()
    }

    /// How many shards were owned twice, over time.
    pub fn count_owned_twice(&self) -> Vec<Span<usize>> {
        let mut steps: BTreeMap<Duration, isize> = BTreeMap::new();
        for span in self.owned_twice().values().flatten() {
            *steps.entry(span.from).or_default() += 1;
            *steps.entry(span.to).or_default() -= 1;
        }
        let (mut condition, mut count) = (Condition::default(), 0);
        for (at, step) in steps {
            count += step;
            condition.turn(at, usize::try_from(count).ok().filter(|count| *count > 0));
        }
        condition.end(self.end)
    }
}

impl<T: Clone> Span<T> {
    /// The part within a window, if there is any.
    pub fn within(&self, window: Window) -> Option<Self> {
        let (from, to) = (self.from.max(window.from), self.to.min(window.to));
        let is = self.is.clone();
        (from < to).then_some(Self { from, to, is })
    }
}

/// The part of a run that is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Its beginning.
    pub from: Duration,
    /// Its end.
    pub to: Duration,
}

impl Window {
    /// So much of a trace before the first violation and what comes after it, or before the end if there is none; all
    /// of it if nothing is said.
    pub fn last(span: Option<Duration>, trace: &Trace) -> Self {
        let end = trace.entries.iter().map(|entry| entry.at).max();
        let end = end.unwrap_or_default();
        match span {
            None => Self {
                from: Duration::ZERO,
                to: end,
            },
            Some(span) => {
                let at = trace.violated_at().unwrap_or(end);
                Self {
                    from: at.saturating_sub(span),
                    to: end,
                }
            }
        }
    }

    /// Whether a time is in it.
    pub fn contains(&self, at: Duration) -> bool {
        (self.from..=self.to).contains(&at)
    }
}

/// Puts spans that may overlap into rows in which they do not: the number of each one's row.
pub fn rows<T>(spans: &[Span<T>]) -> Vec<usize> {
    let mut ends: Vec<Duration> = Vec::new();
    let row = |span: &Span<T>| {
        let free = ends.iter().position(|end| *end <= span.from);
        let row = free.unwrap_or(ends.len());
        if row == ends.len() {
            ends.push(span.to);
        }
        ends[row] = span.to;
        row
    };
    spans.iter().map(row).collect()
}

/// Something that is the case until it is not.
struct Condition<T> {
    now: Option<(Duration, T)>,
    spans: Vec<Span<T>>,
}

impl<T> Default for Condition<T> {
    fn default() -> Self {
        Self {
            now: None,
            spans: Vec::new(),
        }
    }
}

impl<T: PartialEq> Condition<T> {
    fn turn(&mut self, at: Duration, next: Option<T>) {
        if self.now.as_ref().map(|(_, is)| is) == next.as_ref() {
            return;
        }
        if let Some((from, is)) = self.now.take()
            && from < at
        {
            self.spans.push(Span { from, to: at, is });
        }
        self.now = next.map(|next| (at, next));
    }

    fn end(mut self, at: Duration) -> Vec<Span<T>> {
        self.turn(at, None);
        self.spans
    }
}

/// What becomes of one node.
struct Course {
    rate: f64,
    down: Condition<()>,
    state: Condition<NodeState>,
    role: Condition<Role>,
    lease: Condition<()>,
    /// When the lease lapses, in true time.
    lease_until: Duration,
    serving: Condition<usize>,
    open: BTreeMap<ShardId, (Duration, Epoch)>,
    opened: Vec<(ShardId, Span<Epoch>)>,
}

impl Course {
    fn new(rate: f64) -> Self {
        let mut down = Condition::default();
        down.turn(Duration::ZERO, Some(()));
        Self {
            rate,
            down,
            state: Condition::default(),
            role: Condition::default(),
            lease: Condition::default(),
            lease_until: Duration::ZERO,
            serving: Condition::default(),
            open: BTreeMap::new(),
            opened: Vec::new(),
        }
    }

    fn mark(&mut self, at: Duration, mark: &Mark) {
        match mark {
            Mark::Started => {
                self.stop(at);
                self.down.turn(at, None);
                self.state.turn(at, Some(NodeState::Starting));
                self.role.turn(at, Some(Role::Unknown));
            }
            Mark::Stopped(_) => {
                self.stop(at);
                self.down.turn(at, Some(()));
            }
            Mark::Event(event) => match **event {
                Event::StateChanged { to, .. } => self.state.turn(at, Some(to)),
                Event::RoleChanged { to, .. } => self.role.turn(at, Some(to)),
                Event::Superseded { .. } => self.lease(at, Duration::ZERO),
                _ => {}
            },
            Mark::Lease(span) => self.lease(at, *span),
            Mark::Serving(count) => {
                self.serving.turn(at, (*count > 0).then_some(*count));
            }
            Mark::Opened(shards) => {
                for &(shard, epoch) in shards {
                    self.close(at, shard);
                    self.open.insert(shard, (at, epoch));
                }
            }
            Mark::Closed(shards) => shards.iter().for_each(|&shard| self.close(at, shard)),
            _ => {}
        }
    }

    fn lease(&mut self, at: Duration, span: Duration) {
        // What lapsed by itself said nothing.
        self.lease.turn(at.min(self.lease_until), None);
        if !span.is_zero() {
            self.lease.turn(at, Some(()));
            self.lease_until = at + span.div_f64(self.rate);
        }
    }

    fn close(&mut self, at: Duration, shard: ShardId) {
        if let Some((from, is)) = self.open.remove(&shard) {
            self.opened.push((shard, Span { from, to: at, is }));
        }
    }

    /// Nothing of this run goes on.
    fn stop(&mut self, at: Duration) {
        self.state.turn(at, None);
        self.role.turn(at, None);
        self.lease(at, Duration::ZERO);
        self.serving.turn(at, None);
        while let Some((&shard, _)) = self.open.first_key_value() {
            self.close(at, shard);
        }
    }

    fn end(mut self, at: Duration) -> (NodeSpans, Vec<(ShardId, Span<Epoch>)>) {
        self.stop(at);
        let spans = NodeSpans {
            down: self.down.end(at),
            state: self.state.end(at),
            role: self.role.end(at),
            lease: joined(self.lease.end(at)),
            serving: self.serving.end(at),
        };
        (spans, self.opened)
    }
}

/// Spans of the same that follow each other without a gap become one.
fn joined(spans: Vec<Span<()>>) -> Vec<Span<()>> {
    let mut all: Vec<Span<()>> = Vec::new();
    for span in spans {
        match all.last_mut() {
            Some(last) if last.to >= span.from => last.to = span.to,
            _ => all.push(span),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn traced(marks: Vec<(u64, usize, Mark)>) -> Spans {
        let mut trace = Trace::default();
        for (at, node, mark) in marks {
            trace.add(ms(at), Some(node), mark);
        }
        Spans::new(&Plan::quiet(1, 2), &trace)
    }

    fn opened() -> Mark {
        Mark::Opened(vec![(ShardId(3), Epoch(7))])
    }

    #[test]
    fn a_lease_ends_when_it_lapses_although_nobody_says_so() {
        let lease = || Mark::Lease(ms(100));
        let spans = traced(vec![
            (0, 0, Mark::Started),
            (10, 0, lease()),
            (60, 0, lease()),
            (300, 0, lease()),
            (310, 0, Mark::Stopped(String::new())),
        ]);
        let lease: Vec<_> = spans.nodes[0]
            .lease
            .iter()
            .map(|span| (span.from, span.to))
            .collect();
        assert_eq!(lease, [(ms(10), ms(160)), (ms(300), ms(310))]);
    }

    #[test]
    fn a_shard_is_owned_twice_only_while_both_leases_are_valid() {
        let spans = traced(vec![
            (0, 0, Mark::Started),
            (0, 1, Mark::Started),
            (10, 0, Mark::Lease(ms(100))),
            (10, 0, opened()),
            (50, 1, opened()),
            (70, 1, Mark::Lease(ms(200))),
            (400, 1, Mark::Stopped(String::new())),
        ]);
        let twice = spans.owned_twice();
        let (from, to) = (ms(70), ms(110));
        assert_eq!(twice[&ShardId(3)], [Span { from, to, is: () }]);
        assert_eq!(spans.count_owned_twice(), [Span { from, to, is: 1 }]);
    }

    #[test]
    fn spans_in_a_row_do_not_overlap() {
        let span = |from, to| Span {
            from: ms(from),
            to: ms(to),
            is: (),
        };
        let spans = [
            span(0, 10),
            span(5, 7),
            span(6, 20),
            span(8, 9),
            span(10, 12),
        ];
        assert_eq!(rows(&spans), [0, 1, 2, 1, 0]);
    }
}
