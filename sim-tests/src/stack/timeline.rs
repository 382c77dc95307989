//! A picture of a run, as SVG: a lane for each node, time from left to right, the violation in red.

use std::fmt::Write;
use std::time::Duration;

use funk::engine::{NodeState, Role};
use funk::ids::ShardId;

use super::plan::{Fault, Plan};
use super::record::Phase;
use super::trace::{Entry, Mark, Trace, phase_text};
use super::trace_spans::{NodeSpans, Span, Spans, Window, rows};

/// Width of the picture, in pixels.
const WIDTH: f64 = 1_200.0;
/// Where the lanes begin; the names of the nodes stand before it.
const LEFT: f64 = 62.0;
/// Where they end.
const RIGHT: f64 = WIDTH - 24.0;
/// Height of the title and the legend.
const HEAD: f64 = 92.0;
/// Height of the lane of the cluster.
const CLUSTER: f64 = 40.0;
/// Height of a node's lane.
const LANE: f64 = 74.0;
/// Height of a shard's lane.
const SHARD: f64 = 30.0;
/// Height of the time axis.
const AXIS: f64 = 34.0;
/// Most shards owned twice that are drawn; the others are counted.
const MOST_SHARDS: usize = 6;
/// Longest text of a violation in one line.
const LINE: usize = 170;
/// Mean width of a letter of the labels.
const LETTER: f64 = 5.6;

const RED: &str = "#d50000";
const FAULT: &str = "#7b1fa2";
const LEASE: &str = "#00838f";
const SERVING: &str = "#90a4ae";
const DOWN: &str = "#455a64";

const OWNERS: [&str; 9] = [
    "#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22",
    "#7f7f7f",
];

/// The picture of a window of a trace.
pub fn svg(plan: &Plan, trace: &Trace, window: Window, title: &str) -> String {
    let spans = Spans::new(plan, trace);
    let twice = spans.owned_twice();
    let seen = twice
        .iter()
        .filter(|(_, times)| times.iter().any(|time| time.within(window).is_some()));
    let twice: Vec<ShardId> = seen.map(|(shard, _)| *shard).collect();
    let shown = twice.len().min(MOST_SHARDS);
    let shards = match twice.len() {
        0 => 0.0,
        _ => 22.0 + SHARD * shown as f64,
    };
    let lanes = HEAD + CLUSTER;
    let bottom = lanes + LANE * plan.nodes.len() as f64 + shards;
    let served = spans.nodes.iter().flat_map(|node| &node.serving);
    let served = served.filter_map(|span| Some(span.within(window)?.is));
    let mut picture = Picture {
        out: String::new(),
        window,
        bottom,
        most_served: served.max().unwrap_or_default(),
    };
    picture.begin(bottom + AXIS);
    picture.head(title);
    picture.axis();
    picture.cluster(&spans, trace);
    for (at, node) in spans.nodes.iter().enumerate() {
        picture.node(at, node, plan, trace, lanes + LANE * at as f64);
    }
    if !twice.is_empty() {
        let top = lanes + LANE * plan.nodes.len() as f64;
        picture.twice(&spans, &twice, shown, top);
    }
    picture.violations(trace);
    picture.out += "</svg>\n";
    picture.out
}

struct Picture {
    out: String,
    window: Window,
    bottom: f64,
    /// The most shards that a node serves at any time.
    most_served: usize,
}

impl Picture {
    fn begin(&mut self, height: f64) {
        let _ = writeln!(
            self.out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, Arial, sans-serif" font-size="11">
<rect width="{WIDTH}" height="{height}" fill="white"/>"#
        );
    }

    fn head(&mut self, title: &str) {
        self.text(12.0, 20.0, title, "font-size=\"14\" font-weight=\"bold\"");
        let states = [
            NodeState::Operational,
            NodeState::Resharding,
            NodeState::Voting,
            NodeState::Joining,
            NodeState::Stopping,
        ];
        let mut x = 12.0;
        self.text(x, 40.0, "state", "fill=\"#555\"");
        x += 42.0;
        for state in states {
            x = self.key(x, 31.0, state_colour(state), &format!("{state:?}"));
        }
        x = self.key(x, 31.0, DOWN, "down");
        x += 14.0;
        self.text(x, 40.0, "role", "fill=\"#555\"");
        x += 32.0;
        for role in [Role::Leader, Role::Follower, Role::NonVoter] {
            x = self.key(x, 31.0, role_colour(role), &format!("{role:?}"));
        }
        x += 14.0;
        x = self.key(x, 31.0, LEASE, "lease valid");
        self.key(x, 31.0, SERVING, "shards served");
        let mut x = 12.0;
        self.text(x, 58.0, "hand-off", "fill=\"#555\"");
        x += 54.0;
        let phases = [
            Phase::Proposed,
            Phase::Draining(0),
            Phase::Draining(1),
            Phase::Deciding,
            Phase::InForce,
        ];
        for phase in phases {
            x = self.key(x, 49.0, phase_colour(phase), phase_text(phase));
        }
        x += 14.0;
        x = self.key(x, 49.0, FAULT, "fault");
        self.key(x, 49.0, RED, "violation");
    }

