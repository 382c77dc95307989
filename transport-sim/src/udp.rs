//! Turmoil's UDP as the socket that quinn wants.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use turmoil::net::UdpSocket;

use crate::network::SimNetwork;
use crate::ports::Socket;

/// A UDP port of the running simulated host. Sending never fails: what goes nowhere is lost, as in any network.
pub(crate) struct SimUdp {
    socket: Arc<Socket<Port>>,
    addr: SocketAddr,
    network: SimNetwork,
}

struct Port {
    /// Waits for the next packet, and holds turmoil's lock on the queue meanwhile.
    readable: Option<Readable>,
    udp: Arc<UdpSocket>,
}

type Readable = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

impl fmt::Debug for SimUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimUdp").field(&self.addr).finish()
    }
}

impl SimUdp {
    /// Listens at `addr`, whose IP address must be that of the running turmoil host. Port 0: any free one.
    pub(crate) async fn bind(addr: SocketAddr, network: &SimNetwork) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, addr.port())).await?;
        let addr = SocketAddr::new(addr.ip(), socket.local_addr()?.port());
        let socket = Socket::new(Port {
            readable: None,
            udp: Arc::new(socket),
        });
        network.enlist(addr.ip(), &socket);
        Ok(Self {
            socket,
            addr,
            network: network.clone(),
        })
    }

    /// Where peers reach it.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for SimUdp {
    fn drop(&mut self) {
        self.socket.close();
    }
}

impl AsyncUdpSocket for SimUdp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // Quinn still sends when what it is made of is dropped, in an order that does not repeat: at a crash, and
        // after the end of the simulation.
        if !turmoil::in_simulation() || !self.network.has_power(self.addr.ip()) {
            return Ok(());
        }
        let port = self.socket.lock().as_ref().map(|port| port.udp.clone());
        let Some(udp) = port else {
            return Ok(());
        };
        let (to, packet) = (transmit.destination, transmit.contents);
        self.network.note_length(self.addr, to, packet.len());
        if !self.network.loses() {
            let _ = udp.try_send_to(packet, to);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut socket = self.socket.lock();
        let Some(Port { readable, udp }) = &mut *socket else {
            return Poll::Pending;
        };
        loop {
            // Gives the lock back.
            *readable = None;
            let mut received = 0;
            for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
                let Ok((len, addr)) = udp.try_recv_from(buf) else {
                    break;
                };
                *meta = RecvMeta {
                    addr,
                    len,
                    stride: len,
                    ..RecvMeta::default()
                };
                received += 1;
            }
            if received > 0 {
                return Poll::Ready(Ok(received));
            }
            let udp = udp.clone();
            let mut waiting: Readable = Box::pin(async move { udp.readable().await });
            match waiting.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    *readable = Some(waiting);
                    return Poll::Pending;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    /// No: so that quinn looks for the largest packet that passes, as it does on real paths.
    fn may_fragment(&self) -> bool {
        false
    }
}

/// The simulated network takes everything at once.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use funk::ids::NodeId;

    use super::*;
    use crate::{Clock, Simulation, SimulationConfig};

    /// Says farewell when it is dropped, as quinn does with connections that nobody has accepted yet.
    struct Farewell(SimUdp, SocketAddr);

    impl Drop for Farewell {
        fn drop(&mut self) {
            send(&self.0, self.1);
        }
    }

    fn send(socket: &SimUdp, destination: SocketAddr) {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: b"farewell",
            segment_size: None,
            src_ip: None,
        };
        socket.try_send(&transmit).unwrap();
    }

    #[test]
    fn packets_arrive_and_none_leaves_a_host_that_loses_its_power() {
        let mut simulation = Simulation::new(&SimulationConfig::new(1));
        let network = simulation.network().clone();
        let [alice, bob] = ["alice", "bob"].map(|name| NodeId::new(name).unwrap());
        let heard = Rc::new(Cell::new(0));
        let (by_bob, bobs) = (heard.clone(), network.clone());
        simulation.add(&bob, Clock::default(), move |node| {
            let (heard, network) = (by_bob.clone(), bobs.clone());
            async move {
                let socket = SimUdp::bind(node.addr_of(&node.name), &network).await?;
                let (mut first, mut second) = ([0; 100], [0; 100]);
                loop {
                    let mut meta = [RecvMeta::default(); 2];
                    let count = std::future::poll_fn(|cx| {
                        let (first, second) =
                            (IoSliceMut::new(&mut first), IoSliceMut::new(&mut second));
                        socket.poll_recv(cx, &mut [first, second], &mut meta)
                    })
                    .await?;
                    for meta in &meta[..count] {
                        assert_eq!((meta.len, meta.stride), (8, 8));
                        heard.set(heard.get() + 1);
                    }
                }
            }
        });
        let (alices, to) = (network.clone(), bob.clone());
        simulation.add(&alice, Clock::default(), move |node| {
            let (network, to) = (alices.clone(), node.addr_of(&to));
            async move {
                let socket = SimUdp::bind(node.addr_of(&node.name), &network).await?;
                (0..5).for_each(|_| send(&socket, to));
                let _farewell = Farewell(socket, to);
                std::future::pending().await
            }
        });
        simulation.run_for(Duration::from_millis(20)).unwrap();
        assert_eq!((heard.get(), network.messages()), (5, 5));
        let before = simulation.fingerprint();
        simulation.crash(&alice);
        simulation.run_for(Duration::from_millis(20)).unwrap();
        assert_eq!((heard.get(), network.messages()), (5, 5));
        assert_eq!(simulation.fingerprint(), before);
        simulation.restart(&alice);
        simulation.run_for(Duration::from_millis(20)).unwrap();
        assert_eq!((heard.get(), network.messages()), (10, 10));
        drop(simulation);
        assert_eq!(network.messages(), 10, "nor after the end");
    }
}
