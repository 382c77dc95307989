//! `funk status`: what a node says of itself and of the others.

use std::fmt::Write as _;
use std::net::SocketAddr;

use clap::Args;
use funk::NodeStatus;
use funk::status::MemberStatus;

use crate::arguments::address;
use crate::client::ClientArgs;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  funk status --connect 127.0.0.1:7401
  funk status --connect 127.0.0.1:7401 --json | jq '.members[] | [.node, .state, .shards]'

Members are shown as this node sees them; shards are those that each owns by the map in force; remarks say what keeps
shards from a member: a cordon, services that are not ready, a wait after it came and went too often. With --json the
object also has the counters of rare events.

Exit status: 0 the node answered; 1 it did not; 2 bad arguments.";

/// Arguments of `funk status`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Address of the node
    #[arg(long, value_name = "ADDR", value_parser = address)]
    connect: SocketAddr,
    #[command(flatten)]
    client: ClientArgs,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: StatusArgs) -> Result<u8, Failure> {
    let client = arguments.client.start(&[arguments.connect])?;
    let asked = client.status(arguments.connect).await;
    client.close().await;
    let status = asked.map_err(|error| Failure::error(arguments.client.explain(&error)))?;
    let text = if arguments.json {
        let json = serde_json::to_string(&status);
        json.expect("text and numbers always encode") + "\n"
    } else {
        table(&status)
    };
    crate::write_out(&text)
}

fn table(status: &NodeStatus) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = lines(&mut out, status);
    out
}

fn lines(out: &mut String, status: &NodeStatus) -> std::fmt::Result {
    let id = status
        .cluster_id
        .map_or("none yet".to_owned(), |id| id.to_string());
    let leader = status
        .leader
        .as_ref()
        .map_or("none known", |leader| leader.as_str());
    writeln!(
        out,
        "node      {} at {} (run {})",
        status.node, status.addr, status.boot
    )?;
    writeln!(out, "cluster   {} (id {id})", status.cluster)?;
    writeln!(
        out,
        "state     {}, {}",
        word(&status.state),
        word(&status.role)
    )?;
    writeln!(out, "leader    {leader}, term {}", status.term)?;
    match status.pending {
        Some(pending) => writeln!(out, "map       {}, pending {pending}", status.map_index)?,
        None => writeln!(out, "map       {}", status.map_index)?,
    }
    writeln!(out, "shards    {}", status.shards)?;
    writeln!(out, "lease     {} ms left", status.lease_left_ms)?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<16} {:<10} {:<10} {:<10} {:>6} {:>7}  {:<21} {:<16} remarks",
        "member", "state", "kind", "role", "worker", "shards", "address", "run"
    )?;
    for member in &status.members {
        let worker = member
            .worker
            .map_or("-".to_owned(), |worker| worker.to_string());
        let line = format!(
            "{:<16} {:<10} {:<10} {:<10} {:>6} {:>7}  {:<21} {:<16} {}",
            member.node.as_str(),
            word(&member.state),
            format!("{:?}", member.kind).to_lowercase(),
            word(&member.role),
            worker,
            member.shards,
            member.addr.to_string(),
            member.boot.to_string(),
            remarks(member)
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What keeps shards from it.
fn remarks(member: &MemberStatus) -> String {
    let cordon = member.cordon.as_ref().map(word);
    let unready = (!member.ready).then(|| "not ready".to_owned());
    let waits = member.waits_ms as f64 / 1e3;
    let waits = (member.waits_ms > 0).then(|| format!("bounced: waits {waits:.1} s for shards"));
    let all: Vec<String> = [cordon, unready, waits].into_iter().flatten().collect();
    all.join(", ")
}

fn word(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}
