//! Certificates and keys on disk: where they are, and that nobody else can read the keys.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use funk::NodeId;

use crate::failure::Failure;

/// A directory as `funk ca` fills it and `--tls` takes it: `ca.pem`, `ca.key` (with the authority only), and for each
/// name `NAME.pem` and `NAME.key`.
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub(crate) fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// The authority's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// The authority's private key.
    pub(crate) fn authority_key(&self) -> PathBuf {
        self.0.join("ca.key")
    }

    /// Certificate and key of a name.
    pub(crate) fn issued(&self, name: &NodeId) -> (PathBuf, PathBuf) {
        let path = |ending: &str| self.0.join(format!("{name}.{ending}"));
        (path("pem"), path("key"))
    }
}

/// Makes a directory that only its owner can enter, with those above it. One that exists is left as it is.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Writes a new file that only its owner can read; an existing one is an error.
pub(crate) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = private_file(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// As [`write_new`], but puts the file in the place of one that exists.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    // Left by a process of the same number that did not get to its end.
    let _ = fs::remove_file(&fresh);
    write_new(&fresh, text)?;
    fs::rename(&fresh, path)
}

/// Refuses a private key that others on the machine can read.
pub(crate) fn check_secret(path: &Path) -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let metadata = fs::metadata(path).map_err(|error| {
            Failure::error(format!(
                "{} cannot be read: {error}; check the path and its permissions",
                path.display()
            ))
        })?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Failure::error(format!(
                "{path} is a private key and can be read or written by others (mode {mode:04o}); \
                 run `chmod 600 {path}`, and issue another one if somebody else may have read it",
                path = path.display()
            )));
        }
    }
    Ok(())
}

/// Reads a PEM text.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        Failure::error(format!(
            "{} cannot be read: {error}; check the path and its permissions",
            path.display()
        ))
    })
}
