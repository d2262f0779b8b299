//! The composition root: the only place that knows the concrete types behind the ports, and the order in which parts
//! start and stop.

mod backends;
mod changes;
mod dev;
mod export;
mod folder;
mod guests;
mod live;
mod memory;
mod observe;
mod outside;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::compile::{self, CompileJob};
use crate::agent::{CompileLimits, GuestThreads, Loader, Runner, RunnerConfig};
use crate::agents::Agents;
use crate::capability::files::FilesRoot;
use crate::catalog::HostFigures;
use crate::cli::{CompileArguments, Composition, StartError};
use crate::config::{Backend, Config, ConfigErrors};
use crate::delivery::{Broker, PublishError, Route, Submitter, envelope};
use crate::deploy::{DeployedAgents, Deployer};
use crate::dispatch::{DispatchMetrics, Dispatcher, Quarantine};
use crate::http;
use crate::lifecycle::StopSignals;
use crate::memory::MemoryLedger;
use crate::relay::{DeadLetterOffice, Relay};
use crate::signature::TrustedKeys;
use crate::task::Task;
use crate::telemetry;
use crate::trace::Traces;
use crate::units::ByteSize;
use backends::Backends;
use dev::{LastTasks, Remembering};
use export::Export;
use folder::AgentsFolder;
use guests::{AGENT_INSTANCES_MAX, INSTANCES_MAX};
use outside::Outside;

/// What the command line starts.
pub struct Root;

#[async_trait::async_trait(?Send)]
impl Composition for Root {
    async fn serve(&self, config: Config) -> Result<(), StartError> {
        if let Some((app, signals)) = Box::pin(started(config, None)).await? {
            app.run(signals).await;
        }
        Ok(())
    }

    async fn dev(&self, config: Config, dir: PathBuf) -> Result<(), StartError> {
        // What `dev` deploys is what it watches.
        let config = Config { agents_dir: None, ..config };
        let sent = Arc::<LastTasks>::default();
        let Some((app, signals)) = Box::pin(started(config, Some(Arc::clone(&sent)))).await? else { return Ok(()) };
        let (agents, records, submit) = (app.agents(), app.backends.records.clone(), Arc::clone(&app.submit));
        let host = dev::Host { agents, records, submit, sent, address: app.address() };
        let watching = tokio::spawn(dev::watch(host, dir));
        app.run(signals).await;
        watching.abort();
        Ok(())
    }

    fn compile(&self, arguments: &CompileArguments) -> u8 {
        let limits = CompileLimits {
            memory: ByteSize(arguments.memory_bytes),
            processor_time: Duration::from_secs(arguments.processor_seconds),
            code: ByteSize(arguments.code_bytes),
        };
        compile::work(&CompileJob { engine: arguments.engine.clone(), limits })
    }
}

/// Starts a host and tells where it listens and what it stands on; nothing where it was told to stop before it had started.
/// Where `sent` is given, the last task of each agent is kept there.
async fn started(config: Config, sent: Option<Arc<LastTasks>>) -> Result<Option<(App, StopSignals)>, StartError> {
    telemetry::init_logs(config.log, &config.log_filter).map_err(|problem| StartError::Unavailable(vec![problem]))?;
    let mut signals = StopSignals::listen().map_err(|error| internal("listening for signals", error))?;
    for ignored in &config.ignored {
        tracing::warn!("{ignored}");
    }
    if config.broker == Backend::Embedded {
        tracing::warn!(
            "the embedded broker keeps tasks in memory: they end with this process; set AMQP_URL to keep them"
        );
    }
    tokio::select! {
        started = App::start_with(config, sent) => Ok(Some((started?, signals))),
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the start was over; what was delivered is delivered again");
            Ok(None)
        }
    }
}

fn internal(what: &'static str, error: impl Into<anyhow::Error>) -> StartError {
    StartError::Internal(error.into().context(what))
}

