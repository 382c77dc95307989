//! The cluster's transport over a simulated network, and the simulation around it.
//!
//! There are two networks to choose from, see [`Network`]: [`SimTransport`], which implements
//! [`Transport`] over turmoil's TCP (streams) and UDP (datagrams), and the
//! [`QuicTransport`](funk_quic::QuicTransport) that ships, over turmoil's UDP. Everything above them is the code that
//! ships. [`Simulation`] starts nodes on simulated hosts, each with a clock of its own, and does to them what happens
//! to nodes: crashes as power cuts, restarts, pauses, cuts in the network. One seed gives one run: the same seed gives
//! the same [`Simulation::fingerprint`], message by message.
//!
//! [`Transport`]: funk::transport::Transport
//!
//! This crate needs tokio's unstable configuration, because only that lets turmoil seed tokio. Within this workspace
//! `.cargo/config.toml` sets it; elsewhere put this into yours:
//!
//! ```toml
//! [build]
//! rustflags = ["--cfg", "tokio_unstable"]
//! rustdocflags = ["--cfg", "tokio_unstable"]
//! ```
//!
//! # A wrong handler, and how it is found
//!
//! This service hands out numbered tickets. The last number of each shard stands in a store outside the cluster that all
//! owners write; no number may be handed out twice. The handler holds a guard, the library ends it when its lease lapses,
//! and every quiet test passes. But a process that stands still between its read and its write finishes the write when it
//! goes on, whoever owns the shard by then. What helps is the guard's fencing token, in a store that checks it.
//!
//! ```
//! use std::collections::{BTreeMap, BTreeSet};
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//!
//! use funk::runtime::Environment;
//! use funk::{Epoch, NodeId, Request, Service, ServiceError, ServiceRequest, ShardId};
//! use funk_sim::{Failure, SimCluster, SimulationConfig};
//!
//! const SHARDS: u32 = 4;
//!
//! /// Of each shard the last ticket, and the highest token that was seen.
//! #[derive(Clone, Default)]
//! struct Store(Arc<Mutex<BTreeMap<ShardId, (u64, Epoch)>>>);
//!
//! impl Store {
//!     /// Reads the last ticket, or replaces it. Refuses tokens below the highest one.
//!     fn access(&self, shard: ShardId, token: Epoch, write: Option<u64>) -> Result<u64, ServiceError> {
//!         let mut rows = self.0.lock().unwrap();
//!         let (last, highest) = rows.entry(shard).or_default();
//!         if token < *highest {
//!             return Err("somebody else owns the shard by now".into());
//!         }
//!         *highest = token;
//!         *last = write.unwrap_or(*last);
//!         Ok(*last)
//!     }
//! }
//!
//! struct Tickets {
//!     store: Store,
//!     /// Whether it gives the store its token. It must.
//!     fenced: bool,
//!     one_at_a_time: tokio::sync::Mutex<()>,
//! }
//!
//! impl Service for Tickets {
//!     async fn call(&self, request: ServiceRequest) -> Result<bytes::Bytes, ServiceError> {
//!         let shard = request.guard.shard();
//!         let token = if self.fenced { request.guard.epoch() } else { Epoch(0) };
//!         let _turn = self.one_at_a_time.lock().await;
//!         let last = self.store.access(shard, token, None)?;
//!         Environment::current().sleep(Duration::from_millis(5)).await; // The way to the store.
//!         let ticket = self.store.access(shard, token, Some(last + 1))?;
//!         Ok(ticket.to_string().into())
//!     }
//! }
//!
//! /// Three nodes, a client, and one pause, longer than a lease. Everything follows from the seed.
//! fn run(seed: u64, fenced: bool) -> funk_sim::Result {
//!     let store = Store::default();
//!     let mut sim = SimCluster::new(&SimulationConfig::new(seed), move |builder, _node| {
//!         let tickets = Tickets { store: store.clone(), fenced, one_at_a_time: Default::default() };
//!         builder.bootstrap_expect(3).shards(SHARDS).service(tickets)
//!     });
//!     let nodes = sim.start_many(3);
//!
//!     let handed_out = Arc::new(Mutex::new(Vec::new()));
//!     let answers = handed_out.clone();
//!     sim.client(&NodeId::new("client").unwrap(), move |client, _node| {
//!         let answers = answers.clone();
//!         async move {
//!             for shard in (0..SHARDS).cycle().map(ShardId) {
//!                 let request = Request::shard(shard, "").deadline(Duration::from_millis(100));
//!                 if let Ok(answer) = client.call(request).await {
//!                     answers.lock().unwrap().push((shard, answer.body));
//!                 }
//!             }
//!         }
//!     });
//!     let mut seen = BTreeSet::new();
//!     sim.check(move |_| match handed_out.lock().unwrap().drain(..).find(|ticket| !seen.insert(ticket.clone())) {
//!         None => Ok(()),
//!         Some((shard, ticket)) => Err(format!("ticket {ticket:?} of shard {shard} was handed out twice")),
//!     });
//!
//!     assert!(sim.run_until_operational(Duration::from_secs(10))?);
//!     let victim = nodes[seed as usize % 3].clone();
//!     let at = sim.elapsed() + Duration::from_millis(200 + seed);
//!     let paused = victim.clone();
//!     sim.at(at, move |sim| sim.simulation().pause(&paused));
//!     sim.at(at + Duration::from_secs(1), move |sim| sim.simulation().resume(&victim));
//!     sim.run_for(Duration::from_secs(2))
//! }
//!
//! let Failure { seed, reason, .. } = (0..20).find_map(|seed| run(seed, false).err()).expect("it is wrong");
//! println!("seed {seed}: {reason}"); // seed 1: ticket b"8" of shard 2 was handed out twice
//! assert!(reason.contains("handed out twice"));
//! assert_eq!(run(seed, false).unwrap_err().reason, reason, "a seed is the same run every time");
//! for seed in 0..20 {
//!     run(seed, true)?; // The same pauses, and nothing wrong.
//! }
//! # Ok::<(), Failure>(())
//! ```

#[cfg(not(tokio_unstable))]
compile_error!(
    "funk-sim needs `--cfg tokio_unstable`: without it turmoil cannot seed tokio, and a seed would not repeat. \
     Set `rustflags` and `rustdocflags` to [\"--cfg\", \"tokio_unstable\"] in .cargo/config.toml, and mind that a \
     RUSTFLAGS variable replaces what the file says."
);

mod cluster;
mod frames;
mod hello;
mod network;
mod ports;
mod pump;
mod quic;
mod reach;
mod simulation;
mod transport;
mod udp;

pub use cluster::{Disk, End, Failure, NodeOptions, Result, SimCluster};
pub use funk::store::sim_disk::{SimDisk, Unsynced};
pub use network::{Names, Network, SimNetwork};
pub use simulation::{Clock, SimNode, Simulation, SimulationConfig};
pub use transport::SimTransport;