    /// An entry of the legend; where the next one begins.
    fn key(&mut self, x: f64, y: f64, colour: &str, text: &str) -> f64 {
        let _ = writeln!(
            self.out,
            r#"<rect x="{x}" y="{y}" width="10" height="10" fill="{colour}"/>"#
        );
        self.text(x + 14.0, y + 9.0, text, "");
        x + 14.0 + text.chars().count() as f64 * 6.0 + 14.0
    }

    fn axis(&mut self) {
        let span = (self.window.to - self.window.from).as_secs_f64().max(1e-6);
        let step = step(span / 10.0);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let first = (self.window.from.as_secs_f64() / step).ceil() as u64;
        let last = (self.window.to.as_secs_f64() / step).floor() as u64;
        let (top, bottom) = (HEAD, self.bottom);
        for number in first..=last {
            let at = number as f64 * step;
            let x = self.x(Duration::from_secs_f64(at));
            let _ = writeln!(
                self.out,
                r##"<line x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{:.1}" stroke="#e0e0e0"/>"##,
                bottom + 4.0
            );
            let text = format!("{at:.decimals$} s");
            self.text(
                x,
                bottom + 17.0,
                &text,
                "text-anchor=\"middle\" fill=\"#333\"",
            );
        }
        let _ = writeln!(
            self.out,
            r##"<line x1="{LEFT}" y1="{bottom}" x2="{RIGHT}" y2="{bottom}" stroke="#333"/>"##
        );
    }

    fn cluster(&mut self, spans: &Spans, trace: &Trace) {
        let y = HEAD;
        self.text(12.0, y + 13.0, "cluster", "font-weight=\"bold\"");
        for span in &spans.phases {
            self.bar(
                span,
                y + 3.0,
                12.0,
                phase_colour(span.is),
                phase_text(span.is),
            );
        }
        self.faults(trace, None, y, CLUSTER - 4.0, y + 31.0);
    }

    fn node(&mut self, at: usize, node: &NodeSpans, plan: &Plan, trace: &Trace, y: f64) {
        let _ = writeln!(
            self.out,
            r##"<line x1="12" y1="{y}" x2="{RIGHT}" y2="{y}" stroke="#bdbdbd"/>"##
        );
        let name = format!("n{}", at + 1);
        self.text(
            12.0,
            y + 19.0,
            &name,
            "font-size=\"14\" font-weight=\"bold\"",
        );
        let rate = (plan.nodes[at].rate - 1.0) * 100.0;
        if rate != 0.0 {
            let text = format!("{rate:+.1} %");
            self.text(12.0, y + 33.0, &text, "font-size=\"9\" fill=\"#555\"");
        }
        if !plan.nodes[at].votes {
            self.text(12.0, y + 45.0, "no vote", "font-size=\"9\" fill=\"#555\"");
        }
        for span in &node.state {
            self.bar(
                span,
                y + 5.0,
                13.0,
                state_colour(span.is),
                &format!("{:?}", span.is),
            );
        }
        for span in &node.down {
            self.bar(span, y + 5.0, 13.0, DOWN, "down");
        }
        for span in &node.role {
            self.bar(
                span,
                y + 20.0,
                5.0,
                role_colour(span.is),
                &format!("{:?}", span.is),
            );
        }
        for span in &node.lease {
            self.bar(span, y + 28.0, 4.0, LEASE, "lease valid");
        }
        for span in &node.serving {
            // The more shards the higher, and a single one is seen too.
            let height = 3.0 + 19.0 * (span.is as f64 / self.most_served.max(1) as f64).min(1.0);
            let text = format!("{} shards", span.is);
            self.bar(span, y + 57.0 - height, height, SERVING, &text);
            let Some(seen) = span.within(self.window) else {
                continue;
            };
            let (from, to) = (self.x(seen.from), self.x(seen.to));
            let count = span.is.to_string();
            if to - from > count.len() as f64 * LETTER + 6.0 {
                let x = f64::midpoint(from, to);
                self.text(
                    x,
                    y + 55.0,
                    &count,
                    "text-anchor=\"middle\" font-size=\"10\"",
                );
            }
        }
        self.faults(trace, Some(at), y + 1.0, LANE - 3.0, y + 69.0);
    }

