//! Whose directory it is: one small file, replaced whole.
//!
//! Layout: `funk-dir`, version of the format (4 bytes), CRC-32C of all but these four bytes, then postcard of the
//! [`Identity`].

use serde::{Deserialize, Serialize};

use super::files::Files;
use super::record::{checksum, u32_at};
use super::{FORMAT_VERSION, Fault, StoreId, sync_dir};

/// Name of the file.
pub(crate) const IDENTITY_FILE: &str = "identity";
/// What it is called until it is durable.
const TEMPORARY: &str = "identity.new";
const MAGIC: &[u8; 8] = b"funk-dir";
const HEADER: usize = 16;
/// Names and numbers are short.
const MAX_BYTES: usize = 4_096;

/// What a data directory is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Name of the cluster.
    pub(crate) cluster: String,
    /// Name of the node.
    pub(crate) node: String,
    /// The store that counts; files of others are left over.
    pub(crate) store: StoreId,
}

/// Reads it; `None`: there is none.
pub(crate) fn read(files: &dyn Files) -> Result<Option<Identity>, Fault> {
    let names = files.list().map_err(Fault::io("list", ""))?;
    if !names.iter().any(|name| name == IDENTITY_FILE) {
        return Ok(None);
    }
    let failed = Fault::io("read", IDENTITY_FILE);
    let file = files.open(IDENTITY_FILE).map_err(&failed)?;
    let bytes = file.read(0, MAX_BYTES).map_err(&failed)?;
    let damaged = |offset| Fault::damaged(IDENTITY_FILE, offset, "it is not what was written");
    let body = bytes.get(HEADER..).ok_or_else(|| damaged(0))?;
    let crc = checksum(&[&bytes[..12], body]);
    if &bytes[..8] != MAGIC || u32_at(&bytes, 12) != Some(crc) {
        return Err(damaged(0));
    }
    match u32_at(&bytes, 8) {
        Some(FORMAT_VERSION) => {}
        found => {
            return Err(Fault::Version(
                IDENTITY_FILE.to_owned(),
                found.unwrap_or_default(),
            ));
        }
    }
    match postcard::take_from_bytes(body) {
        Ok((identity, [])) => Ok(Some(identity)),
        _ => Err(damaged(HEADER as u64)),
    }
}

/// Replaces it; durable on return.
pub(crate) fn write(files: &dyn Files, identity: &Identity) -> std::io::Result<()> {
    let body = postcard::to_stdvec(identity).map_err(std::io::Error::other)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    let crc = checksum(&[&bytes, &body]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&body);
    let mut file = files.create(TEMPORARY)?;
    file.append(&bytes)?;
    file.sync()?;
    files.rename(TEMPORARY, IDENTITY_FILE)?;
    sync_dir(files)
}

/// Whether the file is one that was being written.
pub(crate) fn is_temporary(name: &str) -> bool {
    name == TEMPORARY
}
