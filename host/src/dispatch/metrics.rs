//! What dispatch counts. Names follow OpenTelemetry's FaaS and messaging conventions.

use std::sync::Arc;

use prometheus::{
    Histogram, HistogramOpts, HistogramTimer, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    exponential_buckets, histogram_opts, opts,
};

use super::settlement::Settlement;
use crate::task::{AgentName, Completion, Outcome};

/// Counters and histograms per agent.
#[derive(Clone, Debug)]
pub struct DispatchMetrics {
    invocations: IntCounterVec,
    errors: IntCounterVec,
    timeouts: IntCounterVec,
    coldstarts: IntCounterVec,
    invoke_duration_seconds: HistogramVec,
    init_duration_seconds: HistogramVec,
    mem_usage_bytes: HistogramVec,
    cpu_usage_seconds: HistogramVec,
    process_duration_seconds: HistogramVec,
    settlements: IntCounterVec,
    dead_letters: IntCounterVec,
    results_unroutable: IntCounterVec,
}

impl DispatchMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// A name that is registered already: a mistake in the host.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |opts: Opts, labels: &[&str]| {
            let counter = IntCounterVec::new(opts, labels)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let histogram = |opts: HistogramOpts| {
            let histogram = HistogramVec::new(opts, &["agent"])?;
            registry.register(Box::new(histogram.clone()))?;
            prometheus::Result::Ok(histogram)
        };
        // 100 µs to 100 s, in steps of √10.
        let seconds = || exponential_buckets(1e-4, 10_f64.sqrt(), 13);
        Ok(Self {
            invocations: counter(opts!("faas_invocations", "Attempts that ran."), &["agent"])?,
            errors: counter(opts!("faas_errors", "Attempts that failed, by outcome."), &["agent", "error_type"])?,
            timeouts: counter(opts!("faas_timeouts", "Attempts that ran past a limit or their deadline."), &["agent"])?,
            coldstarts: counter(opts!("faas_coldstarts", "Attempts that ran in a fresh instance."), &["agent"])?,
            invoke_duration_seconds: histogram(histogram_opts!(
                "faas_invoke_duration_seconds",
                "From instantiation to the answer.",
                seconds()?
            ))?,
            init_duration_seconds: histogram(histogram_opts!(
                "faas_init_duration_seconds",
                "Instantiation.",
                // 1 µs to 1 s: from a copy-on-write image it takes far less than a millisecond.
                exponential_buckets(1e-6, 10_f64.sqrt(), 13)?
            ))?,
            mem_usage_bytes: histogram(histogram_opts!(
                "faas_mem_usage_bytes",
                "Largest memory of an attempt.",
                exponential_buckets(65_536.0, 2.0, 14)?
            ))?,
            cpu_usage_seconds: histogram(histogram_opts!(
                "faas_cpu_usage_seconds",
                "Time inside the guest.",
                exponential_buckets(1e-5, 10_f64.sqrt(), 13)?
            ))?,
            process_duration_seconds: histogram(histogram_opts!(
                "messaging_process_duration_seconds",
                "From taking a delivery to its settlement.",
                // Up to 1,000 s: the run, and the wait for a place before it. In small steps: percentiles are read from it.
                exponential_buckets(1e-4, 10_f64.powf(0.25), 29)?
            ))?,
            settlements: counter(
                opts!("agent_settlements", "Deliveries settled, by settlement and outcome."),
                &["agent", "settlement", "reason"],
            )?,
            dead_letters: counter(opts!("agent_dead_letters", "Tasks that were dead-lettered."), &["agent"])?,
            results_unroutable: counter(
                opts!("agent_results_unroutable", "Results that their reply queue did not take."),
                &["agent"],
            )?,
        })
    }

    /// An agent's metrics. They appear at zero, so that the first failure shows as an increase and not as a new series.
    pub(super) fn of(&self, agent: &AgentName) -> Arc<AgentMetrics> {
        let label = &[agent.as_str()];
        let counter = |counters: &IntCounterVec| counters.with_label_values(label);
        let histogram = |histograms: &HistogramVec| histograms.with_label_values(label);
        for counters in [&self.dead_letters, &self.results_unroutable] {
            counter(counters);
        }
        let succeeded = [agent.as_str(), Settlement::Acknowledge.name(), SUCCEEDED];
        Arc::new(AgentMetrics {
            agent: agent.clone(),
            invocations: counter(&self.invocations),
            timeouts: counter(&self.timeouts),
            coldstarts: counter(&self.coldstarts),
            invoke_duration_seconds: histogram(&self.invoke_duration_seconds),
            init_duration_seconds: histogram(&self.init_duration_seconds),
            mem_usage_bytes: histogram(&self.mem_usage_bytes),
            cpu_usage_seconds: histogram(&self.cpu_usage_seconds),
            process_duration_seconds: histogram(&self.process_duration_seconds),
            succeeded: self.settlements.with_label_values(&succeeded),
            of_all: self.clone(),
        })
    }

    pub(super) fn settled(&self, agent: &AgentName, settlement: &str, reason: &str) {
        self.settlements.with_label_values(&[agent.as_str(), settlement, reason]).inc();
        if settlement == Settlement::DeadLetter.name() {
            self.dead_letters.with_label_values(&[agent.as_str()]).inc();
        }
    }

    pub(super) fn result_unroutable(&self, agent: &AgentName) {
        self.results_unroutable.with_label_values(&[agent.as_str()]).inc();
    }
}