fn unavailable(error: &dyn std::error::Error) -> StartError {
    StartError::Unavailable(vec![backends::chain(error)])
}

/// How long HTTP clients and services may take to let go at the end.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A running host.
pub struct App {
    address: SocketAddr,
    backends: Backends,
    submit: Arc<dyn Submitter>,
    deployer: Arc<Deployer>,
    dispatcher: Arc<Dispatcher>,
    draining: CancellationToken,
    /// Cancelled when no task is under way any more: until then the API tells of them.
    closing: CancellationToken,
    /// Cancelled when nobody can ask for anything any more.
    drained: CancellationToken,
    background: TaskTracker,
    http: tokio::task::JoinHandle<()>,
    export: Export,
    _guests: GuestThreads,
    grace: Duration,
}

impl App {
    /// Starts everything, in the order of dependence, and returns once tasks can be submitted and run.
    ///
    /// # Errors
    /// [`StartError`], saying what is missing.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, None).await
    }

    async fn start_with(config: Config, sent: Option<Arc<LastTasks>>) -> Result<Self, StartError> {
        let registry = Registry::new();
        let tls = tls(&config)?;
        let ledger = MemoryLedger::new(config.memory_budget.0, INSTANCES_MAX);
        let deployed = Arc::new(DeployedAgents::default());
        let trusted = trusted(&config)?;
        let guests = GuestThreads::start().map_err(|error| internal("starting the guests' threads", error))?;
        let threads = guests.handle();
        let outside = Outside::reach(&config, &deployed, &registry, &ledger, &threads).await?;
        let Outside { listener, backends, files } = outside;
        let address = listener.local_addr().map_err(|error| internal("reading the bound address", error))?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        tracing::info!("listening on {scheme}://{address}");
        let engine = guests::engine()?;
        let runner_config = RunnerConfig { hostcall_bytes_max: guests::hostcall_bytes_max(&config) };
        let capabilities = backends.capabilities.clone();
        let runner = Runner::new(&runner_config, engine.clone(), ledger.clone(), capabilities, threads);
        let host: Arc<str> = host_name(address).into();
        let mut export = Export::start(&config, &registry, &host)?;
        let traces = export.traces.clone();
        let dispatcher = dispatcher(host, runner.clone(), &backends, &registry, (&config, traces.clone()))?;
        let loader = guests::loader(&config, &engine)?;
        let deployer = deployer(loader, runner, &backends, files, &dispatcher, (deployed, trusted));
        let draining = CancellationToken::new();
        let (closing, drained) = (CancellationToken::new(), CancellationToken::new());
        let background = TaskTracker::new();
        background.spawn(memory::measure(ledger.clone(), drained.clone()));
        let observer = observe::Observer::new(&registry, ledger.clone(), Arc::clone(&deployer))
            .map_err(|error| internal("registering metrics", error))?;
        background.spawn(observer.clone().watch_queues(draining.clone()));
        let (snapshots, live) = watch::channel(Arc::<http::Snapshot>::default());
        let (figures, doing) = watch::channel(HostFigures::default());
        let told = live::Told { snapshots, figures };
        let host = Arc::clone(&dispatcher.host);
        background.spawn(live::run(observer.clone(), registry.clone(), host, told, draining.clone()));
        background.spawn(dispatcher.relay.clone().run(drained.clone()));
        background.spawn(Arc::clone(&dispatcher).watch_cancelled(drained.clone()));
        background.spawn(Arc::clone(&dispatcher).note_running(drained.clone()));
        export.push(observer.clone());
        let dead_letters = DeadLetterOffice::new(dispatcher.relay.clone(), backends.records.clone());
        background.spawn(dead_letters.clone().run(drained.clone()));
        let submit: Arc<dyn Submitter> = Arc::new(BrokerSubmitter(Arc::clone(&backends.broker), traces.clone()));
        let ports = http::Ports {
            submit: match sent {
                Some(sent) => Arc::new(Remembering { inner: Arc::clone(&submit), sent }),
                None => Arc::clone(&submit),
            },
            connectivity: backends.broker.connectivity(),
            records: backends.records.clone(),
            agents: Arc::clone(&deployer) as Arc<dyn Agents>,
            dead_letters: Arc::new(dead_letters),
            events: backends.events.clone(),
            secrets: backends.secrets.clone(),
            host: Arc::clone(&dispatcher.host),
            live,
            metrics: Arc::new(move || observer.render()),
            draining: draining.clone(),
            memory: ledger,
            traces,
        };
        let router = http::router(config.http.clone(), ports);
        let http = tokio::spawn(http::serve(listener, router, tls, closing.clone()));
        let app = Self {
            address,
            backends,
            submit,
            deployer,
            dispatcher,
            draining,
            closing,
            drained,
            background,
            http,
            export,
            _guests: guests,
            grace: config.grace_period,
        };
        app.load_agents(config.agents_dir, config.agents_watch, doing).await?;
        Ok(app)
    }

    /// Where the HTTP API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The deployed agents, for `dev`, which redeploys what it watches.
    #[must_use]
    pub fn agents(&self) -> Arc<dyn Agents> {
        Arc::clone(&self.deployer) as Arc<dyn Agents>
    }

    /// What was deployed before, then what lies in the agents folder.
    async fn load_agents(
        &self,
        dir: Option<PathBuf>,
        is_watched: bool,
        doing: watch::Receiver<HostFigures>,
    ) -> Result<(), StartError> {
        self.deployer.follow_catalog().await.map_err(|error| unavailable(&error))?;
        let mut folder = dir.map(AgentsFolder::new);
        if let Some(folder) = &mut folder {
            folder.deploy_all(self.deployer.as_ref()).await;
        }
        self.deployer.start_is_over();
        tracing::info!(agents = self.deployer.active().len(), "ready");
        let (deployer, draining) = (Arc::clone(&self.deployer), self.draining.clone());
        self.background.spawn(async move { deployer.follow(draining).await });
        let (deployer, draining) = (Arc::clone(&self.deployer), self.draining.clone());
        self.background.spawn(async move { deployer.watch_canaries(draining).await });
        let (deployer, draining) = (Arc::clone(&self.deployer), self.draining.clone());
        self.background.spawn(async move { deployer.tell(doing, draining).await });
        if let Some(folder) = folder.filter(|_| is_watched) {
            self.background.spawn(folder.follow(self.agents(), self.draining.clone()));
        }
        Ok(())
    }

    /// Waits for the signal to stop, then drains: stop the intake, finish within the grace period, interrupt the rest
    /// and hand them back, flush. A second signal ends the process at once.
    pub async fn run(self, mut signals: StopSignals) {
        let signal = signals.next().await;
        tracing::info!(signal, grace_s = self.grace.as_secs(), "draining; a second signal exits at once");
        tokio::select! {
            () = self.drain() => tracing::info!("drained"),
            signal = signals.next() => tracing::warn!(signal, "exiting at once; unfinished tasks are delivered again"),
        }
    }

    /// Stops in stages; see [`crate::lifecycle`].
    pub async fn drain(self) {
        self.draining.cancel();
        let finished = async {
            self.deployer.stop_intake().await;
            self.dispatcher.under_way.close();
            self.dispatcher.under_way.wait().await;
        };
        tokio::pin!(finished);
        if tokio::time::timeout(self.grace, &mut finished).await.is_err() {
            tracing::warn!(tasks = self.dispatcher.under_way.len(), "the grace period is over; handing tasks back");
            self.dispatcher.interrupt.cancel();
            finished.await;
        }
        self.closing.cancel();
        match tokio::time::timeout(CLOSE_MAX, self.http).await {
            Ok(Ok(())) => {}
            Ok(failed) => tracing::error!(?failed, "the HTTP server failed"),
            Err(_elapsed) => tracing::warn!("HTTP clients that do not finish are cut off"),
        }
        self.drained.cancel();
        self.background.close();
        if tokio::time::timeout(CLOSE_MAX, self.background.wait()).await.is_err() {
            tracing::warn!("the relay is cut off; what it was sending stays in the outbox, and goes out again");
        }
        let closing = tokio::time::timeout(CLOSE_MAX, self.backends.close());
        let (closed, ()) = tokio::join!(closing, self.export.close());
        if closed.is_err() {
            tracing::warn!("a service did not answer the goodbye; what it has not acknowledged is delivered again");
        }
    }
}

