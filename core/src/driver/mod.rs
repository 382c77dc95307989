//! The one loop that joins engine, raft and transport.
//!
//! It owns the engine. Whatever happens becomes an input; after each input the outputs are drained and carried out in
//! order, then one timer is armed. Requests do not pass through here: they read what the loop publishes.

mod hooks;
mod observe;
mod ready;
mod start;
mod streams;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

pub(crate) use start::start;

use crate::engine::membership::Tags;
use crate::engine::{Engine, Event, Input, Output};
use crate::ids::{PeerAddr, ShardId};
use crate::node::{Command, Node, Status};
use crate::observer::Observer;
use crate::routing::ServingTable;
use crate::time::Time;
use crate::transport::Peer;
use crate::wire::{StreamKind, decode_datagram, encode_datagram};
use hooks::{HookEnded, Hooks};
use start::RaftMember;

/// How far the lease clock and the monotonic clock may part before the machine counts as having slept (rule L0).
const SLEPT: Duration = Duration::from_millis(5);
/// How long fetching a node's tags may take.
const PULL_TAGS_WITHIN: Duration = Duration::from_secs(2);
/// Largest answer to a pull of tags: [`MAX_TAGS_BYTES`](crate::limits::MAX_TAGS_BYTES) and their framing.
const MAX_TAGS_MESSAGE_BYTES: usize = 16 << 10;

/// What a job of the driver's own ended with.
enum Done {
    Input(Input),
    Hook(HookEnded),
}

struct Driver {
    node: Arc<Node>,
    engine: Engine,
    observer: Option<Arc<dyn Observer>>,
    raft: Option<RaftMember>,
    hooks: Hooks,
    jobs: JoinSet<Done>,
    drained_sender: mpsc::UnboundedSender<ShardId>,
    /// Who waits for the node to have left, or stopped.
    leaving: Vec<oneshot::Sender<()>>,
    stopping: Vec<oneshot::Sender<()>>,
    /// The engine says that the node may go.
    has_left: bool,
    /// The engine wants to begin with an empty log.
    abandons_log: bool,
    /// It goes because a newer run of its name is there.
    is_superseded: bool,
    /// How far the lease clock was ahead of the monotonic clock at the last look.
    lead: Duration,
    members_changed: bool,
    shown_generation: u64,
}

/// Everything that the loop listens to.
struct Sources {
    commands: mpsc::UnboundedReceiver<Command>,
    /// Raft's facts, and for a non-member what its peers tell.
    facts: mpsc::UnboundedReceiver<Input>,
    datagrams: mpsc::Receiver<(Peer, Bytes)>,
    drained: mpsc::UnboundedReceiver<ShardId>,
}

/// What the loop woke up for.
enum Wake {
    Command(Command),
    Input(Input),
    Datagram(Peer, Bytes),
    Drained(ShardId),
    Done(Done),
    Timer,
}

impl Driver {
    async fn run(mut self, mut sources: Sources) {
        let found = self.raft.as_ref().and_then(|raft| raft.device.found());
        self.handle(found.unwrap_or(Input::Tick));
        self.carry_out().await;
        loop {
            let wake = self.wait(&mut sources).await;
            self.look_at_the_clocks();
            match wake {
                Wake::Command(Command::Stop(done)) => {
                    self.stopping.extend(done);
                    break;
                }
                Wake::Command(command) => self.obey(command),
                Wake::Input(input) => {
                    let concerns_voters = matches!(input, Input::RaftMembers(_));
                    self.handle(input);
                    if concerns_voters && self.engine.voters() != self.node.status.load().voters {
                        self.members_changed = true;
                    }
                }
                Wake::Datagram(from, bytes) => match decode_datagram(&bytes, self.node.versions) {
                    Ok(message) => self.handle(Input::Message { from, message }),
                    Err(error) => {
                        self.node.counters.add("malformed datagrams");
                        tracing::debug!(from = %from.instance, %error, "dropped a datagram");
                    }
                },
                Wake::Drained(shard) => {
                    self.hooks.guards_gone(&self.node, shard);
                    while let Ok(shard) = sources.drained.try_recv() {
                        self.hooks.guards_gone(&self.node, shard);
                    }
                }
                Wake::Done(Done::Input(input)) => self.handle(input),
                Wake::Done(Done::Hook(ended)) => self.hooks.ended(ended),
                Wake::Timer => {
                    self.hooks.handle_timeout(&self.node);
                    self.handle(Input::Tick);
                    self.node.counters.set_all(self.engine.counters().iter());
                }
            }
            self.carry_out().await;
            if std::mem::take(&mut self.abandons_log) {
                self.abandon_log(&mut sources.facts).await;
                self.carry_out().await;
            }
            if self.has_left || self.raft_has_failed() {
                break;
            }
        }
        self.stop().await;
    }

