//! `agent-host topology`: what has to exist at the broker, for whoever declares it in the hosts' stead
//! (`predeclared = true`). It asks nobody: the plan follows from the agents' names alone.

use serde::Serialize;
use serde_json::{Map, Value};

use super::failed::Failed;
use super::output::Console;
use super::{ConfigFlags, Format, load};
use crate::broker::topology::{self, Argument, Declaration};
use crate::config::{Backend, Config};
use crate::package;
use crate::task::AgentName;

/// The virtual host where the broker's URL names none.
const VHOST_DEFAULT: &str = "/";

/// `topology`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Topology {
    /// The agents whose queues are wanted; without any, those in the folder of `--agents-dir`
    #[arg(value_name = "AGENT")]
    agents: Vec<String>,
    #[command(flatten)]
    flags: ConfigFlags,
}

impl Topology {
    pub(super) fn run(&self, console: &mut Console<'_>) -> Result<(), Failed> {
        let config = load(&self.flags, console)?;
        let agents = self.names(&config)?;
        if agents.is_empty() {
            console.complain("no agents are named, and there is no --agents-dir: this is what all agents share");
        }
        let plan = topology::plan(&agents);
        match console.format {
            Format::Text => Ok(topology::print(&plan, &mut console.out)?),
            Format::Json => Ok(console.json(&Definitions::of(&plan, &vhost(&config)))?),
        }
    }

    fn names(&self, config: &Config) -> Result<Vec<AgentName>, Failed> {
        let mut names = match (&config.agents_dir, self.agents.is_empty()) {
            (Some(folder), true) => package::find(folder)?
                .iter()
                .map(|folder| Ok(package::manifest(folder)?.agent.name))
                .collect::<Result<Vec<_>, Failed>>()?,
            _ => self
                .agents
                .iter()
                .map(|name| AgentName::parse(name).map_err(|error| Failed::usage(format!("{name:?}: {error}"))))
                .collect::<Result<_, _>>()?,
        };
        names.sort();
        names.dedup();
        Ok(names)
    }
}

fn vhost(config: &Config) -> String {
    let uri = match &config.broker {
        Backend::Embedded => None,
        // One that the driver cannot read is the driver's to complain about, at the start.
        Backend::Url(url) => url.expose().parse::<lapin::uri::AMQPUri>().ok(),
    };
    uri.map(|uri| uri.vhost).filter(|vhost| !vhost.is_empty()).unwrap_or_else(|| VHOST_DEFAULT.to_owned())
}

/// RabbitMQ's format of definitions: what `rabbitmqctl import_definitions` and `POST /api/definitions` take.
#[derive(Debug, Default, Serialize)]
struct Definitions<'a> {
    exchanges: Vec<ExchangeDefinition<'a>>,
    queues: Vec<QueueDefinition<'a>>,
    bindings: Vec<BindingDefinition<'a>>,
}

#[derive(Debug, Serialize)]
struct ExchangeDefinition<'a> {
    name: &'a str,
    vhost: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct QueueDefinition<'a> {
    name: &'a str,
    vhost: &'a str,
    durable: bool,
    auto_delete: bool,
    arguments: Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct BindingDefinition<'a> {
    source: &'a str,
    vhost: &'a str,
    destination: &'a str,
    destination_type: &'static str,
    routing_key: &'a str,
    arguments: Map<String, Value>,
}

impl<'a> Definitions<'a> {
    fn of(plan: &'a [Declaration], vhost: &'a str) -> Self {
        let mut all = Self::default();
        for declaration in plan {
            match declaration {
                Declaration::Exchange { name, kind } => all.exchanges.push(ExchangeDefinition {
                    name,
                    vhost,
                    kind: kind.name(),
                    durable: true,
                    auto_delete: false,
                    internal: false,
                    arguments: Map::new(),
                }),
                Declaration::Queue { name, arguments } => all.queues.push(QueueDefinition {
                    name,
                    vhost,
                    durable: true,
                    auto_delete: false,
                    arguments: arguments.iter().map(|(name, value)| ((*name).to_owned(), json(value))).collect(),
                }),
                Declaration::Binding { exchange, queue, routing_key } => all.bindings.push(BindingDefinition {
                    source: exchange,
                    vhost,
                    destination: queue,
                    destination_type: "queue",
                    routing_key,
                    arguments: Map::new(),
                }),
            }
        }
        all
    }
}

fn json(argument: &Argument) -> Value {
    match argument {
        Argument::Text(text) => Value::from(*text),
        Argument::Int(number) => Value::from(*number),
        Argument::Bool(value) => Value::from(*value),
    }
}
