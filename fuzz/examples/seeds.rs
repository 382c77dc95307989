//! Writes the seed corpora: `cargo run --example seeds [-- FOLDER]`, in this folder.
//!
//! Messages, entries, maps and snapshots are those of a small cluster at work. Runs of the engine are those that bring
//! about something new: the shortest of those in FOLDER, if one is named (what the fuzzer has learnt), then the first random
//! ones. Certificates have random keys: those that are there are kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use funk::engine::Message;
use funk::engine::map_encoding::{encode_assignment, encode_map};
use funk::engine::placement::place;
use funk::engine::shard_map::ShardMap;
use funk::ids::{LogIndex, NodeId};
use funk::log_message::LogMessage;
use funk::wire::{StreamKind, encode_datagram};
use funk_fuzz::engine::plan::{Setup, Step};
use funk_fuzz::engine::run_world;
use funk_fuzz::engine::world::World;
use funk_fuzz::maps::{base, candidates};
use funk_quic::{Authority, PeerName, Validity};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

type Failure = Box<dyn std::error::Error>;

/// Random runs of the engine that are tried, and kept at most.
const TRIES: u64 = 6_000;
const MOST_RUNS: usize = 24;

/// The golden bytes of `core/src/raft/rpc.rs`: a vote, a heartbeat, a part of a snapshot, a reply.
const RAFT: [(&str, &str); 4] = [
    ("vote", "0107026e3101026e3202010301026e3101000000"),
    (
        "heartbeat",
        "0107026e3101026e3202000301026e3101010102ac020000",
    ),
    (
        "snapshot",
        "0107026e3101026e3202040301026e3101010000000000010302aabb",
    ),
    ("reply", "010002"),
];

fn main() -> Result<(), Failure> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let put = |target: &str, name: &str, bytes: &[u8]| -> Result<(), Failure> {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(name), bytes)?)
    };
    for (name, bytes) in RAFT {
        put("raft_rpc", name, &unhex(bytes)?)?;
    }
    for (name, bytes) in messages() {
        put("datagram", &name, &bytes)?;
        if name.starts_with("gossip") {
            put("gossip", &name, &bytes[2..])?;
        }
    }
    for (name, world) in [("settled", settled(3)), ("moving", moving())] {
        put_log(&world, name, &put)?;
    }
    put_maps(&put)?;
    put_streams(&put)?;
    // The golden bytes of `transport-quic/src/hello.rs`, without the length.
    put(
        "hello",
        "hello",
        b"\x04test\x02n1\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\0\x09",
    )?;
    if !corpus.join("certificate_names").exists() {
        put_certificates(&put)?;
    }
    let learnt = std::env::args()
        .nth(1)
        .map_or(Ok(Vec::new()), |folder| learnt(&folder))?;
    for old in fs::read_dir(corpus.join("engine")).into_iter().flatten() {
        fs::remove_file(old?.path())?;
    }
    for (at, bytes) in runs(learnt).iter().enumerate() {
        put("engine", &format!("run-{at:02}"), bytes)?;
    }
    Ok(())
}

type Put<'a> = &'a dyn Fn(&str, &str, &[u8]) -> Result<(), Failure>;

fn unhex(text: &str) -> Result<Vec<u8>, std::num::ParseIntError> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16);
    (0..text.len()).step_by(2).map(byte).collect()
}

fn setup(nodes: u8, settled: bool) -> Setup {
    Setup {
        nodes: nodes - 1,
        observer: false,
        non_voter: false,
        shards: 23,
        voters: 2,
        settled,
        expect: nodes - 1,
        timing: 0,
        seed: 1,
    }
}

/// A cluster that was there, after some seconds.
fn settled(nodes: u8) -> World {
    let mut world = World::new(&setup(nodes, true));
    world.run(&vec![Step::settle(11); 8]);
    world
}

/// The same, in the middle of a change.
fn moving() -> World {
    let mut world = settled(4);
    world.run(&[Step::Leave(3), Step::settle(1), Step::settle(1)]);
    world
}

/// Messages of clusters that form, settle and shrink: one of each kind and size.
fn messages() -> Vec<(String, Vec<u8>)> {
    let mut seen = BTreeSet::new();
    let mut messages = Vec::new();
    for mut world in [World::new(&setup(3, false)), World::new(&setup(4, true))] {
        for round in 0..60 {
            let step = if round == 50 {
                Step::Leave(1)
            } else {
                Step::settle(0)
            };
            world.run(&[step]);
            for message in world.sent() {
                let kind = match message {
                    Message::Gossip(_) => "gossip",
                    Message::Ping(_) => "ping",
                    Message::Pong(_) => "pong",
                    Message::Bootstrap(_) => "bootstrap",
                };
                let bytes = encode_datagram(message, funk::versions::NEWEST).to_vec();
                let name = format!("{kind}-{}", bytes.len());
                let of_kind = seen
                    .iter()
                    .filter(|n: &&String| n.starts_with(kind))
                    .count();
                if of_kind < 6 && seen.insert(name.clone()) {
                    messages.push((name, bytes));
                }
            }
        }
    }
    messages
}

