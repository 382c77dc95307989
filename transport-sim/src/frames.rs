//! Frames over a simulated TCP connection, read so that waiting for one may be given up.

use bytes::{Buf, Bytes, BytesMut};
use funk::wire::FrameError;
use tokio::io::AsyncReadExt;
use turmoil::net::tcp::OwnedReadHalf;

/// Room for what arrives at once.
const READ_BYTES: usize = 4 << 10;

/// Before the content: its length.
pub(crate) const HEADER_BYTES: usize = 4;

/// Reads frames: a length (four bytes, little-endian) and that many bytes.
pub(crate) struct Frames {
    connection: OwnedReadHalf,
    /// Arrived, not yet handed out.
    buffer: BytesMut,
}

impl Frames {
    pub(crate) fn new(connection: OwnedReadHalf) -> Self {
        Self {
            connection,
            buffer: BytesMut::new(),
        }
    }

    /// The next frame, of at most `max` bytes. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self, max: usize) -> Result<Bytes, FrameError> {
        loop {
            if let Some(frame) = self.take(max)? {
                return Ok(frame);
            }
            self.buffer.reserve(READ_BYTES);
            if self.connection.read_buf(&mut self.buffer).await? == 0 {
                return Err(if self.buffer.is_empty() {
                    FrameError::Ended
                } else {
                    FrameError::CutOff
                });
            }
        }
    }

    fn take(&mut self, max: usize) -> Result<Option<Bytes>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*header) as usize;
        if len > max {
            return Err(FrameError::TooLarge { len, max });
        }
        if self.buffer.len() < HEADER_BYTES + len {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}
