//! A client: it is no member of the cluster and asks any of some nodes to deliver its calls.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::builder::{ConfigError, StartError};
use crate::call::{Answer, CallError, Request};
use crate::cordon::{self, CordonError};
use crate::engine::Cordon;
use crate::ids::{BootId, ClusterName, Instance, NodeId, PeerAddr};
use crate::limits::{MAX_FRAME_BYTES, MAX_REQUEST_BYTES};
use crate::routing::clients::{ClientRequest, ClientResponse};
use crate::runtime::Environment;
use crate::status::NodeStatus;
use crate::time::Time;
use crate::transport::{LocalNode, PeerKind, Transport, TransportError};
use crate::versions::VersionRange;
use crate::wire::{NotSent, Rpc, RpcError, StreamKind, read_frame, write_frame};
use tokio::io::AsyncWriteExt;

/// Most addresses of a client.
pub const MAX_ADDRESSES: usize = 64;
/// Shortest and longest time in which an attempt must come to something before another node is asked. What may
/// have been executed waits longer, unless it is idempotent.
const SLICE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(500));
/// The serving node is given this part of an attempt's time, so that its "not executed" still arrives in time.
const SERVER_PART: f64 = 0.9;
/// Pause after all nodes were asked in vain; doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long a node that failed is passed over while another one is there; doubles up to the longest.
const SHUN: Duration = Duration::from_millis(100);
const SHUN_MAX: Duration = Duration::from_secs(2);
/// How long a node may take to say what it is.
const STATUS_WITHIN: Duration = Duration::from_secs(3);

/// A client of a cluster. Cheap to clone; clones share their connections.
///
/// It prefers one node for as long as that answers. What was certainly not executed is sent to the next node until the
/// deadline; what may have been executed is sent again only if the request is
/// [idempotent](Request::idempotent), otherwise it is [`CallError::Ambiguous`].
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    name: NodeId,
    environment: Environment,
    transport: Arc<dyn Transport>,
    rpc: Rpc,
    servers: Mutex<Servers>,
}

struct Servers {
    list: Vec<Server>,
    /// Who is asked first.
    preferred: usize,
}

struct Server {
    addr: SocketAddr,
    failures: u32,
    /// Until when others are asked first.
    shunned_until: Time,
}

/// What one attempt led to.
enum Attempt {
    Done(Result<Answer, CallError>),
    /// The node says: certainly not executed.
    NotExecuted(String),
    /// Nothing was asked of the node.
    NotReached(NotSent),
    /// The node says: it may have been executed.
    Ambiguous(String),
    /// It may have been executed, and the node says nothing.
    Lost(String),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.0.name)
    }
}

