//! Requests and answers of raft, as frames over the simulated TCP: one connection for each of openraft's clients.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use openraft_rt::AsyncRuntime;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use turmoil::net::{TcpListener, TcpStream};

use super::{Raft, Runtime, TypeConfig};

const PORT: u16 = 7_000;

type RpcError = RPCError<TypeConfig>;
type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Vec<u8>>;
type Vote = openraft::alias::VoteOf<TypeConfig>;

#[derive(Serialize, Deserialize)]
enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
}

#[derive(Serialize, Deserialize)]
enum Reply {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
}

/// Makes the clients, and counts what is sent.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) messages: Arc<AtomicU64>,
}

/// To one node: what it is asked goes to the task that has the connection.
pub(super) struct Client {
    calls: mpsc::Sender<Call>,
}

type Call = (Request, oneshot::Sender<io::Result<Reply>>);

/// Name of a node's host.
pub(super) fn host(id: u64) -> String {
    format!("raft{id}")
}

pub(super) async fn listen() -> io::Result<TcpListener> {
    TcpListener::bind(("0.0.0.0", PORT)).await
}

/// Answers whoever connects, for ever.
pub(super) async fn serve(
    listener: TcpListener,
    raft: Raft,
    messages: Arc<AtomicU64>,
) -> turmoil::Result {
    loop {
        let (stream, _) = listener.accept().await?;
        // It ends with its connection.
        drop(Runtime::spawn(answer(
            stream,
            raft.clone(),
            messages.clone(),
        )));
    }
}

async fn answer(mut stream: TcpStream, raft: Raft, messages: Arc<AtomicU64>) {
    while let Ok(request) = read(&mut stream).await {
        let reply = match request {
            Request::Append(append) => raft.append_entries(append).await.map(Reply::Append),
            Request::Vote(vote) => raft.vote(vote).await.map(Reply::Vote),
            Request::PreVote(vote) => raft.pre_vote(vote).await.map(Reply::Vote),
        };
        let Ok(reply) = reply else { return };
        if write(&mut stream, &reply, &messages).await.is_err() {
            return;
        }
    }
}

async fn write<T: Serialize>(
    stream: &mut TcpStream,
    message: &T,
    messages: &AtomicU64,
) -> io::Result<()> {
    let length = vec![0; 4];
    let mut frame = postcard::to_extend(message, length).map_err(io::Error::other)?;
    let length = frame.len() as u32 - 4;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    messages.fetch_add(1, Ordering::Relaxed);
    stream.write_all(&frame).await
}

async fn read<T: DeserializeOwned>(stream: &mut TcpStream) -> io::Result<T> {
    let length = stream.read_u32().await?;
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame).await?;
    postcard::from_bytes(&frame).map_err(io::Error::other)
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Client {
        let (calls, asked) = mpsc::channel(1);
        // It ends with the client.
        drop(Runtime::spawn(connect(
            target,
            asked,
            self.messages.clone(),
        )));
        Client { calls }
    }
}

/// Asks a node one thing after the other. What the caller does not wait for any more is read all the same, so that the
/// connection is fit for the next.
async fn connect(to: u64, mut calls: mpsc::Receiver<Call>, messages: Arc<AtomicU64>) {
    let mut connection = None;
    while let Some((request, answer)) = calls.recv().await {
        let exchange = async {
            let mut stream = match connection.take() {
                Some(stream) => stream,
                None => TcpStream::connect((host(to), PORT)).await?,
            };
            write(&mut stream, &request, &messages).await?;
            let reply = read(&mut stream).await?;
            connection = Some(stream);
            Ok(reply)
        };
        // Nobody waits: given up.
        let _ = answer.send(exchange.await);
    }
}

impl Client {
    async fn call(&mut self, request: Request, option: RPCOption) -> Result<Reply, RpcError> {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
            self.calls
                .send((request, answer))
                .await
                .map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        };
        let exchanged = Runtime::timeout(option.soft_ttl(), exchange).await;
        let exchanged = exchanged.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        exchanged.map_err(unreachable)
    }
}

fn unreachable(reason: impl ToString) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        match self.call(Request::Append(request), option).await? {
            Reply::Append(response) => Ok(response),
            Reply::Vote(_) => Err(unreachable("an answer to something else")),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self.call(Request::Vote(request), option).await? {
            Reply::Vote(response) => Ok(response),
            Reply::Append(_) => Err(unreachable("an answer to something else")),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self.call(Request::PreVote(request), option).await? {
            Reply::Vote(response) => Ok(response),
            Reply::Append(_) => Err(unreachable("an answer to something else")),
        }
    }

    /// There are no snapshots: the log is two entries long.
    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: Snapshot,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let reason = Unreachable::from_string("no snapshots are sent");
        Err(StreamingError::Unreachable(reason))
    }
}
