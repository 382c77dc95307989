//! What the fuzz targets do, as a library: each target is one function here, so that the seed corpora can also be
//! checked by `cargo test` on any toolchain.
//!
//! Every decoder is held to three things: it does not panic; what it reads it writes and reads again as the same; and
//! it allocates in proportion to the bytes that really came ([`allocation`]). [`engine`] drives whole nodes.

pub mod allocation;
pub mod certificates;
pub mod engine;
pub mod log;
pub mod maps;
pub mod raft;
pub mod wire;

/// A target's name and what it does with its bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. The names are those of the files in `fuzz_targets/` and of the folders in `corpus/`.
pub const TARGETS: [Target; 11] = [
    ("certificate_names", certificates::names),
    ("datagram", wire::datagram),
    ("engine", engine::run),
    ("gossip", wire::gossip),
    ("hello", certificates::hello),
    ("log_message", log::message),
    ("raft_rpc", raft::rpc),
    ("shard_map", maps::map),
    ("shard_map_delta", maps::delta),
    ("snapshot", maps::snapshot),
    ("stream_frames", wire::stream),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The seeds of every target, so that a change which a target does not survive is seen without a fuzzer.
    #[test]
    fn every_seed_of_every_target_passes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, target) in TARGETS {
            assert!(root.join(format!("fuzz_targets/{name}.rs")).exists());
            let folder = root.join("corpus").join(name);
            let mut seeds = 0;
            for entry in std::fs::read_dir(folder).expect("each target has seeds") {
                let path = entry.expect("a readable folder").path();
                let bytes = std::fs::read(&path).expect("a readable file");
                println!("{}", path.display());
                target(&bytes);
                seeds += 1;
            }
            assert!(seeds > 0, "{name} has no seeds");
        }
        let targets = std::fs::read_dir(root.join("fuzz_targets")).expect("a folder");
        assert_eq!(targets.count(), TARGETS.len());
    }
}
