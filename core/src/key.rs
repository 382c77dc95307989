//! Keys to shards. Stable across versions, machines and releases: golden tests hold it still.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::ShardId;

/// Never to be changed: it decides where every key of every cluster lives.
const SEED: u64 = 0;

/// The shard of a key among `shards`: xxh3, then multiply-shift (Lemire), which is even and needs no division.
///
/// `shards` of 0 is answered with shard 0, which no map contains.
#[inline]
pub fn shard_of(key: &[u8], shards: u32) -> ShardId {
    let hash = xxh3_64_with_seed(key, SEED);
    ShardId(((u128::from(hash) * u128::from(shards)) >> 64) as u32)
}

/// The shard of an integer key, for applications that number their own: `key % shards`.
#[inline]
pub fn shard_of_integer(key: u64, shards: u32) -> ShardId {
    ShardId((key % u64::from(shards.max(1))) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let keys = ["", "a", "user:4711", "0123456789abcdef", "ключ"];
        let shards: Vec<u32> = keys
            .iter()
            .map(|key| shard_of(key.as_bytes(), 1_024).0)
            .collect();
        assert_eq!(shards, [180, 923, 281, 401, 616]);
        assert_eq!(shard_of(b"a", 1), ShardId(0));
        assert_eq!(shard_of_integer(1_025, 1_024), ShardId(1));
    }

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0u32; 16];
        for n in 0..16_000 {
            counts[shard_of(format!("key-{n}").as_bytes(), 16).0 as usize] += 1;
        }
        assert!(
            counts.iter().all(|&count| (850..1_150).contains(&count)),
            "{counts:?}"
        );
    }
}
