//! How a connection comes about: dialling, accepting, and who is who.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use funk::ids::PeerAddr;
use funk::runtime::Environment;
use funk::transport::{Incoming, Peer, TransportError};
use tokio::sync::oneshot;
use turmoil::net::{TcpListener, TcpStream};

use super::{CONNECT_TIMEOUT, Inner};
use crate::hello::{Answer, Hello, MAX_HELLO_BYTES};
use crate::pump::{Connection, End};
use crate::reach::Permission;

/// How long one dial may take, and the pause after one that found nobody to talk to.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

impl Inner {
    /// Accepts connections on behalf of the node, as its kernel would: also while the node is paused.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener, environment: Environment) {
        while let Ok((connection, from)) = listener.accept().await {
            let inner = self.clone();
            self.spawn(&environment, async move {
                inner.welcome(connection, from).await;
            });
        }
    }

    /// Learns who opened a connection, and delivers its streams, each once its first byte is there. `None`: it came
    /// to nothing, or to its end.
    async fn welcome(&self, connection: TcpStream, from: SocketAddr) -> Option<()> {
        let environment = self.environment().ok()?;
        let mut connection = self.connection(connection, End::Acceptor, from, &environment);
        let hello = connection.frames.next(MAX_HELLO_BYTES);
        let hello = environment.timeout(CONNECT_TIMEOUT, hello).await?.ok()?;
        let Some(hello) = Hello::decode(&mut &hello[..]) else {
            self.lock().counters.malformed += 1;
            return None;
        };
        let peer = match self.admit(&hello, from.ip()) {
            Ok(peer) => peer,
            Err(reason) => {
                self.refuse(from, &reason);
                let answer = Answer::Refused(reason).encode();
                return connection.send_frame(&answer).await.ok();
            }
        };
        connection.to = peer.addr;
        let answer = Answer::Accepted(self.hello(None).ok()?).encode();
        connection.send_frame(&answer).await.ok()?;
        loop {
            let closing = self.lock().running.as_ref()?.closing.clone();
            let first = tokio::select! {
                biased;
                () = closing.notified() => return None,
                first = connection.first() => first?,
            };
            let incoming = self.lock().running.as_ref()?.incoming.clone();
            let (stream, carrier) = self.open(&peer).ok()?;
            let from = peer.clone();
            let offer = Incoming::Stream { from, stream };
            incoming.send(offer).await.ok()?;
            connection = carrier.carry(connection, Some(first)).await?;
        }
    }

    fn connection(
        &self,
        connection: TcpStream,
        end: End,
        to: SocketAddr,
        environment: &Environment,
    ) -> Connection {
        Connection::new(connection, end, self.addr, to, &self.network, environment)
    }

    /// A connection to the peer whose two ends know each other. Tried again for as long as nobody answers.
    pub(super) async fn connect(
        self: &Arc<Self>,
        to: &PeerAddr,
        environment: &Environment,
    ) -> Result<(Peer, Connection), TransportError> {
        let addr = to.addr;
        loop {
            let connection = self.dial(addr, environment).await?;
            let mut connection = self.connection(connection, End::Dialler, addr, environment);
            let hello = self.hello(to.node.clone())?.encode();
            let is_sent = connection.send_frame(&hello).await.is_ok();
            let answer = connection.frames.next(MAX_HELLO_BYTES).await;
            let answer = answer.ok().filter(|_| is_sent);
            let admitted = match answer.and_then(|answer| Answer::decode(&answer)) {
                Some(Answer::Accepted(hello)) => match &to.node {
                    Some(node) if *node != hello.instance.node => {
                        Err(format!("it is {}", hello.instance.node))
                    }
                    _ => self.admit(&hello, addr.ip()),
                },
                Some(Answer::Refused(reason)) => Err(reason),
                // It went away meanwhile, which nobody would have heard on a real network.
                None => {
                    environment.sleep(DIAL_TIMEOUT).await;
                    continue;
                }
            };
            return match admitted {
                Ok(peer) => Ok((peer, connection)),
                Err(reason) => {
                    self.refuse(addr, &reason);
                    Err(TransportError::Refused { addr, reason })
                }
            };
        }
    }

    /// A TCP connection to the address, however long it takes.
    async fn dial(
        self: &Arc<Self>,
        addr: SocketAddr,
        environment: &Environment,
    ) -> Result<TcpStream, TransportError> {
        loop {
            let permission = self.lock().reach.ask(addr, environment.now());
            if let Permission::Wait(until, changed) = permission {
                tokio::select! {
                    biased;
                    () = changed.notified() => {}
                    () = environment.sleep_until(until) => {}
                }
                continue;
            }
            let (result, dialled) = oneshot::channel();
            let inner = self.clone();
            let by = environment.clone();
            // A task of its own, because turmoil never frees the port of a dial that was dropped half-way.
            self.spawn(environment, async move {
                let dialled = by.timeout(DIAL_TIMEOUT, TcpStream::connect(addr)).await;
                let connection = dialled.and_then(Result::ok);
                let has_answered = connection.is_some();
                inner.lock().reach.report(addr, has_answered, by.now());
                let _ = result.send(connection);
            });
            match dialled.await {
                Ok(Some(connection)) => return Ok(connection),
                Ok(None) => {}
                Err(_) => return Err(TransportError::Closed),
            }
        }
    }
}
