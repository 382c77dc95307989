//! `funk node`: one node with the counter service, for as long as the process is not told to go.

mod lines;
mod signals;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use funk::builder::{DEFAULT_SHARDS, MAX_SEEDS};
use funk::ids::ClusterName;
use funk::limits::MAX_SHARDS;
use funk::runtime::Environment;
use funk::transport::{Transport, TransportError};
use funk::{Cluster, Event, NodeId, Notice, StartError, Storage};
use funk_quic::{QuicConfig, QuicTransport};

use crate::arguments::{CLUSTER, address, cluster_name, node_name, seconds};
use crate::counter::{Counter, CounterState};
use crate::credentials;
use crate::demo::Preset;
use crate::failure::{DATA_DIRECTORY, ERROR, Failure};
use lines::{End, Lines};
pub(crate) use signals::Signals;

/// The node did not leave: the time for it passed, or a second signal came.
const NOT_LEFT: u8 = 3;
/// The address cannot be listened on.
const CANNOT_LISTEN: u8 = 4;
/// A newer run of the same name is in the cluster.
const SUPERSEDED: u8 = 5;
/// A node that stops waits for nobody else; should it hang, it is not waited for.
const STOP_WITHIN: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  funk node --name n1 --listen 127.0.0.1:7401 --join 127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403 --bootstrap-expect 3
  funk node --name n2 --listen 127.0.0.1:7402 --join 127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403 --bootstrap-expect 3
  funk node --name n4 --listen 127.0.0.1:7404 --join 127.0.0.1:7401             join only, found nothing
  funk node --name n1 --listen 192.0.2.1:7401 --tls certs --join 192.0.2.2:7401  other machines: see `funk ca --help`

All nodes can be given the same --join list, with their own address in it, and be started in any order or at once.

With --data-dir what the node acknowledges is on the disk, and the node comes back as itself: --data-dir /var/lib/funk/n1.
Without it the log is kept in memory: a node that is started again is given everything by the others, and a cluster whose
nodes all stop is gone.

SIGTERM or SIGINT: the node leaves (its shards are moved first), within --drain-timeout; a second one stops it at once.