    /// The faults of one node, or those that strike no single one.
    fn faults(&mut self, trace: &Trace, of: Option<usize>, top: f64, height: f64, label_y: f64) {
        let mut free_from = 0.0;
        for Entry { at, node, mark } in &trace.entries {
            let (text, whole, lasts) = match mark {
                Mark::Strike(fault) => (short(fault), format!("{fault:?}"), fault.lasts()),
                Mark::Fault(text) => (text.clone(), text.clone(), Duration::ZERO),
                _ => continue,
            };
            if *node != of {
                continue;
            }
            let (from, to) = (*at, *at + lasts);
            if let Some(seen) = (Span { from, to, is: () }).within(self.window) {
                let (from, to) = (self.x(seen.from), self.x(seen.to));
                let _ = writeln!(
                    self.out,
                    r#"<rect x="{from:.1}" y="{top}" width="{:.1}" height="{height}" fill="{FAULT}" fill-opacity="0.10"/>"#,
                    to - from
                );
            }
            if !self.window.contains(*at) {
                continue;
            }
            let x = self.x(*at);
            let _ = writeln!(
                self.out,
                r#"<line x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{:.1}" stroke="{FAULT}" stroke-width="1.5"><title>{} at {at:?}</title></line>"#,
                top + height,
                escaped(&whole)
            );
            // A label that would cover another is left out; the line has its text for the mouse.
            let width = text.chars().count() as f64 * LETTER;
            let start = (x + 3.0).min(RIGHT - width);
            if start >= free_from {
                free_from = start + width + 8.0;
                self.text(
                    start,
                    label_y,
                    &text,
                    &format!("font-size=\"10\" fill=\"{FAULT}\""),
                );
            }
        }
    }

    fn twice(&mut self, spans: &Spans, twice: &[ShardId], shown: usize, top: f64) {
        let _ = writeln!(
            self.out,
            r##"<line x1="12" y1="{top}" x2="{RIGHT}" y2="{top}" stroke="#bdbdbd"/>"##
        );
        let mut text = format!(
            "shards with two owners at once, each under a valid lease: {}",
            twice.len()
        );
        if shown < twice.len() {
            let _ = write!(text, "; {shown} of them:");
        }
        let style = format!("font-weight=\"bold\" fill=\"{RED}\"");
        self.text(12.0, top + 15.0, &text, &style);
        for (place, shard) in twice.iter().take(shown).enumerate() {
            let y = top + 22.0 + SHARD * place as f64;
            self.text(
                12.0,
                y + 14.0,
                &format!("shard {shard}"),
                "font-size=\"10\"",
            );
            let owned = &spans.shards[shard];
            for (span, row) in owned.iter().zip(rows(owned)) {
                let text = format!("n{} @{}", span.is.node + 1, span.is.epoch);
                let colour = OWNERS[span.is.node % OWNERS.len()];
                let y = y + 13.0 * (row.min(1) as f64);
                self.bar(span, y, 12.0, colour, &text);
                let Some(seen) = span.within(self.window) else {
                    continue;
                };
                let (from, to) = (self.x(seen.from), self.x(seen.to));
                if to - from > text.len() as f64 * LETTER + 4.0 {
                    self.text(
                        from + 3.0,
                        y + 10.0,
                        &text,
                        "font-size=\"10\" fill=\"white\"",
                    );
                }
            }
        }
    }

    fn violations(&mut self, trace: &Trace) {
        let (mut label_y, mut is_first) = (74.0, true);
        for Entry { at, mark, .. } in &trace.entries {
            let Mark::Violation(text) = mark else {
                continue;
            };
            if !self.window.contains(*at) {
                continue;
            }
            // The first one counts; what follows is said, but would only hide what there is to see.
            if std::mem::take(&mut is_first) {
                let x = self.x(*at);
                let _ = writeln!(
                    self.out,
                    r#"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{:.1}" stroke="{RED}" stroke-width="2"/>"#,
                    HEAD - 6.0,
                    self.bottom
                );
            }
            if label_y > HEAD {
                continue;
            }
            let mut text = format!("{:.3} s: {text}", at.as_secs_f64());
            if text.chars().count() > LINE {
                text = text.chars().take(LINE).chain(['…']).collect();
            }
            let style = format!("fill=\"{RED}\" font-weight=\"bold\"");
            self.text(12.0, label_y, &text, &style);
            label_y += 13.0;
        }
    }