impl Client {
    /// Starts a client on the caller's tokio runtime. The transport's credentials must prove `name` to be a
    /// client's. Any number of clients may have the same name. Nothing is connected to before the first call.
    pub fn start(
        cluster: &str,
        name: &str,
        transport: Arc<dyn Transport>,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Self, StartError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(StartError::NoRuntime);
        }
        let addresses: Vec<_> = addresses.into_iter().collect();
        let (cluster, name) = check(cluster, name, &addresses).map_err(StartError::Config)?;
        let environment = Environment::current();
        let mut incoming = transport.start(LocalNode {
            versions: VersionRange::SPOKEN,
            cluster,
            instance: Instance {
                node: name.clone(),
                boot: BootId(environment.wall_nanos()),
            },
            kind: PeerKind::Client,
        })?;
        // Nobody asks anything of a client. The task ends with the transport.
        environment.spawn(async move { while incoming.recv().await.is_some() {} });
        let server = |addr| Server {
            addr,
            failures: 0,
            shunned_until: Time::default(),
        };
        Ok(Self(Arc::new(Shared {
            name,
            rpc: Rpc::new(transport.clone(), environment.clone()),
            environment,
            transport,
            servers: Mutex::new(Servers {
                list: addresses.into_iter().map(server).collect(),
                preferred: 0,
            }),
        })))
    }

    /// Delivers a request to the owner of its shard through any of the nodes, and brings back the answer.
    pub async fn call(&self, request: Request) -> Result<Answer, CallError> {
        self.call_counting(request).await.0
    }

    /// As [`call`](Self::call); also says how many attempts were made.
    pub async fn call_counting(&self, request: Request) -> (Result<Answer, CallError>, u32) {
        let shared = self.0.clone();
        let environment = shared.environment.clone();
        let call = async move {
            let mut attempts = 0;
            let result = shared.call(&request, &mut attempts).await;
            (result, attempts)
        };
        environment.scope(call).await
    }

    /// What the node at an address is at the moment.
    pub async fn status(&self, addr: SocketAddr) -> Result<NodeStatus, CallError> {
        let shared = self.0.clone();
        let environment = shared.environment.clone();
        let ask = async move {
            let to = PeerAddr { node: None, addr };
            let asked = shared.rpc.call(
                &to,
                StreamKind::Status,
                Bytes::new(),
                MAX_FRAME_BYTES,
                STATUS_WITHIN,
            );
            match asked.await {
                Ok((_, answer)) => postcard::from_bytes(&answer).map_err(|_| {
                    let reason = "it answered with something else than a status";
                    CallError::Unreachable(format!("{addr}: {reason}; is it another release?"))
                }),
                Err(RpcError::NotSent(reason)) => Err(CallError::Unreachable(in_words(
                    addr,
                    &reason,
                    STATUS_WITHIN,
                ))),
                Err(RpcError::Lost(reason)) => {
                    Err(CallError::Unreachable(format!("{addr}: {reason}")))
                }
            }
        };
        environment.scope(ask).await
    }

    /// Has the node at `addr` see to it that a node gets no shards (`None`: that it gets them again), and waits until that
    /// holds; as [`Cluster::cordon`](crate::Cluster::cordon) and its kin.
    pub async fn set_cordon(
        &self,
        addr: SocketAddr,
        node: &NodeId,
        cordon: Option<Cordon>,
    ) -> Result<(), CordonError> {
        let (shared, node) = (self.0.clone(), node.clone());
        let environment = shared.environment.clone();
        let ask = async move {
            let to = PeerAddr { node: None, addr };
            cordon::request(&shared.rpc, &to, &node, cordon).await
        };
        environment.scope(ask).await
    }

    /// Closes all connections. Calls that are under way end as they would if all nodes fell silent.
    pub async fn close(&self) {
        self.0.transport.close().await;
    }
}

fn check(
    cluster: &str,
    name: &str,
    addresses: &[SocketAddr],
) -> Result<(ClusterName, NodeId), Vec<ConfigError>> {
    let mut errors = Vec::new();
    let mut wrong = |key: &'static str, value: String, allowed: String| {
        errors.push(ConfigError {
            key,
            value,
            allowed,
        });
    };
    let cluster_name = ClusterName::new(cluster)
        .map_err(|error| wrong("cluster", format!("{cluster:?}"), error.to_string()))
        .ok();
    let client = NodeId::new(name)
        .map_err(|error| wrong("client", format!("{name:?}"), error.to_string()))
        .ok();
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
        wrong(
            "addresses",
            addresses.len().to_string(),
            format!("1 to {MAX_ADDRESSES} addresses of nodes are possible"),
        );
    }
    match (cluster_name, client) {
        (Some(cluster), Some(client)) if errors.is_empty() => Ok((cluster, client)),
        _ => Err(errors),
    }
}

pub(crate) fn in_words(addr: SocketAddr, reason: &NotSent, within: Duration) -> String {
    match reason {
        // It names the address itself.
        NotSent::Transport(error) => error.to_string(),
        NotSent::Deadline => format!("{addr} does not answer within {within:?}"),
        other => format!("{addr}: {other}"),
    }
}