fn dispatcher(
    host: Arc<str>,
    runner: Runner,
    backends: &Backends,
    registry: &Registry,
    (config, traces): (&Config, Traces),
) -> Result<Arc<Dispatcher>, StartError> {
    let metrics = DispatchMetrics::new(registry).map_err(|error| internal("registering metrics", error))?;
    let relay =
        Relay::new(Arc::clone(&host), Arc::clone(&backends.broker), backends.records.clone(), backends.records.clone());
    Ok(Arc::new(Dispatcher {
        host,
        runner,
        broker: Arc::clone(&backends.broker),
        records: backends.records.clone(),
        relay,
        metrics,
        interrupt: CancellationToken::new(),
        under_way: TaskTracker::new(),
        in_hand: Arc::default(),
        quarantine: Quarantine::default(),
        payload_bytes_max: config.http.payload_bytes_max.as_usize(),
        traces,
    }))
}

fn deployer(
    loader: Loader,
    runner: Runner,
    backends: &Backends,
    files: FilesRoot,
    dispatcher: &Arc<Dispatcher>,
    (deployed, trusted): (Arc<DeployedAgents>, TrustedKeys),
) -> Arc<Deployer> {
    Arc::new(Deployer {
        loader,
        runner,
        catalog: Arc::clone(&backends.catalog),
        broker: Arc::clone(&backends.broker),
        capabilities: backends.capabilities.clone(),
        files: Arc::new(files),
        dispatcher: Arc::clone(dispatcher),
        concurrency_max: AGENT_INSTANCES_MAX,
        trusted,
        deployed,
    })
}

