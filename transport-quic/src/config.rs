//! What can be tuned. The defaults suit a LAN and work over the Internet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

/// Bytes of one stream that the peer may send before they are read: half of the largest request.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of all streams of a connection that may wait to be read.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Bytes of all streams of a connection that may wait to be acknowledged.
const SEND_WINDOW_BYTES: u64 = 16 << 20;
/// Messages that travel as unidirectional streams at the same time: datagrams that do not fit a packet are rare.
pub(crate) const MAX_MESSAGE_STREAMS: u32 = 64;
/// Datagrams not yet read: older ones are worth less than newer ones, so few are kept.
const DATAGRAM_RECEIVE_BYTES: usize = 256 << 10;
/// Datagrams not yet sent.
pub(crate) const DATAGRAM_SEND_BYTES: usize = 64 << 10;

/// Times and sizes of a [`QuicTransport`](crate::QuicTransport).
#[derive(Clone, PartialEq, Debug)]
pub struct QuicConfig {
    /// The address to name to peers when the bound one is not reachable as it stands (`0.0.0.0`, a port that is
    /// mapped). Port 0 stands for the bound port.
    pub advertised: Option<SocketAddr>,
    /// A connection without traffic is dropped, silently, after this time; at least 50 ms.
    /// Open streams keep it alive.
    pub idle_timeout: Duration,
    /// Time for a handshake, introduction included.
    pub connect_timeout: Duration,
    /// Pause after a first failed attempt to connect; doubled by each further one.
    pub backoff_min: Duration,
    /// Longest pause between attempts to connect to the same address.
    pub backoff_max: Duration,
    /// Round trip assumed before one was measured. A lost first packet is sent again after three times this.
    pub initial_rtt: Duration,
    /// UDP payload that every path carries from the start, in bytes; at least 1,200. Larger ones are discovered.
    pub initial_mtu: u16,
    /// Streams that a peer may have open towards this node on one connection.
    pub max_streams: u32,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            advertised: None,
            idle_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            initial_rtt: Duration::from_millis(100),
            initial_mtu: 1_200,
            max_streams: 4_096,
        }
    }
}

/// Shorter and a connection would die between two packets of one exchange.
const MIN_IDLE_TIMEOUT: Duration = Duration::from_millis(50);

impl QuicConfig {
    /// The idle timeout within its bounds.
    pub(crate) fn idle(&self) -> Duration {
        self.idle_timeout.max(MIN_IDLE_TIMEOUT)
    }

    pub(crate) fn transport(&self) -> Arc<TransportConfig> {
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(self.max_streams.into())
            .max_concurrent_uni_streams(MAX_MESSAGE_STREAMS.into())
            .max_idle_timeout(Some(
                IdleTimeout::try_from(self.idle()).unwrap_or(VarInt::MAX.into()),
            ))
            .stream_receive_window(STREAM_WINDOW_BYTES.into())
            .receive_window(CONNECTION_WINDOW_BYTES.into())
            .send_window(SEND_WINDOW_BYTES)
            // Requests are short: one after the other is sooner done than all at once.
            .send_fairness(false)
            .initial_rtt(self.initial_rtt)
            .initial_mtu(self.initial_mtu.max(1_200))
            .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BYTES))
            .datagram_send_buffer_size(DATAGRAM_SEND_BYTES);
        Arc::new(transport)
    }
}