impl Shared {
    async fn call(&self, request: &Request, attempts: &mut u32) -> Result<Answer, CallError> {
        if request.body.len() > MAX_REQUEST_BYTES {
            return Err(CallError::TooLarge {
                found: request.body.len(),
                max: MAX_REQUEST_BYTES,
            });
        }
        let deadline = self.environment.now() + request.deadline;
        let count = self.servers().list.len() as u32;
        let mut slice = (request.deadline / (2 * count)).clamp(SLICE.0, SLICE.1);
        let mut pause = PAUSE;
        let mut perhaps_executed = None;
        let mut waited_for = None;
        // By address: why it could not be asked, and whether it refused.
        let mut obstacles: BTreeMap<SocketAddr, (String, bool)> = BTreeMap::new();
        let mut at = self.servers().preferred;
        loop {
            let time_left = deadline.since(self.environment.now());
            if time_left.is_zero() {
                break;
            }
            *attempts += 1;
            let addr;
            (at, addr) = self.servers().choose(at, self.environment.now());
            match self.attempt(addr, request, time_left, slice).await {
                Attempt::Done(result) => {
                    self.servers().answered(at);
                    return result;
                }
                Attempt::NotExecuted(reason) => {
                    obstacles.remove(&addr);
                    self.servers().answered(at);
                    self.servers().pass_over(at);
                    waited_for = Some(reason);
                }
                Attempt::NotReached(reason) => {
                    let refused = matches!(
                        reason,
                        NotSent::Transport(TransportError::Refused { .. } | TransportError::Closed)
                    );
                    let reason = in_words(addr, &reason, slice.min(time_left));
                    obstacles.insert(addr, (reason, refused));
                    self.servers().failed(at, self.environment.now());
                    if obstacles.len() == count as usize
                        && obstacles.values().all(|(_, refused)| *refused)
                    {
                        // Waiting changes nothing about that.
                        break;
                    }
                }
                Attempt::Ambiguous(reason) => {
                    self.servers().answered(at);
                    self.servers().pass_over(at);
                    if !request.idempotent {
                        return Err(CallError::Ambiguous(reason));
                    }
                    perhaps_executed = Some(reason);
                }
                Attempt::Lost(reason) => {
                    self.servers().failed(at, self.environment.now());
                    let reason = format!("{addr}: {reason}");
                    if !request.idempotent {
                        return Err(CallError::Ambiguous(reason));
                    }
                    perhaps_executed = Some(reason);
                }
            }
            at += 1;
            if attempts.is_multiple_of(count) {
                let time_left = deadline.since(self.environment.now());
                self.environment.sleep(pause.min(time_left)).await;
                pause = (pause * 2).min(PAUSE_MAX);
                // Perhaps everything is only slow.
                slice = slice.saturating_mul(2).min(request.deadline);
            }
        }
        let reasons: Vec<_> = obstacles.into_values().map(|(reason, _)| reason).collect();
        Err(match (perhaps_executed, waited_for) {
            (Some(reason), _) => CallError::Ambiguous(format!(
                "{reason}; no other attempt was answered before the deadline"
            )),
            (None, Some(waited_for)) => CallError::Deadline { waited_for },
            (None, None) if reasons.is_empty() => CallError::Deadline {
                waited_for: "time for an attempt".to_owned(),
            },
            (None, None) => CallError::Unreachable(reasons.join("; ")),
        })
    }

