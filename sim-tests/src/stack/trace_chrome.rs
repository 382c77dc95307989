//! A trace as the Perfetto viewer (<https://ui.perfetto.dev>) and Chrome read it: the JSON of Google's "Trace Event
//! Format". A process for each node, with a track each for its state, role, lease, what it serves, its events and its
//! messages; a process for the cluster, with hand-offs, faults and violations; a process for the shards.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::plan::{Fault, Plan};
use super::trace::{Entry, Mark, Short, Trace, phase_text};
use super::trace_messages::deliveries;
use super::trace_spans::{Span, Spans, Window, rows};

/// The process of the cluster; nodes come after it.
const CLUSTER: u32 = 1;
/// Number of the first node's process.
const FIRST_NODE: u32 = 2;
/// The process of the shards, below the nodes.
const SHARDS: u32 = 100;
/// Messages of one moment are drawn side by side, each this long at most, so that each has a slice of its own.
const MESSAGE_US: f64 = 10.0;
/// All messages of one moment together take no longer than this: a step of simulated time is longer.
const MESSAGES_US: f64 = 900.0;

// Tracks of the cluster.
const VIOLATIONS: u32 = 1;
const OWNED_TWICE: u32 = 2;
const PHASES: u32 = 3;
const FAULTS: u32 = 4;
// Tracks of a node.
const STATE: u32 = 1;
const ROLE: u32 = 2;
const LEASE: u32 = 3;
const SERVING: u32 = 4;
const EVENTS: u32 = 5;
const SENT: u32 = 6;
const RECEIVED: u32 = 7;

/// One event of the format.
#[derive(Serialize)]
struct TraceEvent {
    name: String,
    cat: &'static str,
    /// `X`: a span. `i`: a moment. `s` and `f`: an arrow's ends. `M`: a name of something.
    ph: &'static str,
    /// Microseconds.
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u32,
    tid: u32,
    /// How far a moment's line reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    /// Which arrow.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<usize>,
    /// An arrow ends at the slice around it, not at the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<&'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    args: BTreeMap<&'static str, serde_json::Value>,
}

/// Where an event is drawn: process and track.
type Track = (u32, u32);

/// Writes a window of a trace.
///
/// # Errors
///
/// Those of `out`.
pub fn write(plan: &Plan, trace: &Trace, window: Window, out: &mut dyn Write) -> io::Result<()> {
    let mut chrome = Chrome {
        window,
        names: BTreeMap::new(),
        events: Vec::new(),
    };
    chrome.name_tracks(plan);
    chrome.spans(&Spans::new(plan, trace));
    chrome.faults(trace);
    chrome.moments(trace);
    chrome.messages(trace);
    chrome.write(out)
}

struct Chrome {
    window: Window,
    /// By process, track and what is said of it.
    names: BTreeMap<(u32, u32, &'static str), TraceEvent>,
    events: Vec<TraceEvent>,
}

impl Chrome {
    fn name_tracks(&mut self, plan: &Plan) {
        self.name("process", (CLUSTER, 0), "cluster");
        self.name(
            "process",
            (SHARDS, 0),
            "shards, by owner under a valid lease",
        );
        self.name("thread", (CLUSTER, VIOLATIONS), "violations");
        self.name("thread", (CLUSTER, OWNED_TWICE), "shards owned twice");
        self.name("thread", (CLUSTER, PHASES), "hand-off");
        for at in 0..plan.nodes.len() {
            let pid = node_pid(at);
            let node = &plan.nodes[at];
            let votes = if node.votes { "" } else { ", no voter" };
            let what = format!(
                "n{}, clock {:+.1} %{votes}",
                at + 1,
                (node.rate - 1.0) * 100.0
            );
            self.name("process", (pid, 0), &what);
            let tracks = [
                (STATE, "state"),
                (ROLE, "role"),
                (LEASE, "lease"),
                (SERVING, "serving"),
                (EVENTS, "events"),
                (SENT, "sent"),
                (RECEIVED, "received"),
            ];
            for (tid, name) in tracks {
                self.name("thread", (pid, tid), name);
            }
        }
    }

