//! What happens on a node, a line each: for people, or as JSON for programs.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use funk::ids::{ClusterName, Instance};
use funk::runtime::Environment;
use funk::{Event, Notice};
use serde_json::{Map, Value, json};

/// How a node ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Left,
    Stopped,
    Superseded,
    Failed,
}

/// Writes to standard output. A reader that has gone is no reason to stop a node.
pub(super) struct Lines {
    json: bool,
    environment: Environment,
}

impl Lines {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            environment: Environment::current(),
        }
    }

    pub(super) fn listening(&self, addr: SocketAddr, instance: &Instance, cluster: &ClusterName) {
        let (node, boot) = (instance.node.to_string(), instance.boot.to_string());
        self.write(
            "listening",
            json!({"addr": addr.to_string(), "node": node, "boot": boot, "cluster": cluster.to_string()}),
            || format!("node {node} of cluster {cluster} listens on {addr} (run {boot})"),
        );
    }

    pub(super) fn leaving(&self, within: Duration) {
        self.write(
            "leaving",
            json!({"within_ms": within.as_millis() as u64}),
            || format!("leaving, within {within:?}; a second signal stops at once"),
        );
    }

    pub(super) fn stopped(&self, end: End) {
        let (reason, text) = match end {
            End::Left => ("left", "left the cluster"),
            End::Stopped => ("stopped", "stopped without having left"),
            End::Superseded => ("superseded", "stopped: a newer run of this node is there"),
            End::Failed => ("failed", "stopped by an error; see the log"),
        };
        self.write("stopped", json!({"reason": reason}), || text.to_owned());
    }

    pub(super) fn notice(&self, notice: &Notice) {
        let (name, fields) = described(notice);
        self.write(name, fields.clone(), || in_words(name, &fields));
    }

    fn write(&self, event: &str, fields: Value, text: impl FnOnce() -> String) {
        let at_ms = self.environment.monotonic().as_millis() as u64;
        let line = if self.json {
            let mut object = Map::new();
            object.insert("at_ms".into(), at_ms.into());
            object.insert("event".into(), event.into());
            if let Value::Object(fields) = fields {
                object.extend(fields);
            }
            Value::Object(object).to_string()
        } else {
            text()
        };
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// The event's name and what belongs to it.
fn described(notice: &Notice) -> (&'static str, Value) {
    let instance = |instance: &Instance| json!({"node": instance.node.to_string(), "boot": instance.boot.to_string()});
    let event = match notice {
        Notice::Missed(count) => return ("missed", json!({"count": count})),
        Notice::Event(event) => event,
    };
    match event {
        Event::StateChanged { from, to } => ("state_changed", json!({"from": from, "to": to})),
        Event::RoleChanged { from, to } => ("role_changed", json!({"from": from, "to": to})),
        Event::LeaderChanged { leader } => {
            ("leader_changed", json!({"leader": leader.to_string()}))
        }
        Event::LeaderLost => ("leader_lost", json!({})),
        Event::NodeJoined(node) => ("node_joined", instance(node)),
        Event::NodeLeft(node) => ("node_left", instance(node)),
        Event::NodeFailed(node) => ("node_failed", instance(node)),
        Event::NodeUpdated(node) => ("node_updated", instance(node)),
        Event::MapProposed(index) => ("map_proposed", json!({"index": index.0})),
        Event::MapCommitted(index) => ("map_committed", json!({"index": index.0})),
        Event::ShardsGained(shards) => ("shards_gained", json!({"count": shards.len()})),
        Event::ShardsLost(shards) => ("shards_lost", json!({"count": shards.len()})),
        Event::AcquireFailed { shard, epoch } => (
            "acquire_failed",
            json!({"shard": shard.0, "epoch": epoch.0}),
        ),
        Event::ForeignClusterRefused(node) => {
            ("foreign_cluster_refused", json!({"node": node.to_string()}))
        }
        Event::BootstrapMismatch {
            instance: other,
            expect,
        } => {
            let mut fields = instance(other);
            fields["expect"] = (*expect).into();
            ("bootstrap_mismatch", fields)
        }
        Event::Superseded { by } => ("superseded", json!({"by": by.map(|boot| boot.to_string())})),
        Event::Stopping => ("stopping", json!({})),
    }
}

/// The same for people: `state changed: from joining, to voting`.
fn in_words(name: &str, fields: &Value) -> String {
    let mut text = name.replace('_', " ");
    let fields = fields.as_object().into_iter().flatten();
    for (at, (key, value)) in fields.enumerate() {
        text.push_str(if at == 0 { ": " } else { ", " });
        text.push_str(key);
        text.push(' ');
        match value {
            Value::String(value) => text.push_str(value),
            Value::Null => text.push_str("unknown"),
            value => text.push_str(&value.to_string()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use funk::ids::BootId;
    use funk::{NodeId, NodeState};

    #[test]
    fn events_are_objects_and_sentences() {
        let changed = Notice::Event(Event::StateChanged {
            from: NodeState::Joining,
            to: NodeState::Operational,
        });
        let (name, fields) = described(&changed);
        assert_eq!(name, "state_changed");
        assert_eq!(fields, json!({"from": "joining", "to": "operational"}));
        let text = in_words(name, &fields);
        assert_eq!(text, "state changed: from joining, to operational");
        let lost = described(&Notice::Event(Event::LeaderLost));
        assert_eq!(in_words(lost.0, &lost.1), "leader lost");
        let failed = described(&Notice::Event(Event::NodeFailed(Instance {
            node: NodeId::new("n1").unwrap(),
            boot: BootId(255),
        })));
        assert_eq!(
            failed.1,
            json!({"node": "n1", "boot": "ff"}),
            "no number: JSON's are floats"
        );
    }
}
