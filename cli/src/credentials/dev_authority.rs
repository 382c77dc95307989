//! The authority that nodes on this machine's loopback share when none is named: made by whoever comes first.

use std::fs;
use std::path::{Path, PathBuf};

use funk_quic::Authority;

use super::files::{self, Layout};
use crate::failure::Failure;

/// Below the user's data directory.
const PLACE: &str = "funk/dev-ca";

/// Opens the authority, and makes it if there is none. Any number of processes may do that at once: each makes one in a
/// directory of its own, and the first to give that its final name has made the one that counts.
pub(super) fn open() -> Result<Authority, Failure> {
    let dir = place()?;
    let layout = Layout::new(&dir);
    if !layout.authority_key().exists() {
        make(&dir)?;
    }
    files::check_secret(&layout.authority_key())?;
    let certificate = files::read(&layout.authority())?;
    let key = files::read(&layout.authority_key())?;
    Authority::from_pem(&certificate, &key).map_err(|error| {
        Failure::error(format!(
            "the development authority in {} is damaged: {error}; stop all nodes, remove the directory, and start \
             them again",
            dir.display()
        ))
    })
}

fn place() -> Result<PathBuf, Failure> {
    let absolute = |variable| {
        let path = PathBuf::from(std::env::var_os(variable)?);
        path.is_absolute().then_some(path)
    };
    let data = absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local").join("share")))
        .ok_or_else(|| {
            Failure::error(
                "neither XDG_DATA_HOME nor HOME names a directory for the development certificates; set one of \
                 them, or pass `--tls DIR`",
            )
        })?;
    Ok(data.join(PLACE))
}

fn make(dir: &Path) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| {
        Failure::error(format!(
            "the development authority cannot be made in {}: {error}; set XDG_DATA_HOME to a directory that can be \
             written, or pass `--tls DIR`",
            dir.display()
        ))
    };
    let above = dir.parent().unwrap_or(dir);
    files::make_private_dir(above).map_err(wrong)?;
    let fresh = above.join(format!(
        ".dev-ca.{}.{:016x}",
        std::process::id(),
        rand::random::<u64>()
    ));
    let made = fill(&fresh).and_then(|()| fs::rename(&fresh, dir).map_err(wrong));
    let Err(failure) = made else { return Ok(()) };
    // Whether it can be removed changes nothing about what failed.
    let _ = fs::remove_dir_all(&fresh);
    if Layout::new(dir).authority_key().exists() {
        // Another process was faster.
        return Ok(());
    }
    Err(failure)
}

fn fill(dir: &Path) -> Result<(), Failure> {
    let authority = Authority::new().map_err(Failure::error)?;
    let layout = Layout::new(dir);
    let write = || {
        files::make_private_dir(dir)?;
        files::write_new(&layout.authority(), authority.certificate_pem())?;
        files::write_new(&layout.authority_key(), &authority.key_pem())
    };
    write().map_err(|error| Failure::error(format!("{} cannot be written: {error}", dir.display())))
}