    /// Asks one node, once.
    async fn attempt(
        &self,
        addr: SocketAddr,
        request: &Request,
        time_left: Duration,
        slice: Duration,
    ) -> Attempt {
        let slice = slice.min(time_left);
        let answer_within = if request.idempotent { slice } else { time_left };
        let to = PeerAddr { node: None, addr };
        let opened = self.rpc.open(&to, StreamKind::ClientCall, slice).await;
        let mut stream = match opened {
            Ok((_, stream)) => stream,
            Err(reason) => return Attempt::NotReached(reason),
        };
        let message = ClientRequest::new(request, answer_within.mul_f64(SERVER_PART)).encode();
        let mut is_sent = false;
        let exchange = async {
            if let Err(error) = write_frame(&mut *stream.send, &message).await {
                return Attempt::NotReached(NotSent::Broken(error));
            }
            is_sent = true;
            // A node that has answered already may refuse our end of the stream.
            let _ = stream.send.shutdown().await;
            match read_frame(&mut *stream.recv, MAX_FRAME_BYTES).await {
                Ok(response) => understand(&response),
                Err(error) => Attempt::Lost(format!("the request was sent, but {error}")),
            }
        };
        let result = self.environment.timeout(answer_within, exchange).await;
        result.unwrap_or_else(|| {
            if is_sent {
                Attempt::Lost(format!("no answer within {answer_within:?}"))
            } else {
                Attempt::NotReached(NotSent::Deadline)
            }
        })
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn understand(response: &[u8]) -> Attempt {
    match ClientResponse::decode(response) {
        Some(ClientResponse::Answer {
            owner,
            shard,
            epoch,
            body,
        }) => Attempt::Done(Ok(Answer {
            body,
            owner,
            epoch,
            shard,
        })),
        Some(ClientResponse::ServiceError(error)) => Attempt::Done(Err(CallError::Service(error))),
        Some(ClientResponse::NoSuchService { node, service }) => {
            Attempt::Done(Err(CallError::NoSuchService { node, service }))
        }
        Some(ClientResponse::NoSuchShard { shard, shards }) => {
            Attempt::Done(Err(CallError::NoSuchShard { shard, shards }))
        }
        Some(ClientResponse::NotExecuted(reason)) => Attempt::NotExecuted(reason),
        Some(ClientResponse::Ambiguous(reason)) => Attempt::Ambiguous(reason),
        None => Attempt::Lost("the node answered with garbage".to_owned()),
    }
}

impl Servers {
    /// From `at` on round and round: the first that is not shunned, or who comes free first.
    fn choose(&self, at: usize, now: Time) -> (usize, SocketAddr) {
        let count = self.list.len();
        let in_turn = (0..count).map(|step| (at + step) % count);
        let chosen = in_turn
            .min_by_key(|&at| self.list[at].shunned_until.max(now))
            .unwrap_or(0);
        (chosen, self.list[chosen].addr)
    }

    fn answered(&mut self, at: usize) {
        let server = &mut self.list[at];
        server.failures = 0;
        server.shunned_until = Time::default();
    }

    /// Others are asked first from now on.
    fn pass_over(&mut self, at: usize) {
        if self.preferred == at {
            self.preferred = (at + 1) % self.list.len();
        }
    }

    fn failed(&mut self, at: usize, now: Time) {
        let server = &mut self.list[at];
        let shun = SHUN.saturating_mul(1 << server.failures.min(10));
        server.shunned_until = now + shun.min(SHUN_MAX);
        server.failures = server.failures.saturating_add(1);
        self.pass_over(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: u16) -> Servers {
        let server = |n| Server {
            addr: SocketAddr::from(([127, 0, 0, 1], n)),
            failures: 0,
            shunned_until: Time::default(),
        };
        Servers {
            list: (1..=count).map(server).collect(),
            preferred: 0,
        }
    }

    fn at(ms: u64) -> Time {
        Time::default() + Duration::from_millis(ms)
    }

    #[test]
    fn a_node_that_failed_is_asked_last_and_tried_again_in_time() {
        let mut servers = servers(3);
        assert_eq!(servers.choose(0, at(1)).0, 0);
        servers.failed(0, at(1));
        assert_eq!(servers.preferred, 1);
        assert_eq!(servers.choose(0, at(1)).0, 1, "the others first");
        servers.failed(1, at(1));
        servers.failed(2, at(2));
        assert_eq!(
            servers.choose(2, at(3)).0,
            0,
            "all failed: whose time is up first"
        );
        assert_eq!(servers.choose(0, at(500)).0, 0, "forgiven");
        servers.failed(0, at(500));
        servers.failed(0, at(501));
        assert!(servers.list[0].shunned_until > at(501) + SHUN * 3, "grows");
        servers.answered(0);
        assert_eq!(servers.choose(0, at(502)).0, 0);
    }

    #[test]
    fn who_answers_stays_preferred() {
        let mut servers = servers(2);
        servers.answered(0);
        assert_eq!(servers.preferred, 0);
        servers.pass_over(1);
        assert_eq!(
            servers.preferred, 0,
            "another one's trouble changes nothing"
        );
        servers.pass_over(0);
        assert_eq!(servers.preferred, 1);
        servers.pass_over(1);
        assert_eq!(servers.preferred, 0, "round and round");
    }

    #[test]
    fn everything_that_is_wrong_with_a_description_is_said() {
        let errors = check("Bad", "-", &[]).unwrap_err();
        let keys: Vec<_> = errors.iter().map(|error| error.key).collect();
        assert_eq!(keys, ["cluster", "client", "addresses"]);
    }
}