fn put_log(world: &World, of: &str, put: Put<'_>) -> Result<(), Failure> {
    for message in world.entries() {
        let kind = match message {
            LogMessage::LeaderOpened { .. } => "opened",
            LogMessage::ProposedShardMap { .. } => "proposed",
            LogMessage::ShardMapCommitted { .. } => "committed",
            LogMessage::App { .. } => "app",
            LogMessage::VersionRaised { .. } => "version",
            LogMessage::NodeCordoned { .. } => "cordoned",
        };
        put("log_message", &format!("{of}-{kind}"), &message.encode())?;
    }
    for (at, replica) in world.replicas().enumerate().take(2) {
        put("snapshot", &format!("{of}-{at}"), &replica.encode())?;
    }
    let entry = LogMessage::App {
        shard: Some(funk::ids::ShardId(5)),
        epoch: funk::ids::Epoch(9),
        bytes: b"an entry".as_slice().into(),
    };
    put("log_message", "app", &entry.encode())
}

fn put_maps(put: Put<'_>) -> Result<(), Failure> {
    let contiguous = place(&ShardMap::empty(), 2_000, &candidates(7), &BTreeSet::new());
    let mut weighted = contiguous.clone();
    weighted.weights = Some((0..2_000).map(|shard| shard % 3 + 1).collect());
    let many = place(&ShardMap::empty(), 20, &candidates(40), &BTreeSet::new());
    for (name, assignment) in [
        ("contiguous", contiguous),
        ("weighted", weighted),
        ("members", many),
    ] {
        let map = ShardMap::empty().apply_assignment(LogIndex(900), &assignment)?;
        put("shard_map", name, &encode_map(&map))?;
        put(
            "shard_map_delta",
            &format!("full-{name}"),
            &encode_assignment(&assignment, None),
        )?;
    }
    put("shard_map", "scattered", &encode_map(base()))?;
    put("shard_map", "empty", &encode_map(&ShardMap::empty()))?;
    for nodes in [4, 6] {
        let next = place(base(), 0, &candidates(nodes), &BTreeSet::new());
        let delta = encode_assignment(&next, Some(base()));
        put("shard_map_delta", &format!("delta-{nodes}"), &delta)?;
        let map = base().apply_assignment(LogIndex(9), &next)?;
        put("shard_map", &format!("moved-{nodes}"), &encode_map(&map))?;
    }
    Ok(())
}

/// How it arrives, how large frames may be, head, frames.
fn put_streams(put: Put<'_>) -> Result<(), Failure> {
    let stream = |kind: StreamKind, frames: &[&[u8]]| {
        let mut bytes = vec![6, 255, kind as u8, funk::wire::PROTOCOL_VERSION];
        for frame in frames {
            bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
            bytes.extend_from_slice(frame);
        }
        bytes
    };
    let large = [7; 700];
    put(
        "stream_frames",
        "call",
        &stream(StreamKind::Call, &[b"a request"]),
    )?;
    put("stream_frames", "tags", &stream(StreamKind::Tags, &[b""]))?;
    put(
        "stream_frames",
        "several",
        &stream(StreamKind::Raft, &[b"one", &large, b"", b"four"]),
    )?;
    let mut cut = stream(StreamKind::ClientCall, &[b"a request that is"]);
    cut.extend_from_slice(&[255, 255, 127, 0, 1]);
    put("stream_frames", "cut-off", &cut)
}

fn put_certificates(put: Put<'_>) -> Result<(), Failure> {
    let authority = Authority::new()?;
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
    put(
        "certificate_names",
        "authority",
        &der(authority.certificate_pem())?,
    )?;
    let name = NodeId::new("n1")?;
    for (called, name) in [
        ("node", PeerName::Node(name.clone())),
        ("client", PeerName::Client(name)),
        ("longest", PeerName::Node(NodeId::new(&"a".repeat(63))?)),
    ] {
        let issued = authority.issue(&name, Validity::days((2001, 1, 1), (2002, 1, 1)))?;
        put("certificate_names", called, &der(&issued.certificate_pem)?)?;
    }
    Ok(())
}

/// What the fuzzer has learnt, the shortest first.
fn learnt(folder: &str) -> Result<Vec<Vec<u8>>, Failure> {
    let mut runs = Vec::new();
    for file in fs::read_dir(folder)? {
        runs.push(fs::read(file?.path())?);
    }
    runs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    Ok(runs)
}

fn random_runs() -> impl Iterator<Item = Vec<u8>> {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    (0..TRIES).map(move |_| {
        let mut bytes = vec![0; 32 + random.next_u32() as usize % 1_000];
        random.fill_bytes(&mut bytes);
        bytes
    })
}

/// Runs, each of which brought about what none before it had.
fn runs(learnt: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut seen = BTreeSet::new();
    let mut runs = Vec::new();
    for bytes in learnt.into_iter().chain(random_runs()) {
        let Some(world) = run_world(&bytes) else {
            continue;
        };
        let situations = world.situations().into_iter().filter(|&(_, n)| n > 0);
        let situations: BTreeSet<_> = situations.map(|(name, _)| name).collect();
        if runs.len() < MOST_RUNS && !situations.is_subset(&seen) {
            seen.extend(situations);
            runs.push(bytes);
        }
    }
    eprintln!(
        "{} runs with {} situations: {seen:?}",
        runs.len(),
        seen.len()
    );
    runs
}
