//! Datagrams and streams.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use funk::fuzzing::reencode_gossip;
use funk::ids::ClusterName;
use funk::limits::{MAX_DATAGRAM_BYTES, MAX_FRAME_BYTES};
use funk::runtime::Environment;
use funk::transport::Stream;
use funk::wire::{
    FrameError, accept, decode_datagram, encode_datagram, read_frame, read_request, write_frame,
};
use tokio::io::{AsyncRead, ReadBuf};

use crate::allocation::Bound;

/// A list of raft members (of a bootstrap set): 3 bytes each when encoded, 24 in memory and two allocations for the name.
const DATAGRAM: Bound = Bound::linear(1 << 10, 64);
/// A list of SWIM's members: some 15 bytes each when encoded, some 150 in memory. Reading and writing are measured.
const GOSSIP: Bound = Bound::linear(4 << 10, 64);
/// The first allocation for a frame is at most 64 KiB; larger ones double as their bytes arrive. An empty frame has
/// 4 bytes, and its handle 32 in our list, which doubles. The rest is for the task.
const FRAMES: Bound = Bound::linear((64 << 10) + (8 << 10), 64);

/// A datagram.
pub fn datagram(bytes: &[u8]) {
    let Ok(message) = DATAGRAM.hold(bytes.len(), || {
        decode_datagram(bytes, funk::versions::VersionRange::SPOKEN)
    }) else {
        return;
    };
    let again = encode_datagram(&message, funk::versions::NEWEST);
    // Integers have longer spellings too: written again, a message never grows.
    assert!(again.len() <= bytes.len() && again.len() <= MAX_DATAGRAM_BYTES);
    assert_eq!(
        decode_datagram(&again, funk::versions::VersionRange::SPOKEN),
        Ok(message)
    );
}

/// The cluster whose gossip is decoded. Its digest stands in the seeds.
pub fn gossip_cluster() -> ClusterName {
    ClusterName::new("fuzz").expect("a short lower-case name")
}

/// What is inside a gossip datagram. The engine's target drives the machine behind it.
pub fn gossip(bytes: &[u8]) {
    let cluster = gossip_cluster();
    let reencode = || reencode_gossip(&cluster, bytes);
    if let Some(again) = GOSSIP.hold(bytes.len(), reencode) {
        assert_eq!(reencode_gossip(&cluster, &again), Some(again));
    }
}

/// Delivers its bytes in pieces of at most `step`, then ends.
struct Pieces {
    bytes: Bytes,
    step: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.step.min(self.bytes.len()).min(buf.remaining());
        buf.put_slice(&self.bytes.split_to(count));
        Poll::Ready(Ok(()))
    }
}

/// How long a stream may take. Nothing waits here: all bytes are there.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A stream from its first byte: head, then frames until it ends. The first byte of the input says in which pieces it
/// arrives, the second how large a frame may be.
pub fn stream(input: &[u8]) {
    let &[step, max, ref content @ ..] = input else {
        return;
    };
    let max = match max {
        0 => 0,
        1..128 => usize::from(max) * 8,
        _ => MAX_FRAME_BYTES,
    };
    let pieces = |bytes: &[u8]| Pieces {
        bytes: Bytes::copy_from_slice(bytes),
        step: usize::from(step) + 1,
    };
    let stream = Stream {
        send: Box::new(tokio::io::sink()),
        recv: Box::new(pieces(content)),
    };
    let environment = Environment::system();
    let runtime = runtime();
    let frames = FRAMES.hold(content.len(), || {
        runtime.block_on(frames(&environment, stream, max))
    });
    let Some(frames) = frames else {
        assert!(
            content.len() < 2
                || content[1] != funk::wire::PROTOCOL_VERSION
                || content[0] > 7
                || content[0] == 0
        );
        return;
    };
    // What was read, written again, is what was there.
    let mut again = content[..2].to_vec();
    runtime.block_on(async {
        for frame in &frames {
            write_frame(&mut again, frame)
                .await
                .expect("memory takes all");
        }
    });
    assert_eq!(again, content[..again.len()]);
}

async fn frames(environment: &Environment, stream: Stream, max: usize) -> Option<Vec<Bytes>> {
    let (_, mut stream) = accept(
        environment,
        stream,
        funk::versions::VersionRange::SPOKEN,
        PATIENCE,
    )
    .await
    .ok()?;
    let mut frames = Vec::new();
    // The first as a request is read, the others as frames of a longer exchange.
    let mut next = read_request(environment, &mut stream, max, PATIENCE).await;
    loop {
        match next {
            Ok(frame) => {
                assert!(frame.len() <= max);
                frames.push(frame);
            }
            Err(FrameError::TooLarge { len, max: bound }) => {
                assert!(len > max && bound == max);
                return Some(frames);
            }
            Err(error) => {
                assert!(matches!(error, FrameError::Ended | FrameError::CutOff));
                return Some(frames);
            }
        }
        next = read_frame(&mut *stream.recv, max).await;
    }
}

/// A runtime for futures that are ready at once; made once, because a run takes microseconds.
struct Runtime(&'static tokio::runtime::Runtime);

impl Runtime {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }
}

fn runtime() -> Runtime {
    static RUNTIME: std::sync::LazyLock<tokio::runtime::Runtime> = std::sync::LazyLock::new(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().expect("a runtime without IO")
    });
    Runtime(&RUNTIME)
}
