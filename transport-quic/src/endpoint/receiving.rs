//! What arrives on connections, on its way to the node.

use super::*;

impl Endpoint {
    pub(super) fn receive(
        self: &Arc<Self>,
        link: &Arc<Link>,
        incoming: Option<mpsc::Sender<Incoming>>,
    ) {
        if let Some(incoming) = incoming {
            let streams = receive_streams(link.clone(), incoming.clone());
            self.tasks.spawn(streams);
            let datagrams = self.clone().receive_datagrams(link.clone(), incoming);
            self.tasks.spawn(datagrams);
        }
    }

    /// Also sees to the end of the connection.
    async fn receive_datagrams(self: Arc<Self>, link: Arc<Link>, incoming: mpsc::Sender<Incoming>) {
        let end = loop {
            tokio::select! {
                biased;
                datagram = link.quic.read_datagram() => match datagram {
                    // A probe.
                    Ok(payload) if payload.is_empty() => {}
                    Ok(payload) => self.deliver(&incoming, &link, payload),
                    Err(error) => break error,
                },
                stream = link.quic.accept_uni() => match stream {
                    Ok(stream) => {
                        let message =
                            self.clone().receive_message(link.clone(), incoming.clone(), stream);
                        self.tasks.spawn(message);
                    }
                    Err(error) => break error,
                },
            }
        };
        match link.peer.kind {
            PeerKind::Node => self.state().connections.remove(&link),
            PeerKind::Client => {
                let mut state = self.state();
                state.clients.retain(|other| !Arc::ptr_eq(other, &link));
            }
        }
        self.note_end(&link, &end);
    }

    /// A datagram that did not fit into a packet.
    async fn receive_message(
        self: Arc<Self>,
        link: Arc<Link>,
        incoming: mpsc::Sender<Incoming>,
        mut stream: quinn::RecvStream,
    ) {
        let environment = self.tasks.environment().clone();
        let whole = stream.read_to_end(MAX_DATAGRAM_BYTES);
        match environment.timeout(self.config.idle(), whole).await {
            Some(Ok(payload)) => self.deliver(&incoming, &link, payload.into()),
            Some(Err(quinn::ReadToEndError::TooLong)) => self.counters.add_malformed(),
            // The peer gave up, or the connection ended.
            Some(Err(quinn::ReadToEndError::Read(_))) | None => {}
        }
    }

    fn deliver(&self, incoming: &mpsc::Sender<Incoming>, link: &Link, payload: Bytes) {
        if payload.len() > MAX_DATAGRAM_BYTES {
            return self.counters.add_malformed();
        }
        let arrived = Incoming::Datagram {
            from: link.peer.clone(),
            payload,
        };
        if incoming.try_send(arrived).is_err() {
            self.counters.add_dropped(1);
        }
    }
}

async fn receive_streams(link: Arc<Link>, incoming: mpsc::Sender<Incoming>) {
    while let Ok((send, recv)) = link.quic.accept_bi().await {
        let arrived = Incoming::Stream {
            from: link.peer.clone(),
            stream: link.stream(send, recv),
        };
        if incoming.send(arrived).await.is_err() {
            return;
        }
    }
}