With --json each line on standard output is an object with `at_ms` (milliseconds of the machine's monotonic clock) and
`event`. The first is {\"event\":\"listening\",\"addr\":..,\"node\":..,\"boot\":..}, the last {\"event\":\"stopped\",\"reason\":..}
with the reason left, stopped, superseded or failed.

Exit status: 0 it left; 1 an error; 2 bad arguments; 3 it stopped without having left (the time was up, or a second
signal); 4 the address cannot be listened on; 5 a newer process with the same node name is in the cluster; 6 the data
directory cannot be used (damaged, in use, another node's): the message says what to do.
FUNK_LOG=info (or debug, or funk=debug,...) writes more of its log to standard error; without it, warnings and errors.";

/// Arguments of `funk node`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct NodeArgs {
    /// Name of the node, the same after a restart; no other node of the cluster may have it
    #[arg(long, value_parser = node_name)]
    name: NodeId,
    /// UDP address to listen on; port 0 is any free one
    #[arg(long, value_name = "ADDR", value_parser = address)]
    listen: SocketAddr,
    /// Addresses of some nodes, separated by commas
    #[arg(long, value_name = "ADDR,...", value_parser = address, value_delimiter = ',')]
    join: Vec<SocketAddr>,
    /// How many nodes found the cluster, the same number on all of them; 0: never, only join. Without it: 1 without
    /// --join, 0 with it
    #[arg(long, value_name = "N")]
    bootstrap_expect: Option<u16>,
    /// Name of the cluster; nodes of other names are refused
    #[arg(long, value_name = "NAME", default_value = CLUSTER, value_parser = cluster_name)]
    cluster: ClusterName,
    /// Shards of a new cluster; an existing one keeps its number
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SHARDS,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    shards: u32,
    /// Directory for the log and the snapshots, of this node alone; made if it is not there. Without it: in memory
    #[arg(long, value_name = "DIR", conflicts_with = "non_member")]
    data_dir: Option<PathBuf>,
    /// Directory with ca.pem, NAME.pem and NAME.key; without it, certificates for this machine only are made
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
    /// How long leases and elections take; the same on all nodes
    #[arg(long, value_enum, default_value_t = Preset::Lan)]
    timing: Preset,
    /// Own shards, but never vote or lead
    #[arg(long, conflicts_with = "non_member")]
    non_voting: bool,
    /// See the cluster and deliver calls, without shards and without a log
    #[arg(long)]
    non_member: bool,
    /// How long leaving may take
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    drain_timeout: Duration,
    /// One JSON object a line on standard output
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: NodeArgs) -> Result<u8, Failure> {
    // Before anything else: a signal that comes early must not kill.
    let mut signals = Signals::new()
        .map_err(|error| Failure::error(format!("signals cannot be listened to: {error}")))?;
    let transport = bind(&arguments)?;
    let addr = transport.local_addr();
    let cluster = start(&arguments, transport).await?;
    let lines = Lines::new(arguments.json);
    lines.listening(addr, cluster.instance(), cluster.name());
    let status = watch(&arguments, &cluster, &mut signals, &lines).await;
    if status == SUPERSEDED {
        return Err(Failure::new(
            SUPERSEDED,
            format!(
                "stopped, because a newer process runs as node `{name}` in cluster `{}`: give each process a --name \
                 of its own (if there is no other, this machine's clock went back: set it right and start again)",
                arguments.cluster,
                name = arguments.name,
            ),
        ));
    }
    Ok(status)
}

fn bind(arguments: &NodeArgs) -> Result<std::sync::Arc<QuicTransport>, Failure> {
    let mut addresses = vec![("--listen", arguments.listen)];
    addresses.extend(arguments.join.iter().map(|addr| ("--join", *addr)));
    let name = credentials::node(&arguments.name);
    let credentials = credentials::load(&name, arguments.tls.as_ref(), &addresses)?;
    QuicTransport::bind(arguments.listen, credentials, QuicConfig::default()).map_err(|error| {
        match error {
            TransportError::Bind { .. } => {
                Failure::new(CANNOT_LISTEN, format!("--listen: {error}"))
            }
            error => Failure::error(error),
        }
    })
}

async fn start(
    arguments: &NodeArgs,
    transport: std::sync::Arc<QuicTransport>,
) -> Result<Cluster, Failure> {
    if arguments.join.len() > MAX_SEEDS {
        return Err(Failure::bad_arguments(format!(
            "--join has {} addresses; at most {MAX_SEEDS} are possible, and a few are enough",
            arguments.join.len()
        )));
    }
    let expect = arguments
        .bootstrap_expect
        .unwrap_or(u16::from(arguments.join.is_empty()));
    if expect > 1 && arguments.join.is_empty() {
        return Err(Failure::bad_arguments(format!(
            "--bootstrap-expect {expect} needs --join with addresses of the nodes that found the cluster together"
        )));
    }
    let state = CounterState::default();
    let service = Counter {
        replica: state.replica.clone(),
    };
    let mut builder = Cluster::builder(arguments.cluster.as_str(), arguments.name.as_str())
        .transport(transport)
        .seeds(arguments.join.iter().copied())
        .bootstrap_expect(expect)
        .shards(arguments.shards)
        .timing(arguments.timing.timing())
        .service(service)
        .state(state);
    if let Some(dir) = &arguments.data_dir {
        builder = builder.storage(Storage::dir(dir));
    }
    if arguments.non_voting {
        builder = builder.non_voter();
    }
    if arguments.non_member {
        builder = builder.non_member();
    }
    builder.start().await.map_err(|error| match error {
        StartError::Storage(error) => Failure::new(DATA_DIRECTORY, format!("--data-dir: {error}")),
        error => Failure::error(error),
    })
}

/// Prints what happens until the node has ended; the exit status.
async fn watch(
    arguments: &NodeArgs,
    cluster: &Cluster,
    signals: &mut Signals,
    lines: &Lines,
) -> u8 {
    let environment = Environment::current();
    let mut events = cluster.events();
    let mut superseded = false;
    // Until a signal comes.
    loop {
        tokio::select! {
            biased;
            () = signals.next() => break,
            notice = events.next() => match notice {
                Some(notice) => {
                    superseded |= is_superseded(&notice);
                    lines.notice(&notice);
                }
                None if superseded => {
                    lines.stopped(End::Superseded);
                    return SUPERSEDED;
                }
                None => {
                    lines.stopped(End::Failed);
                    return ERROR;
                }
            },
        }
    }
    lines.leaving(arguments.drain_timeout);
    let mut leave = pin!(environment.timeout(arguments.drain_timeout, cluster.leave()));
    let mut ended = false;
    let left = loop {
        tokio::select! {
            biased;
            left = &mut leave => break left.is_some(),
            () = signals.next() => break false,
            notice = events.next(), if !ended => match notice {
                Some(notice) => lines.notice(&notice),
                None => ended = true,
            },
        }
    };
    if !left {
        let _ = environment.timeout(STOP_WITHIN, cluster.stop()).await;
    }
    while !ended && let Some(notice) = events.next().await {
        lines.notice(&notice);
    }
    lines.stopped(if left { End::Left } else { End::Stopped });
    if left { 0 } else { NOT_LEFT }
}

fn is_superseded(notice: &Notice) -> bool {
    matches!(notice, Notice::Event(Event::Superseded { .. }))
}
