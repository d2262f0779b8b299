//! One flag for each setting, from the same list as everything else about settings.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, value_parser};

use crate::config::{Flags, KEYS, Kind};

/// The settings that were given on the command line.
#[derive(Clone, Debug, Default)]
pub struct ConfigFlags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The others.
    pub values: Flags,
}

const FILE: &str = "config";

impl clap::Args for ConfigFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new(FILE)
            .long(FILE)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Configuration file [env: AGENT_HOST_CONFIG] [default: agent-host.toml, if it is there]");
        let flags = KEYS.iter().filter(|key| key.kind != Kind::Secret).map(|key| {
            let default = if key.default.is_empty() { String::new() } else { format!(" [default: {}]", key.default) };
            Arg::new(key.name).long(key.name.replace('_', "-")).value_name("VALUE").help(format!(
                "{} [env: {}]{default}",
                key.meaning.replace('`', ""),
                key.variable
            ))
        });
        command.next_help_heading("Configuration").arg(file).args(flags)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(file) = matches.get_one::<PathBuf>(FILE) {
            self.file = Some(file.clone());
        }
        for key in KEYS.iter().filter(|key| key.kind != Kind::Secret) {
            if let Some(value) = matches.get_one::<String>(key.name) {
                self.values.insert(key.name, value.clone());
            }
        }
        Ok(())
    }
}
