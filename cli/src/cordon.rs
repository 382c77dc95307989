//! `funk cordon`, `funk uncordon`, `funk drain`: where shards may be, as the operator says.

use std::net::SocketAddr;

use clap::Args;
use funk::{Cordon, CordonError, NodeId};

use crate::arguments::{address, node_name};
use crate::client::ClientArgs;
use crate::failure::Failure;

pub(crate) const CORDON: &str = "\
Examples:
  funk cordon n3 --connect 127.0.0.1:7401
  funk cordon n3 --connect 127.0.0.1:7401 --json

The node keeps the shards that it has and gets no new ones, whichever node leads and however often it is restarted, until `funk
uncordon`, or until it has left. Any node can be asked, for any node.

Exit status: 0 it is in force; 1 it is not, or nobody answered; 2 bad arguments.";

pub(crate) const UNCORDON: &str = "\
Examples:
  funk uncordon n3 --connect 127.0.0.1:7401

The node gets shards again, as many as its part is; after `funk cordon` and after `funk drain`.

Exit status: 0 it is in force; 1 it is not, or nobody answered; 2 bad arguments.";

pub(crate) const DRAIN: &str = "\
Examples:
  funk drain n3 --connect 127.0.0.1:7401 && systemctl restart database-of-n3 && funk uncordon n3 --connect 127.0.0.1:7401
  funk drain n3 --connect 127.0.0.1:7401 --json | jq .shards

All shards of the node move elsewhere and none come back until `funk uncordon`. It stays a member: it votes, may lead, and
delivers calls. Ends when the node has no shards, or after a minute, if nobody else may have them or guards are held on them: the
drain then goes on, and `funk status` shows how many are left. To stop a node there is no need for this: SIGTERM drains it, too.

Exit status: 0 the node has no shards; 1 it still has some, or nobody answered; 2 bad arguments.";

/// Arguments of all three.
#[derive(Args, Clone, Debug)]
pub(crate) struct CordonArgs {
    /// Name of the node that is meant
    #[arg(value_name = "NODE", value_parser = node_name)]
    node: NodeId,
    /// Address of any node
    #[arg(long, value_name = "ADDR", value_parser = address)]
    connect: SocketAddr,
    #[command(flatten)]
    client: ClientArgs,
    /// One JSON object on standard output: node, cordon (cordoned, drained or null), shards
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: CordonArgs, cordon: Option<Cordon>) -> Result<u8, Failure> {
    let CordonArgs { node, connect, .. } = &arguments;
    let client = arguments.client.start(&[*connect])?;
    let set = client.set_cordon(*connect, node, cordon).await;
    let status = match &set {
        Ok(()) => Some(client.status(*connect).await),
        Err(_) => None,
    };
    client.close().await;
    set.map_err(|error| Failure::error(explain(&error)))?;
    let owned = status.and_then(Result::ok).and_then(|status| {
        let mut members = status.members.into_iter();
        let member = members.find(|member| member.node == *node)?;
        Some(member.shards)
    });
    let text = if arguments.json {
        let json = serde_json::json!({ "node": node, "cordon": cordon, "shards": owned });
        format!("{json}\n")
    } else {
        let owned = owned.map_or("an unknown number of".to_owned(), |owned| owned.to_string());
        match cordon {
            Some(Cordon::Cordoned) => {
                format!("{node} is cordoned: it keeps its {owned} shards and gets no others.\n")
            }
            Some(Cordon::Drained) => format!("{node} is drained: it has {owned} shards.\n"),
            None => format!("{node} may have shards again; it has {owned}.\n"),
        }
    };
    crate::write_out(&text)
}

fn explain(error: &CordonError) -> String {
    match error {
        CordonError::Unknown(_) => format!("{error}; `funk status` lists those there are"),
        error => error.to_string(),
    }
}
