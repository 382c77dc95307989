//! Frames: a length (four bytes, little-endian) and that many bytes.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes before the content: its length.
pub const FRAME_HEADER_BYTES: usize = 4;

/// First allocation for a frame. A larger frame grows as its bytes arrive, so that a length costs its sender
/// about as much as it costs us.
const FIRST_ALLOCATION: usize = 64 << 10;

/// Frames up to this size leave in one write together with their header; larger ones are not copied.
const ONE_WRITE: usize = 4 << 10;

/// Why no frame was read or written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer ended the stream between two frames: no more is coming, and nothing is lost.
    #[error("the stream ended")]
    Ended,
    /// The peer ended the stream within a frame.
    #[error("the stream ended within a frame")]
    CutOff,
    /// The frame is larger than is allowed here. Nothing was allocated for it, and the stream is of no more use.
    #[error("frame of {len} bytes; at most {max} are allowed")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The peer took too long.
    #[error("the frame did not pass in time")]
    TimedOut,
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Broken(io::ErrorKind),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.kind())
    }
}

/// Reads one frame of at most `max` bytes.
pub async fn read_frame<R>(recv: &mut R, max: usize) -> Result<Bytes, FrameError>
where
    R: AsyncRead + Unpin + ?Sized,
{
    let len = read_length(recv).await?;
    if len > max {
        return Err(FrameError::TooLarge { len, max });
    }
    let mut content = BytesMut::with_capacity(len.min(FIRST_ALLOCATION));
    while content.len() < len {
        let left = len - content.len();
        if content.len() == content.capacity() {
            content.reserve(left.min(content.len().max(FIRST_ALLOCATION)));
        }
        if recv.read_buf(&mut (&mut content).limit(left)).await? == 0 {
            return Err(FrameError::CutOff);
        }
    }
    Ok(content.freeze())
}

async fn read_length<R>(recv: &mut R) -> Result<usize, FrameError>
where
    R: AsyncRead + Unpin + ?Sized,
{
    let mut header = [0; FRAME_HEADER_BYTES];
    let mut filled = 0;
    while filled < header.len() {
        match recv.read(&mut header[filled..]).await? {
            0 if filled == 0 => return Err(FrameError::Ended),
            0 => return Err(FrameError::CutOff),
            count => filled += count,
        }
    }
    Ok(u32::from_le_bytes(header) as usize)
}

/// Writes one frame and flushes it. The content must be shorter than 4 GiB.
///
/// After an error the peer does not have the whole frame: the bytes that failed were not taken.
pub async fn write_frame<W>(send: &mut W, content: &[u8]) -> Result<(), FrameError>
where
    W: AsyncWrite + Unpin + ?Sized,
{
    write_frame_after(send, &[], content).await
}