/// The certificate to serve with, where there is one.
fn tls(config: &Config) -> Result<Option<http::Tls>, StartError> {
    let Some((certificate, key)) = &config.tls else { return Ok(None) };
    let read = http::Tls::read(certificate, key);
    read.map(Some).map_err(|error| StartError::from(ConfigErrors(vec![backends::chain(&error)])))
}

/// Whose modules run here.
fn trusted(config: &Config) -> Result<TrustedKeys, StartError> {
    let trusted = TrustedKeys::read(&config.signature_keys).map_err(|error| {
        let problem = format!("AGENT_HOST_SIGNATURE_KEYS: {}", backends::chain(&error));
        StartError::from(ConfigErrors(vec![problem]))
    })?;
    if !trusted.is_empty() {
        tracing::info!("modules must be signed by one of: {}", trusted.names().join(", "));
    }
    Ok(trusted)
}

/// How this host is called in dead letters: machine and port tell hosts of one machine apart.
fn host_name(address: SocketAddr) -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", machine.trim(), address.port())
}

/// Submissions over HTTP take the same way into an agent as everybody's: its queue.
struct BrokerSubmitter(Arc<dyn Broker>, Traces);

#[async_trait::async_trait]
impl Submitter for BrokerSubmitter {
    async fn submit(&self, mut task: Task, delay: Option<Duration>) -> Result<(), PublishError> {
        let span = self.1.publish(&mut task);
        let message = envelope::submission(&task);
        let route = match delay {
            Some(delay) => Route::Delayed(task.agent, delay),
            None => Route::Agent(task.agent),
        };
        let published = self.0.publish(route, message).await;
        span.failed(published.as_ref().err().map(PublishError::kind));
        published
    }
}