/// The outcome's name of what goes well.
const SUCCEEDED: &str = "succeeded";

/// One agent's counters and histograms, looked up once: a look by labels takes as long as all that is counted of a task.
#[derive(Debug)]
pub(super) struct AgentMetrics {
    agent: AgentName,
    invocations: IntCounter,
    timeouts: IntCounter,
    coldstarts: IntCounter,
    invoke_duration_seconds: Histogram,
    init_duration_seconds: Histogram,
    mem_usage_bytes: Histogram,
    cpu_usage_seconds: Histogram,
    process_duration_seconds: Histogram,
    succeeded: IntCounter,
    of_all: DispatchMetrics,
}

impl AgentMetrics {
    /// Times a delivery, until it is told or dropped.
    pub(super) fn processing(&self) -> HistogramTimer {
        self.process_duration_seconds.start_timer()
    }

    /// Counts a run.
    pub(super) fn ran(&self, completion: &Completion) {
        // An interrupted attempt is handed back and counts where it runs to its end.
        if completion.outcome == Outcome::Interrupted {
            return;
        }
        // One that was stopped while it waited has not run. What the host failed at shows all the same.
        if !completion.is_of_a_run() {
            if matches!(completion.outcome, Outcome::HostError { .. }) {
                self.failed(&completion.outcome);
            }
            return;
        }
        let usage = completion.usage;
        self.invocations.inc();
        self.coldstarts.inc();
        self.invoke_duration_seconds.observe(seconds(usage.wall_us));
        if let Some(init) = completion.init {
            self.init_duration_seconds.observe(init.as_secs_f64());
        }
        self.cpu_usage_seconds.observe(seconds(usage.cpu_us));
        // Exact up to 2^53 bytes.
        #[expect(clippy::cast_precision_loss, reason = "no instance has 8 PiB of memory")]
        self.mem_usage_bytes.observe(usage.memory_bytes_peak as f64);
        match &completion.outcome {
            Outcome::Succeeded(_) => return,
            Outcome::TimedOut(_) | Outcome::Expired => self.timeouts.inc(),
            _ => {}
        }
        self.failed(&completion.outcome);
    }

    /// Counts a failure.
    pub(super) fn failed(&self, outcome: &Outcome) {
        self.of_all.errors.with_label_values(&[self.agent.as_str(), outcome.name()]).inc();
    }

    /// Counts a settled delivery.
    pub(super) fn settled(&self, settlement: &str, reason: &str) {
        if settlement == Settlement::Acknowledge.name() && reason == SUCCEEDED {
            return self.succeeded.inc();
        }
        self.of_all.settled(&self.agent, settlement, reason);
    }
}

fn seconds(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64()
}
