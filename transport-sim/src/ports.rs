//! Sockets that go with the power of their host, whoever holds them.
//!
//! Turmoil frees a port when its socket is dropped within the simulation. A transport that somebody holds outside, to
//! look at it after the crash of its node, would keep the port from the next run; dropped out there, for ever.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A socket that can be taken away from its holder.
pub(crate) struct Socket<T>(Mutex<Option<T>>);

impl<T> Socket<T> {
    pub(crate) fn new(socket: T) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(socket))))
    }

    /// `None`: it was closed.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the port, if this is done within the simulation; otherwise that has to wait.
    pub(crate) fn close(&self) {
        if turmoil::in_simulation() {
            let socket = self.lock().take();
            drop(socket);
        }
    }
}

/// A socket of any kind.
pub(crate) trait Close: Send + Sync {
    fn close(&self);
    fn is_open(&self) -> bool;
}

impl<T: Send> Close for Socket<T> {
    fn close(&self) {
        Socket::close(self);
    }

    fn is_open(&self) -> bool {
        self.lock().is_some()
    }
}

/// The hosts of a simulation: their open sockets, and whether they have power.
#[derive(Default)]
pub(crate) struct Hosts(BTreeMap<IpAddr, Host>);

#[derive(Default)]
struct Host {
    is_dark: bool,
    sockets: Vec<Arc<dyn Close>>,
}

impl Hosts {
    /// A socket of that host was opened.
    pub(crate) fn enlist<T: Send + 'static>(&mut self, host: IpAddr, socket: &Arc<Socket<T>>) {
        let sockets = &mut self.0.entry(host).or_default().sockets;
        sockets.retain(|socket| socket.is_open());
        sockets.push(socket.clone());
    }

    pub(crate) fn power_off(&mut self, host: IpAddr) {
        self.0.entry(host).or_default().is_dark = true;
    }

    /// Gives power to a host. What earlier runs have left is to be closed, within the host.
    pub(crate) fn power_on(&mut self, host: IpAddr) -> Vec<Arc<dyn Close>> {
        self.0.remove(&host).unwrap_or_default().sockets
    }

    /// Whether a host can send. What still stirs in one without power is the simulation's own tidying up.
    pub(crate) fn has_power(&self, host: IpAddr) -> bool {
        self.0.get(&host).is_none_or(|host| !host.is_dark)
    }
}