    fn bar<T: Clone>(&mut self, span: &Span<T>, y: f64, height: f64, colour: &str, text: &str) {
        let Some(seen) = span.within(self.window) else {
            return;
        };
        let (from, to) = (self.x(seen.from), self.x(seen.to));
        // What is shorter than a pixel is seen all the same.
        let width = (to - from).max(0.4);
        let _ = writeln!(
            self.out,
            r#"<rect x="{from:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"><title>{}, {:?} to {:?}</title></rect>"#,
            escaped(text),
            span.from,
            span.to
        );
    }

    fn text(&mut self, x: f64, y: f64, text: &str, style: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.out,
            r#"<text x="{x:.1}" y="{y:.1}" {style}>{text}</text>"#
        );
    }

    fn x(&self, at: Duration) -> f64 {
        let span = (self.window.to - self.window.from).as_secs_f64().max(1e-6);
        let since = at.as_secs_f64() - self.window.from.as_secs_f64();
        LEFT + (RIGHT - LEFT) * since / span
    }
}

/// A round number that is not much smaller.
fn step(about: f64) -> f64 {
    let decade = 10_f64.powf(about.log10().floor());
    let fits = |factor: &f64| decade * factor >= about * 0.999;
    decade * [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0)
}

fn short(fault: &Fault) -> String {
    let name = |text: String| {
        let end = text
            .find(|c: char| !c.is_alphanumeric())
            .unwrap_or(text.len());
        text[..end].to_owned()
    };
    match fault {
        Fault::Cut { cut, .. } => format!("Cut {}", name(format!("{cut:?}"))),
        _ => name(format!("{fault:?}")),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn state_colour(state: NodeState) -> &'static str {
    match state {
        NodeState::Operational => "#66bb6a",
        NodeState::Resharding => "#ffca28",
        NodeState::Voting => "#ef9a9a",
        NodeState::Starting | NodeState::Joining => "#81d4fa",
        NodeState::Stopping => "#a1887f",
        NodeState::Invalid => "#616161",
    }
}

fn role_colour(role: Role) -> &'static str {
    match role {
        Role::Leader => "#0d47a1",
        Role::Follower => "#90b4e0",
        Role::NonVoter => "#cfd8e6",
        Role::NonMember | Role::Unknown => "#f0f0f0",
    }
}

fn phase_colour(phase: Phase) -> &'static str {
    match phase {
        Phase::None => "none",
        Phase::Proposed => "#ffe0b2",
        Phase::Draining(0) => "#ffb74d",
        Phase::Draining(_) => "#f57c00",
        Phase::Deciding => "#8d6e63",
        Phase::InForce => "#aed581",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funk::ids::Epoch;

    #[test]
    fn steps_of_the_axis_are_round() {
        for (about, expected) in [(0.09, 0.1), (0.5, 0.5), (6.4, 10.0), (1.3, 2.0), (0.1, 0.1)] {
            assert!(
                (step(about) - expected).abs() < 1e-9,
                "{about}: {}",
                step(about)
            );
        }
    }

    #[test]
    fn a_double_owner_and_the_violation_are_drawn_and_markup_is_escaped() {
        let ms = Duration::from_millis;
        let mut trace = Trace::default();
        for node in 0..2 {
            trace.add(ms(0), Some(node), Mark::Started);
            trace.add(ms(10), Some(node), Mark::Lease(ms(300)));
            let shards = vec![(ShardId(4), Epoch(node as u64 + 1))];
            trace.add(ms(20 + node as u64), Some(node), Mark::Opened(shards));
        }
        trace.add(
            ms(40),
            None,
            Mark::Violation("I1: n1 & n2 <both>".to_owned()),
        );
        let plan = Plan::quiet(1, 2);
        let svg = svg(&plan, &trace, Window::last(None, &trace), "a test");
        assert!(svg.contains("two owners at once, each under a valid lease: 1"));
        assert!(svg.contains("n1 @1") && svg.contains("n2 @2"));
        assert!(svg.contains("n1 &amp; n2 &lt;both&gt;"));
        assert!(svg.contains("stroke=\"#d50000\""));
        let opened = svg.matches("<text").count();
        assert_eq!(opened, svg.matches("</text>").count());
    }
}
