//! How a record stands in a segment.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | CRC-32C of store id, segment number and offset of the record, and of all that follows |
//! | 4 | bytes in the payload |
//! | 8 | sequence number of the record in the store |
//! | 8 | `synced`: all records below this number were durable before this one was written |
//! | n | the payload |
//!
//! Numbers are little-endian. The place is in the checksum so that a block that was written elsewhere does not count;
//! the store id, so that no payload can pass for a record.

use super::StoreId;

/// Bytes before a payload.
pub(crate) const RECORD_HEADER: usize = 24;
/// Bytes in a payload; more is damage. The largest entry (8 MiB) and its frame fit.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// Where records stand: what is in their checksum beside themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) store: StoreId,
    pub(crate) segment: u64,
}

/// A record that is whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) sequence: u64,
    pub(crate) payload: &'a [u8],
    /// Offset of what follows it.
    pub(crate) end: usize,
}

/// CRC-32C of these parts, one after the other.
pub(crate) fn checksum(parts: &[&[u8]]) -> u32 {
    parts
        .iter()
        .fold(0, |crc, part| crc32c::crc32c_append(crc, part))
}

fn record_checksum(place: Place, offset: u64, body: &[u8]) -> u32 {
    checksum(&[
        &place.store.0.to_le_bytes(),
        &place.segment.to_le_bytes(),
        &offset.to_le_bytes(),
        body,
    ])
}

/// Appends a record, which will stand at `offset`, to `bytes`; `payload` writes its payload.
pub(crate) fn write_record(
    bytes: &mut Vec<u8>,
    place: Place,
    offset: u64,
    sequence: u64,
    synced: u64,
    payload: &[u8],
) {
    let begin = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&synced.to_le_bytes());
    bytes.extend_from_slice(payload);
    let crc = record_checksum(place, offset, &bytes[begin + 4..]);
    bytes[begin..begin + 4].copy_from_slice(&crc.to_le_bytes());
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

/// The record at `offset` of a segment's bytes, if a whole one stands there.
pub(crate) fn read_record(bytes: &[u8], place: Place, offset: usize) -> Option<Record<'_>> {
    let crc = u32_at(bytes, offset)?;
    let len = u32_at(bytes, offset + 4)? as usize;
    if len > MAX_PAYLOAD_BYTES {
        return None;
    }
    let end = offset.checked_add(RECORD_HEADER + len)?;
    let body = bytes.get(offset + 4..end)?;
    let whole = super::ignores_checksums() || record_checksum(place, offset as u64, body) == crc;
    whole.then_some(Record {
        sequence: u64_at(body, 4)?,
        payload: &body[RECORD_HEADER - 4..],
        end,
    })
}

/// Whether a whole record at or after `from` says that the record with this number was durable. Then that one is not
/// the torn end of a write.
pub(crate) fn proves_durable(bytes: &[u8], place: Place, from: usize, sequence: u64) -> bool {
    // What is plausible is checked before the checksum, which would be computed at every offset otherwise.
    let most = sequence.saturating_add((bytes.len() / RECORD_HEADER) as u64);
    (from..bytes.len().saturating_sub(RECORD_HEADER - 1)).any(|offset| {
        let number = u64_at(bytes, offset + 8);
        let synced = u64_at(bytes, offset + 16);
        let plausible = number.is_some_and(|number| (sequence + 1..=most).contains(&number))
            && synced.is_some_and(|synced| synced > sequence && synced <= most);
        plausible && read_record(bytes, place, offset).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        store: StoreId(7),
        segment: 3,
    };

    fn three() -> (Vec<u8>, [usize; 3]) {
        let mut bytes = vec![0; 40];
        let mut ends = [0; 3];
        for (n, synced) in [(0, 0), (1, 0), (2, 2)] {
            let offset = bytes.len() as u64;
            write_record(&mut bytes, PLACE, offset, n, synced, b"payload");
            ends[n as usize] = bytes.len();
        }
        (bytes, ends)
    }

    #[test]
    fn records_come_back_and_say_what_was_durable() {
        let (mut bytes, ends) = three();
        let second = read_record(&bytes, PLACE, ends[0]).unwrap();
        assert_eq!(
            (second.sequence, second.payload, second.end),
            (1, &b"payload"[..], ends[1])
        );
        assert!(proves_durable(&bytes, PLACE, 40, 1));
        assert!(!proves_durable(&bytes, PLACE, 40, 2));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(
            !proves_durable(&bytes, PLACE, 40, 1),
            "the proof must be whole"
        );
    }

    #[test]
    fn no_bit_can_change() {
        let (bytes, ends) = three();
        for at in ends[0]..ends[1] {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(read_record(&damaged, PLACE, ends[0]).is_none(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_record_counts_only_where_it_was_written() {
        let (bytes, ends) = three();
        let moved = &bytes[1..];
        assert!(read_record(moved, PLACE, ends[0] - 1).is_none());
        for (store, segment) in [(8, 3), (7, 4)] {
            let store = StoreId(store);
            assert!(read_record(&bytes, Place { store, segment }, ends[0]).is_none());
        }
    }
}