    async fn wait(&mut self, sources: &mut Sources) -> Wake {
        let timers = [self.engine.poll_timeout(), self.hooks.poll_timeout()];
        let deadline = timers.into_iter().flatten().min();
        let environment = self.node.environment.clone();
        let timer = async move {
            match deadline {
                Some(deadline) => environment.sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let failure = self.raft.as_ref().map(|raft| raft.device.failure());
        let raft_failed = async move {
            if let Some(mut failure) = failure
                && failure.wait_for(Option::is_some).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            Some(command) = sources.commands.recv() => Wake::Command(command),
            Some(shard) = sources.drained.recv() => Wake::Drained(shard),
            Some(done) = self.jobs.join_next() => match done {
                Ok(done) => Wake::Done(done),
                // Jobs catch their panics; only an abort ends here, at the stop.
                Err(_) => Wake::Timer,
            },
            Some(input) = sources.facts.recv() => Wake::Input(input),
            Some((from, bytes)) = sources.datagrams.recv() => Wake::Datagram(from, bytes),
            () = raft_failed => Wake::Timer,
            () = timer => Wake::Timer,
        }
    }

    fn now(&self) -> Time {
        self.node.environment.now()
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        if let Some(observer) = &self.observer {
            observer.input(&self.engine, now, &input);
        }
        self.engine.handle_input(now, input);
        if let Some(observer) = &self.observer {
            observer.handled(&self.engine, now);
        }
    }

    /// Rule L0: a machine that slept does not know for how long it was gone.
    fn look_at_the_clocks(&mut self) {
        let monotonic = Time::default() + self.node.environment.monotonic();
        let lead = self.now().since(monotonic);
        if lead.saturating_sub(self.lead) > SLEPT {
            tracing::warn!(node = %self.node.instance, slept = ?(lead - self.lead), "the machine slept");
            self.handle(Input::ClockJumped);
        }
        self.lead = lead;
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::SetTag { name, value, done } => {
                let mut tags = Tags::clone(&self.node.status.load().tags);
                let result = match value {
                    Some(value) => tags.insert(&name, &value).map(|_| ()),
                    None => {
                        tags.remove(&name);
                        Ok(())
                    }
                };
                if result.is_ok() {
                    self.engine.set_tags(self.now(), tags);
                    self.members_changed = true;
                }
                let _ = done.send(result);
            }
            Command::SetWeights(weights, done) => {
                self.handle(Input::SetWeights(weights));
                let _ = done.send(());
            }
            Command::SetCordon(node, cordon, done) => {
                self.handle(Input::SetCordon { node, cordon });
                let _ = done.send(());
            }
            Command::Ready(ready) => self.handle(Input::Ready(ready)),
            Command::StepDown => self.handle(Input::StepDown),
            Command::Leave(done) => {
                self.leaving.push(done);
                self.handle(Input::Leave);
            }
            Command::Stop(_) => unreachable!("the loop has ended"),
        }
    }

    /// Starts the hooks that are due, and tells the engine what they have done: `true`, if there was anything to tell.
    fn run_hooks(&mut self) -> bool {
        let mut told = false;
        while let Some(input) = self.hooks.poll_input() {
            self.handle(input);
            told = true;
        }
        while let Some(job) = self.hooks.poll_job(&self.node) {
            let job = async move { Done::Hook(job.await) };
            self.spawn(job);
        }
        told
    }

    #[allow(clippy::disallowed_methods, reason = "within the node's environment")]
    fn spawn(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.spawn(self.node.environment.scope(job));
    }

    /// Drains the engine, and what the hooks make of that, until nothing is left.
    async fn carry_out(&mut self) {
        loop {
            while let Some(output) = self.engine.poll_output() {
                if let Some(observer) = &self.observer {
                    observer.output(&self.engine, self.now(), &output);
                }
                self.execute(output).await;
            }
            if !self.run_hooks() {
                return self.publish();
            }
        }
    }

    async fn execute(&mut self, output: Output) {
        match output {
            Output::Send { to, message } => {
                let version = self.engine.version_with(to.node.as_ref());
                let datagram = encode_datagram(&message, version);
                self.node.transport.send_datagram(&to, datagram);
            }
            Output::PullTags {
                from,
                instance,
                version,
            } => {
                let node = self.node.clone();
                self.spawn(async move {
                    let tags = pull_tags(&node, &from).await;
                    let tags = tags.filter(|(found, _)| *found >= version);
                    let version = tags.as_ref().map_or(version, |(version, _)| *version);
                    Done::Input(Input::TagsPulled {
                        from: instance,
                        version,
                        tags: tags.map(|(_, tags)| tags),
                    })
                });
            }
            Output::Initialise { cluster, members } => {
                if let Some(raft) = &self.raft {
                    raft.device.initialise(cluster, members);
                }
            }
            Output::Accept(cluster) => {
                if let Some(raft) = &self.raft {
                    raft.device.accept(cluster);
                }
            }
            Output::AbandonLog => self.abandons_log = true,
            Output::Propose { term, message } => {
                if let Some(raft) = &self.raft {
                    raft.device.propose(term, message);
                }
            }
            Output::ChangeMembers(change) => {
                if let Some(raft) = &self.raft {
                    raft.device.change_members(change);
                }
            }
            Output::TransferLeadership(to) => {
                if let Some(raft) = &self.raft {
                    raft.device.transfer_leadership(to);
                }
            }
            Output::Acquire(shards) => self.hooks.acquire(shards),
            Output::Open(shards) => {
                let table = self.table();
                self.hooks.opened(&shards);
                for (shard, epoch) in shards {
                    table.open(shard, epoch);
                }
                self.node.announce_change();
            }
            Output::Close(shards) => {
                let deadline =
                    self.now() + self.engine.config().timing.drain_timeout.mul_f64(CANCEL_AT);
                self.hooks.close(&self.node, shards, deadline);
            }
            Output::Lease(view) => {
                self.node.lease.store(view);
                if view.generation != self.shown_generation {
                    self.shown_generation = view.generation;
                    self.node.announce_change();
                }
            }
            Output::Routes(routes) => {
                self.members_changed = true;
                self.node.routes.store(Arc::new(routes));
                self.table();
                self.node.announce_change();
            }
            Output::Event(event) => {
                log(&self.node, &event);
                if matches!(event, Event::Superseded { .. }) {
                    self.is_superseded = true;
                    self.node.lease.revoke();
                }
                // Whoever is told of a change finds it when it looks.
                self.publish();
                self.node.emit(event);
            }
            Output::Left => self.has_left = true,
        }
    }

    /// The serving table, made anew when the number of shards becomes known.
    fn table(&mut self) -> Arc<ServingTable> {
        let table = self.node.table.load_full();
        let shards = self
            .node
            .routes
            .load()
            .map
            .shards()
            .max(self.engine.committed().shards());
        if table.shards() == shards || shards == 0 {
            return table;
        }
        let table = Arc::new(ServingTable::new(shards, self.drained_sender.clone()));
        self.node.table.store(table.clone());
        table
    }

    /// Begins with an empty log, unless a leader's entries have just arrived: then the engine is about to hear of them.
    async fn abandon_log(&mut self, facts: &mut mpsc::UnboundedReceiver<Input>) {
        let Some(raft) = &mut self.raft else { return };
        if raft.holds_entries() {
            return;
        }
        match raft.begin_anew(facts).await {
            Ok(store) => {
                self.node.raft.store(Some(Arc::new(raft.device.clone())));
                if let Some(store) = store {
                    self.handle(Input::StoreReplaced(store));
                }
            }
            Err(error) => {
                tracing::error!(node = %self.node.instance, %error, "cannot begin with an empty log");
                self.node.failure.get_or_init(|| error.to_string());
                self.has_left = true;
            }
        }
    }

    /// A store that failed, or an entry that cannot be applied: the node must not go on.
    fn raft_has_failed(&self) -> bool {
        let Some(raft) = &self.raft else { return false };
        let failure = raft.device.failure().borrow().clone();
        if let Some(reason) = &failure {
            tracing::error!(node = %self.node.instance, %reason, "the node stops");
            self.node.failure.get_or_init(|| reason.clone());
        }
        failure.is_some()
    }

    /// Shows handles what the node is.
    fn publish(&mut self) {
        let shown = self.node.status.load();
        let same = shown.state == self.engine.state()
            && shown.role == self.engine.role()
            && shown.leader.as_ref() == self.engine.leader()
            && shown.term == self.engine.term()
            && shown.cluster == self.engine.cluster()
            && shown.cluster_version == self.engine.cluster_version();
        if same && !self.members_changed {
            return;
        }
        let members = if std::mem::take(&mut self.members_changed) {
            Arc::new(self.engine.members().clone())
        } else {
            shown.members.clone()
        };
        let own = members.get(&self.node.instance.node);
        let tags = own.map_or_else(|| shown.tags.clone(), |own| own.tags.clone());
        self.node.status.store(Arc::new(Status {
            state: self.engine.state(),
            role: self.engine.role(),
            leader: self.engine.leader().cloned(),
            term: self.engine.term(),
            cluster: self.engine.cluster(),
            members,
            voters: self.engine.voters(),
            tags,
            waiting: self.engine.waiting(),
            cluster_version: self.engine.cluster_version(),
        }));
    }

    async fn stop(mut self) {
        if self.has_left && !self.is_superseded {
            // The goodbye is on its way; a connection that closes at once would take it along.
            self.node
                .environment
                .sleep(self.engine.config().timing.ping)
                .await;
        }
        self.node.stopped.store(true, Ordering::Release);
        self.node.lease.revoke();
        self.handle(Input::Stop);
        self.carry_out().await;
        self.jobs.shutdown().await;
        if let Some(raft) = &self.raft {
            raft.close().await;
        }
        self.node.raft.store(None);
        self.node.transport.close().await;
        let ended = self.node.events.lock().map(|mut events| events.take());
        drop(ended);
        self.node.announce_change();
        for waiting in self.leaving.into_iter().chain(self.stopping) {
            let _ = waiting.send(());
        }
    }
}

/// When in the drain timeout the futures that the library runs are dropped: early enough that the drain still ends
/// before the leader gives up on it.
const CANCEL_AT: f64 = 0.75;

async fn pull_tags(node: &Node, from: &PeerAddr) -> Option<(u64, Tags)> {
    let exchange = node.rpc.call(
        from,
        StreamKind::Tags,
        Bytes::new(),
        MAX_TAGS_MESSAGE_BYTES,
        PULL_TAGS_WITHIN,
    );
    let (_, response) = exchange.await.ok()?;
    let tags = postcard::from_bytes(&response);
    if tags.is_err() {
        node.counters.add("malformed tags");
    }
    tags.ok()
}

fn log(node: &Node, event: &Event) {
    match event {
        Event::ForeignClusterRefused(other) => tracing::error!(
            node = %node.instance,
            cluster = %node.cluster,
            %other,
            "another cluster of the same name was met and refused: two were formed where one was meant; stop the \
             nodes of one of them and start them anew with the seeds of the other"
        ),
        Event::Superseded { by } => {
            let by = by.map_or_else(|| "run".to_owned(), |by| format!("run {by}"));
            tracing::error!(
                node = %node.instance,
                "a newer {by} of node `{}` is in the cluster: this one stops; give each process a node name of its own \
                 (if there is no other process, this machine's clock went back: set it right and start again)",
                node.instance.node
            );
        }
        Event::NodeFailed(other) => tracing::warn!(node = %node.instance, %other, "a node failed"),
        Event::AcquireFailed { shard, epoch } => {
            tracing::warn!(node = %node.instance, %shard, %epoch, "a shard could not be acquired");
        }
        event => tracing::debug!(node = %node.instance, ?event, "event"),
    }
}
