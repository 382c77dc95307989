//! Where one test keeps its files, and the ports that it uses.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: each judges how a cluster bears faults, not how it bears the other tests.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Ports below those that systems give to clients: nobody takes a node's port while it is down.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
/// Ports between those of two test programs that run at once, whose process ids are likely neighbours.
const PORTS_EACH: u32 = 64;

/// A folder that is kept if the test fails.
pub(crate) struct Place {
    folder: PathBuf,
    next_port: Cell<u16>,
    processes: Cell<u32>,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    pub(crate) fn new(test: &str) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let id = std::process::id();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{id}"));
        std::fs::create_dir_all(&folder)
            .unwrap_or_else(|error| panic!("{} cannot be made: {error}", folder.display()));
        let span = u32::from(PORTS.end - PORTS.start);
        let first = PORTS.start + u16::try_from(id * PORTS_EACH % span).unwrap_or_default();
        Self {
            folder,
            next_port: Cell::new(first),
            processes: Cell::new(0),
            _turn: turn,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file for what a process prints; the numbers are in the order of starting.
    pub(crate) fn transcript(&self, number: u32, name: &str, pipe: &str) -> PathBuf {
        self.folder.join(format!("{number:03}-{name}.{pipe}"))
    }

    /// The number of a new process.
    pub(crate) fn number(&self) -> u32 {
        self.processes.set(self.processes.get() + 1);
        self.processes.get()
    }

    /// An address on this machine that nobody uses, another one each time.
    pub(crate) fn address(&self) -> SocketAddr {
        for _ in PORTS {
            let port = self.next_port.get();
            let following = port + 1;
            self.next_port.set(if following < PORTS.end {
                following
            } else {
                PORTS.start
            });
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if UdpSocket::bind(address).is_ok() {
                return address;
            }
        }
        panic!("no port from {PORTS:?} is free");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the processes printed is in {}", self.folder.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