    fn spans(&mut self, spans: &Spans) {
        for (at, node) in spans.nodes.iter().enumerate() {
            let pid = node_pid(at);
            self.all(&node.down, "state", (pid, STATE), |()| "down".to_owned());
            self.all(&node.state, "state", (pid, STATE), debug);
            self.all(&node.role, "role", (pid, ROLE), debug);
            self.all(&node.lease, "lease", (pid, LEASE), |()| "valid".to_owned());
            self.all(&node.serving, "serving", (pid, SERVING), |count| {
                format!("{count} shards")
            });
        }
        self.all(&spans.phases, "hand-off", (CLUSTER, PHASES), |phase| {
            phase_text(*phase).to_owned()
        });
        let twice = spans.count_owned_twice();
        self.all(&twice, "violation", (CLUSTER, OWNED_TWICE), |count| {
            format!("{count} shards owned twice")
        });
        let most = spans.nodes.len() as u32;
        for (shard, owned) in &spans.shards {
            for (span, row) in owned.iter().zip(rows(owned)) {
                // Each row has a track: a second one is there only if there were two owners at once.
                let tid = 1 + shard.0 * most + row as u32;
                let name = match row {
                    0 => format!("shard {shard}"),
                    _ => format!("shard {shard}, ANOTHER OWNER"),
                };
                self.name("thread", (SHARDS, tid), &name);
                let text = format!("n{} @{}", span.is.node + 1, span.is.epoch);
                self.span(span, "shard", (SHARDS, tid), text);
            }
        }
    }

    fn faults(&mut self, trace: &Trace) {
        let mut faults: Vec<Span<(Option<usize>, Fault)>> = Vec::new();
        for Entry { at, node, mark } in &trace.entries {
            if let Mark::Strike(fault) = mark {
                let to = *at + fault.lasts();
                let is = (*node, *fault);
                faults.push(Span { from: *at, to, is });
            }
        }
        for (span, row) in faults.iter().zip(rows(&faults)) {
            let (node, fault) = &span.is;
            let track = (CLUSTER, FAULTS + row as u32);
            self.name("thread", track, "faults");
            let text = match node {
                Some(at) => format!("n{}: {fault:?}", at + 1),
                None => debug(fault),
            };
            self.span(span, "fault", track, text);
        }
    }

    /// Everything that takes no time.
    fn moments(&mut self, trace: &Trace) {
        for Entry { at, node, mark } in &trace.entries {
            let (cat, tid) = match mark {
                Mark::Violation(_) => ("violation", VIOLATIONS),
                Mark::Strike(_) | Mark::Fault(_) => ("fault", FAULTS),
                Mark::Event(_) | Mark::Elected(_) | Mark::Started | Mark::Stopped(_) => {
                    ("event", 0)
                }
                _ => continue,
            };
            let (track, reach) = match node {
                Some(at) => ((node_pid(*at), EVENTS), "t"),
                None if tid == 0 => continue,
                None => ((CLUSTER, tid), "g"),
            };
            self.moment(*at, cat, track, reach, mark);
        }
    }

    fn messages(&mut self, trace: &Trace) {
        let slices = self.message_slices(trace);
        for (id, delivery) in deliveries(trace).into_iter().enumerate() {
            let ends = (slices.get(&delivery.sent), slices.get(&delivery.received));
            let (Some(&(sent, from)), Some(&(received, to))) = ends else {
                continue;
            };
            // Hosts take turns within a step: a message may be read before the sender's clock says that it was sent.
            if to < from {
                continue;
            }
            for (ph, track, ts, bp) in [("s", sent, from, None), ("f", received, to, Some("e"))] {
                let arrow = TraceEvent {
                    ph,
                    id: Some(id),
                    bp,
                    ..event("message", "message", track, ts)
                };
                self.events.push(arrow);
            }
        }
    }

