//! How connections come about: dialling, answering, and who is admitted.

use super::*;

impl Endpoint {
    // Dialling.

    /// The connection to a peer, made if need be.
    pub(super) async fn connect(
        self: &Arc<Self>,
        to: &PeerAddr,
    ) -> Result<Arc<Link>, TransportError> {
        if self.is_closed() {
            return Err(TransportError::Closed);
        }
        if self.is_self(to) {
            return Err(to_error(to, &Failure::Myself));
        }
        let (mut outcome, start) = {
            let mut state = self.state();
            if let Some(link) = state.connections.find(to) {
                return Ok(link.clone());
            }
            state.dials.join(to, self.monotonic())?
        };
        if start {
            self.start_dial(to.clone());
        }
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(TransportError::Closed)),
            Err(_) => Err(TransportError::Closed),
        }
    }

    pub(super) fn start_dial(self: &Arc<Self>, to: PeerAddr) {
        self.tasks.spawn(self.clone().dial(to));
    }

    async fn dial(self: Arc<Self>, to: PeerAddr) {
        let environment = self.tasks.environment().clone();
        let attempt = environment.timeout(self.config.connect_timeout, self.try_dial(&to));
        let outcome = attempt.await.unwrap_or_else(|| {
            let span = self.config.connect_timeout;
            Err(Failure::Unreachable(format!("no answer within {span:?}")))
        });
        match outcome {
            Ok(link) => {
                let queued = self.state().dials.succeeded(&to, &link);
                self.flush(&link, queued);
            }
            Err(failure) => {
                self.note(to.addr, &failure);
                let chance = environment.next_seed();
                let error = to_error(&to, &failure);
                let now = self.monotonic();
                let dropped = self.state().dials.failed(&to, error, now, chance);
                self.counters.add_dropped(dropped);
            }
        }
    }

    /// Introduces itself to a peer that sends on a connection of an earlier run.
    pub(super) fn dial_stray(self: &Arc<Self>, addr: SocketAddr) {
        let to = PeerAddr {
            node: None,
            addr: canonical(addr),
        };
        let start = {
            let now = self.monotonic();
            let mut state = self.state();
            // Connected since: then the peer has learnt of this run.
            let known = state.connections.find(&to).is_some();
            !known && matches!(state.dials.join(&to, now), Ok((_, true)))
        };
        if start {
            debug!(%addr, "a peer sends on a connection that is not known here");
            self.start_dial(to);
        }
    }

    async fn try_dial(self: &Arc<Self>, to: &PeerAddr) -> Result<Arc<Link>, Failure> {
        let name = tls::server_name(to.node.as_ref());
        let connecting = self
            .quic
            .connect_with(self.tls.client(), to.addr, &name)
            .map_err(|error| Failure::Unreachable(error.to_string()))?;
        let quic = connecting.await.map_err(|error| Failure::from(&error))?;
        let unfinished = Unfinished(Some(&quic));
        let dial = self.dial_numbers.fetch_add(1, Ordering::Relaxed);
        let refused = |refusal: Refusal| refuse(&quic, refusal);

        let (mut send, mut recv) = quic
            .open_bi()
            .await
            .map_err(|error| Failure::from(&error))?;
        let hello = self.hello(dial).encode();
        // Should this fail, reading tells the reason.
        let _ = send.write_all(&hello).await;
        let _ = send.finish();
        let theirs = Hello::read(&mut recv)
            .await
            .map_err(|error| refused(Refusal::BadHello(error)))?;
        let (kind, version) = self.check(&quic, &theirs).map_err(refused)?;
        let origin = Origin {
            dialed_here: true,
            dial,
        };
        let link = self
            .admit(&quic, theirs.instance, kind, version, origin)
            .map_err(refused);
        unfinished.finish();
        link
    }

    // Accepting.

    pub(super) async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.quic.accept().await {
            let remote = incoming.remote_address();
            let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
                self.counters.add_refused();
                incoming.refuse();
                continue;
            };
            let endpoint = self.clone();
            self.tasks.spawn(async move {
                let environment = endpoint.tasks.environment().clone();
                let span = endpoint.config.connect_timeout;
                let attempt = environment.timeout(span, endpoint.answer(incoming)).await;
                let late = || {
                    let reason = format!("it did not introduce itself within {span:?}");
                    Err(Failure::Unreachable(reason))
                };
                if let Err(failure) = attempt.unwrap_or_else(late) {
                    endpoint.note(canonical(remote), &failure);
                }
                drop(permit);
            });
        }
    }

    async fn answer(self: &Arc<Self>, incoming: quinn::Incoming) -> Result<(), Failure> {
        let connecting = incoming.accept().map_err(|error| Failure::from(&error))?;
        let quic = connecting.await.map_err(|error| Failure::from(&error))?;
        let unfinished = Unfinished(Some(&quic));
        let refused = |refusal: Refusal| refuse(&quic, refusal);

        let (mut send, mut recv) = quic
            .accept_bi()
            .await
            .map_err(|error| Failure::from(&error))?;
        let theirs = Hello::read(&mut recv)
            .await
            .map_err(|error| refused(Refusal::BadHello(error)))?;
        let (kind, version) = self.check(&quic, &theirs).map_err(refused)?;
        let origin = Origin {
            dialed_here: false,
            dial: theirs.dial,
        };
        let hello = self.hello(theirs.dial).encode();
        self.admit(&quic, theirs.instance, kind, version, origin)
            .map_err(refused)?;
        // Only now: the hello tells the peer that it was admitted. If it is lost, so is the connection.
        let _ = send.write_all(&hello).await;
        let _ = send.finish();
        unfinished.finish();
        Ok(())
    }

    // Both.

    fn hello(&self, dial: u64) -> Hello {
        Hello {
            cluster: self.local.cluster.clone(),
            instance: self.local.instance.clone(),
            dial,
            versions: self.local.versions,
        }
    }

    /// Compares what the peer says of itself with its certificate and with us. Whether it is a node or a client
    /// stands in the certificate alone. Also answers which version the two speak.
    fn check(&self, quic: &Connection, theirs: &Hello) -> Result<(PeerKind, u8), Refusal> {
        let local = &self.local.instance;
        let proven = proven_name(quic, &*self.mapping);
        let kind = match &proven {
            Ok(name) if *name.name() == theirs.instance.node => name.kind(),
            _ => {
                return Err(Refusal::Name {
                    claimed: theirs.instance.clone(),
                    certificate: proven.map_or_else(|reason| reason, |name| name.to_string()),
                });
            }
        };
        let both_nodes = kind == PeerKind::Node && self.local.kind == PeerKind::Node;
        if both_nodes && theirs.instance == *local {
            return Err(Refusal::Myself);
        }
        if both_nodes && theirs.instance.node == local.node {
            return Err(Refusal::SameName {
                ours: local.clone(),
                theirs: theirs.instance.clone(),
            });
        }
        if theirs.cluster != self.local.cluster {
            return Err(Refusal::Cluster {
                theirs: theirs.instance.clone(),
                their_cluster: theirs.cluster.clone(),
                ours: local.clone(),
                our_cluster: self.local.cluster.clone(),
            });
        }
        let common = self.local.versions.common(theirs.versions);
        let version = common.map_err(|none| Refusal::Version {
            theirs: theirs.instance.clone(),
            ours: local.clone(),
            none,
        })?;
        Ok((kind, version))
    }

    /// Takes up a connection, serves it from now on, and hands it to whoever waits for one.
    fn admit(
        self: &Arc<Self>,
        quic: &Connection,
        instance: Instance,
        kind: PeerKind,
        version: u8,
        origin: Origin,
    ) -> Result<Arc<Link>, Refusal> {
        let addr = canonical(quic.remote_address());
        let node = instance.node.clone();
        let peer = Peer {
            instance,
            kind,
            version,
            addr,
        };
        if kind == PeerKind::Client {
            return self.admit_client(Arc::new(Link::new(peer, origin, quic.clone())));
        }
        let link = Arc::new(Link::new(peer, origin, quic.clone()));
        let at = PeerAddr {
            node: Some(node.clone()),
            addr,
        };
        let (incoming, admitted, kept, queued) = {
            let mut state = self.state();
            let incoming = state.incoming.clone();
            let admitted =
                state
                    .connections
                    .admit(link.clone())
                    .map_err(|known| Refusal::StaleRun {
                        theirs: link.peer.instance.clone(),
                        known,
                    })?;
            let kept = state.connections.find(&at).unwrap_or(&link).clone();
            let queued = state.dials.connected(&node, &at, &kept);
            (incoming, admitted, kept, queued)
        };
        debug!(peer = %link.peer.instance, %addr, dialed = origin.dialed_here, "connected");
        for old in admitted.replaced {
            old.close(refusal::REPLACED, "a newer run of this node has connected");
        }
        if let Some(spare) = admitted.displaced {
            spare.close(refusal::SPARE, "another connection of this pair is kept");
        }
        if let Some(doubtful) = admitted.doubtful {
            doubtful.probe();
        }
        self.receive(&link, incoming);
        self.flush(&kept, queued);
        Ok(kept)
    }

    /// Takes up a client: nothing is ever opened towards it, and others of its name are none of its business.
    fn admit_client(self: &Arc<Self>, link: Arc<Link>) -> Result<Arc<Link>, Refusal> {
        let incoming = {
            let mut state = self.state();
            if state.clients.len() >= MAX_CLIENTS {
                return Err(Refusal::TooManyClients);
            }
            state.clients.push(link.clone());
            state.incoming.clone()
        };
        debug!(client = %link.peer.instance, addr = %link.peer.addr, "a client connected");
        self.receive(&link, incoming);
        Ok(link)
    }
}

/// A connection whose introduction is under way. Dropped before its end, it tells the peer that it was given up; quinn's
/// own closing frame would look as if the node had gone.
struct Unfinished<'a>(Option<&'a Connection>);

impl Unfinished<'_> {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(quic) = self.0 {
            // Without effect if it was closed for another reason.
            let code = VarInt::from_u32(refusal::GIVEN_UP);
            quic.close(code, b"the introduction took too long");
        }
    }
}

/// Closes the connection so that the peer learns the reason.
fn refuse(quic: &Connection, refusal: Refusal) -> Failure {
    quic.close(refusal.code(), refusal.to_string().as_bytes());
    refusal.into()
}

/// The name that the peer's certificate proves.
fn proven_name(quic: &Connection, mapping: &dyn NameMapping) -> Result<PeerName, String> {
    let identity = quic
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let chain = identity.ok_or("no certificate was shown")?;
    name_in_certificate(chain.first().ok_or("no certificate was shown")?, mapping)
}
