//! What nodes say to each other, as bytes: the one framing that every transport carries.
//!
//! A transport moves datagrams and byte streams; it knows nothing of what is in them. Here is what is in them.
//! A datagram is a kind byte, a version byte and a body ([`datagram`]). A stream begins with a kind byte
//! and a version byte ([`stream`]) and goes on with frames, each a length and that many bytes ([`frame`]).
//! Most streams are one request and one response ([`rpc`]), some are many, one after the other ([`conversation`]).
//!
//! Whatever a peer sends, the answer is a value or a typed error: nothing here panics, waits without a
//! deadline, or allocates more than a small multiple of the bytes that really arrived.
//!
//! Public so that it can be fuzzed; users of the library have no need of it, and it may change in any release.

pub mod conversation;
pub mod datagram;
pub mod frame;
pub mod rpc;
pub mod stream;

pub use conversation::{Conversations, serve_all};
pub use datagram::{WireError, decode_datagram, encode_datagram};
pub use frame::{FrameError, read_frame, write_frame};
pub use rpc::{Lost, NotSent, Rpc, RpcError, read_request, respond, serve};
pub use stream::{AcceptError, StreamKind, accept};

/// The newest version of the protocol that this program writes: the second byte of every datagram and stream.
pub const PROTOCOL_VERSION: u8 = crate::versions::NEWEST;