    /// A slice for each message; by the number of its entry its track and time.
    fn message_slices(&mut self, trace: &Trace) -> BTreeMap<usize, (Track, f64)> {
        let mut moments: BTreeMap<(Track, Duration), Vec<(usize, String)>> = BTreeMap::new();
        for (number, Entry { at, node, mark }) in trace.entries.iter().enumerate() {
            let Some(pid) = node.map(node_pid).filter(|_| self.window.contains(*at)) else {
                continue;
            };
            let (tid, text) = match mark {
                Mark::Sent(to, message) => match &to.node {
                    Some(node) => (SENT, format!("to {node}: {}", Short(message))),
                    None => (SENT, format!("to {}: {}", to.addr, Short(message))),
                },
                Mark::Received(from, message) => {
                    (RECEIVED, format!("from {from}: {}", Short(message)))
                }
                _ => continue,
            };
            moments
                .entry(((pid, tid), *at))
                .or_default()
                .push((number, text));
        }
        let mut slices = BTreeMap::new();
        for ((track, at), messages) in moments {
            let dur = MESSAGE_US.min(MESSAGES_US / messages.len() as f64);
            for (place, (number, text)) in messages.into_iter().enumerate() {
                let ts = us(at) + dur * place as f64;
                slices.insert(number, (track, ts));
                let slice = TraceEvent {
                    ph: "X",
                    dur: Some(dur),
                    ..event(text, "message", track, ts)
                };
                self.events.push(slice);
            }
        }
        slices
    }

    fn all<T: Clone>(
        &mut self,
        spans: &[Span<T>],
        cat: &'static str,
        track: Track,
        text: impl Fn(&T) -> String,
    ) {
        for span in spans {
            self.span(span, cat, track, text(&span.is));
        }
    }

    fn span<T: Clone>(&mut self, span: &Span<T>, cat: &'static str, track: Track, text: String) {
        if let Some(span) = span.within(self.window) {
            let slice = TraceEvent {
                ph: "X",
                dur: Some(us(span.to - span.from)),
                ..event(text, cat, track, us(span.from))
            };
            self.events.push(slice);
        }
    }

    fn moment(
        &mut self,
        at: Duration,
        cat: &'static str,
        track: Track,
        reach: &'static str,
        text: &impl Display,
    ) {
        if self.window.contains(at) {
            let moment = TraceEvent {
                ph: "i",
                s: Some(reach),
                ..event(text.to_string(), cat, track, us(at))
            };
            self.events.push(moment);
        }
    }

    /// Names a process or a thread, and puts it in its place among the others.
    fn name(&mut self, what: &'static str, track: Track, name: &str) {
        let (kind, order, place) = match what {
            "process" => ("process_name", "process_sort_index", track.0),
            _ => ("thread_name", "thread_sort_index", track.1),
        };
        let mut add = |kind, key, value| {
            let named = TraceEvent {
                ph: "M",
                args: BTreeMap::from([(key, value)]),
                ..event(kind, "__metadata", track, 0.0)
            };
            self.names.insert((track.0, track.1, kind), named);
        };
        add(kind, "name", serde_json::Value::from(name));
        add(order, "sort_index", place.into());
    }

    fn write(mut self, out: &mut dyn Write) -> io::Result<()> {
        // Stable: an arrow's end stays behind the slice that it is drawn to.
        self.events.sort_by(|a, b| a.ts.total_cmp(&b.ts));
        writeln!(out, "{{\"displayTimeUnit\": \"ms\", \"traceEvents\": [")?;
        let all = self.names.values().chain(&self.events);
        for (number, event) in all.enumerate() {
            if number > 0 {
                writeln!(out, ",")?;
            }
            serde_json::to_writer(&mut *out, event)?;
        }
        writeln!(out, "\n]}}")
    }
}

fn event(name: impl Into<String>, cat: &'static str, (pid, tid): Track, ts: f64) -> TraceEvent {
    TraceEvent {
        name: name.into(),
        cat,
        ph: "",
        ts,
        dur: None,
        pid,
        tid,
        s: None,
        id: None,
        bp: None,
        args: BTreeMap::new(),
    }
}

fn node_pid(at: usize) -> u32 {
    FIRST_NODE + at as u32
}

fn us(at: Duration) -> f64 {
    at.as_nanos() as f64 / 1e3
}

fn debug(what: &impl Debug) -> String {
    format!("{what:?}")
}