/// As [`write_frame`], after a few bytes that go ahead of the frame (the head of the stream).
pub(super) async fn write_frame_after<W>(
    send: &mut W,
    ahead: &[u8],
    content: &[u8],
) -> Result<(), FrameError>
where
    W: AsyncWrite + Unpin + ?Sized,
{
    let len = u32::try_from(content.len()).map_err(|_| FrameError::TooLarge {
        len: content.len(),
        max: u32::MAX as usize,
    })?;
    let together = if content.len() <= ONE_WRITE {
        content.len()
    } else {
        0
    };
    let mut first = Vec::with_capacity(ahead.len() + FRAME_HEADER_BYTES + together);
    first.extend_from_slice(ahead);
    first.extend_from_slice(&len.to_le_bytes());
    first.extend_from_slice(&content[..together]);
    send.write_all(&first).await?;
    send.write_all(&content[together..]).await?;
    Ok(send.flush().await?)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    const MAX: usize = 1 << 20;

    /// Delivers its bytes in pieces of at most `step`, then ends.
    struct Slow<'a> {
        bytes: &'a [u8],
        step: usize,
    }

    impl AsyncRead for Slow<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let count = self.step.min(self.bytes.len()).min(buf.remaining());
            let (now, later) = self.bytes.split_at(count);
            buf.put_slice(now);
            self.bytes = later;
            Poll::Ready(Ok(()))
        }
    }

    async fn read_bytes(bytes: &[u8], max: usize) -> Result<Bytes, FrameError> {
        read_frame(&mut Slow { bytes, step: 1 }, max).await
    }

    #[tokio::test]
    async fn the_bytes_stand_still() {
        let mut written = Vec::new();
        write_frame(&mut written, b"abc").await.unwrap();
        write_frame(&mut written, b"").await.unwrap();
        assert_eq!(written, b"\x03\0\0\0abc\0\0\0\0");
        let mut slow = Slow {
            bytes: &written,
            step: 1,
        };
        assert_eq!(read_frame(&mut slow, MAX).await.unwrap(), "abc");
        assert_eq!(read_frame(&mut slow, MAX).await.unwrap(), "");
        assert_eq!(read_frame(&mut slow, MAX).await, Err(FrameError::Ended));
    }

    #[tokio::test]
    async fn an_end_is_told_from_a_cut() {
        assert_eq!(read_bytes(b"", MAX).await, Err(FrameError::Ended));
        for cut in 1..7 {
            let cut_off = read_bytes(&b"\x03\0\0\0abc"[..cut], MAX).await;
            assert_eq!(cut_off, Err(FrameError::CutOff), "after {cut} bytes");
        }
    }

    #[tokio::test]
    async fn the_bound_is_exact() {
        assert_eq!(read_bytes(b"\x03\0\0\0abc", 3).await.unwrap(), "abc");
        assert_eq!(
            read_bytes(b"\x03\0\0\0abc", 2).await,
            Err(FrameError::TooLarge { len: 3, max: 2 })
        );
        // Refused at the length: the reader does not wait for four gigabytes.
        let endless = read_bytes(b"\xff\xff\xff\xff", MAX).await;
        let len = u32::MAX as usize;
        assert_eq!(endless, Err(FrameError::TooLarge { len, max: MAX }));
    }

    #[tokio::test]
    async fn large_frames_grow_through_every_step() {
        for len in [
            ONE_WRITE,
            ONE_WRITE + 1,
            FIRST_ALLOCATION - 1,
            FIRST_ALLOCATION,
            FIRST_ALLOCATION + 1,
            MAX,
        ] {
            let content: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let mut written = Vec::new();
            write_frame(&mut written, &content).await.unwrap();
            let mut whole = Slow {
                bytes: &written,
                step: 10_000,
            };
            assert!(read_frame(&mut whole, MAX).await.unwrap() == content);
            assert!(whole.bytes.is_empty());
        }
    }

    /// Claims a frame of almost 16 MiB, ends there, and says how much room the reader had made for it.
    struct Room(usize);

    impl AsyncRead for Room {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.0 = self.0.max(buf.remaining());
            if buf.remaining() <= FRAME_HEADER_BYTES {
                let missing = buf.remaining();
                buf.put_slice(&[0xff, 0xff, 0xff, 0x00][FRAME_HEADER_BYTES - missing..]);
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_length_alone_does_not_allocate() {
        let mut room = Room(0);
        let cut = read_frame(&mut room, usize::MAX).await;
        assert_eq!(cut, Err(FrameError::CutOff));
        assert!(room.0 <= FIRST_ALLOCATION, "{} bytes were offered", room.0);
    }

    proptest! {
        #[test]
        fn hostile_streams_end_in_frames_or_errors(
            bytes in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..200),
            step in 1_usize..9,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut slow = Slow { bytes: &bytes, step };
                let mut consumed = 0;
                loop {
                    match read_frame(&mut slow, 64).await {
                        Ok(frame) => {
                            let at = consumed + FRAME_HEADER_BYTES;
                            consumed = at + frame.len();
                            assert_eq!(frame[..], bytes[at..consumed]);
                        }
                        Err(FrameError::Ended) => {
                            assert_eq!(consumed, bytes.len());
                            break;
                        }
                        Err(FrameError::TooLarge { len, .. }) => {
                            assert!(len > 64);
                            break;
                        }
                        Err(error) => {
                            assert_eq!(error, FrameError::CutOff);
                            assert!(consumed < bytes.len());
                            break;
                        }
                    }
                }
            });
        }
    }
}
