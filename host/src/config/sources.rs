//! Gathers each setting's text from its sources. What the texts mean is [`super::read`]'s business.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::keys::{FOREIGN_PREFIXES, IGNORED, Ignored, KEYS, Key, Kind, OTHER_VARIABLES};
use super::{Backend, FILE_NAME, Flags, Setting, Vars};
use crate::telemetry::collector;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(&'static str),
    /// A flag, under the setting's name.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{}", name.replace('_', "-")),
        }
    }
}

impl serde::Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A setting's text and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) key: Key,
    /// Absent where nobody set it and there is no default.
    pub(super) text: Option<String>,
    pub(super) source: Source,
}

impl Value {
    /// How a complaint names it: the way in which it was set.
    pub(super) fn named(&self) -> String {
        match &self.source {
            Source::Default => self.key.name.to_owned(),
            Source::File(path) => format!("{} in {}", self.key.name, path.display()),
            Source::Variable(_) | Source::Flag(_) => self.source.to_string(),
        }
    }

    /// The value as it may be shown.
    pub(super) fn shown(&self) -> Option<String> {
        let text = self.text.as_ref()?;
        Some(match self.key.kind {
            Kind::Plain => text.clone(),
            Kind::Secret => "***".to_owned(),
            Kind::Endpoint => collector(text).map_or("***".to_owned(), |url| url.to_string()),
            Kind::Url => {
                super::read::backend(self.key.name, text).as_ref().map_or("***".to_owned(), Backend::to_string)
            }
        })
    }
}

/// The text of every setting.
#[derive(Clone, Debug)]
pub(super) struct Values(BTreeMap<&'static str, Value>);

impl Values {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// For people, in the order of the documentation.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let values = KEYS.iter().filter_map(|key| self.get(key.name));
        let setting = |value: &Value| Setting {
            name: value.key.name,
            variable: value.key.variable,
            value: value.shown(),
            source: value.source.clone(),
        };
        values.map(setting).collect()
    }

    fn set(&mut self, name: &str, text: String, source: Source) {
        if let Some(value) = self.0.get_mut(name) {
            value.text = Some(text);
            value.source = source;
        }
    }
}

/// Gathers every setting's text, and everything that is wrong with the sources themselves.
pub(super) fn collect(file: Option<&Path>, vars: &dyn Vars, flags: &Flags) -> (Values, Vec<String>) {
    let default = |key: &Key| {
        let text = if key.name == "data_dir" { Some(data_dir_default(vars)) } else { Some(key.default.to_owned()) };
        (key.name, Value { key: *key, text: text.filter(|text| !text.is_empty()), source: Source::Default })
    };
    let mut values = Values(KEYS.iter().map(default).collect());
    let mut problems = Vec::new();
    read_file(file, vars, &mut values, &mut problems);
    read_vars(vars, &mut values, &mut problems);
    for (name, text) in flags {
        values.set(name, text.clone(), Source::Flag(name));
    }
    (values, problems)
}

/// Where root keeps the data of services.
const DATA_DIR_OF_ROOT: &str = "/var/lib/agent-host";

fn data_dir_default(vars: &dyn Vars) -> String {
    let folder = |name: &str, below: &str| {
        let folder = vars.get(name).ok().flatten().filter(|folder| Path::new(folder).is_absolute())?;
        Some(format!("{}/{below}", folder.trim_end_matches('/')))
    };
    folder("XDG_DATA_HOME", "agent-host")
        // Not root's home: it is mostly closed to others, and so to the user that the embedded PostgreSQL then runs as.
        .or_else(|| vars.is_root().then(|| DATA_DIR_OF_ROOT.to_owned()))
        .or_else(|| folder("HOME", ".local/share/agent-host"))
        .unwrap_or_else(|| "./.agent-host".to_owned())
}

/// Settings that are refused where they are set to nothing: it would open the host, where somebody meant to close it.
const NEVER_EMPTY: [&str; 1] = ["signature_keys"];

fn emptied(name: &str) -> String {
    format!("{name} is set to nothing, which would let every module run: name files with keys, or do not set it at all")
}

fn read_file(file: Option<&Path>, vars: &dyn Vars, values: &mut Values, problems: &mut Vec<String>) {
    let named = file.map(Path::to_path_buf).or_else(|| vars.get("AGENT_HOST_CONFIG").ok().flatten().map(PathBuf::from));
    let path = named.clone().unwrap_or_else(|| PathBuf::from(FILE_NAME));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => return,
        Err(error) => {
            problems.push(format!("{}: the configuration file cannot be read: {error}", path.display()));
            return;
        }
    };
    match text.parse::<toml::Table>() {
        Ok(table) => read_table(table, &path, values, problems),
        // The message shows the line, which may be a secret's.
        Err(error) => problems.push(format!("{}: {}{}", path.display(), error.message(), line_of(&text, error.span()))),
    }
}

fn line_of(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let before = span.and_then(|span| text.get(..span.start));
    before.map_or(String::new(), |before| format!(" (line {})", before.matches('\n').count() + 1))
}

fn read_table(table: toml::Table, path: &Path, values: &mut Values, problems: &mut Vec<String>) {
    for (name, value) in table {
        if values.get(&name).is_none() {
            let near = nearest(&name, KEYS.iter().map(|key| key.name));
            problems.push(format!("{name} in {} is not known{near}", path.display()));
            continue;
        }
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(truth) => truth.to_string(),
            other => {
                let given = other.type_str();
                problems.push(format!(
                    "{name} in {}: expected a string, a number or a boolean, not a {given}",
                    path.display()
                ));
                continue;
            }
        };
        if !text.is_empty() {
            values.set(&name, text, Source::File(path.to_path_buf()));
        } else if NEVER_EMPTY.contains(&name.as_str()) {
            problems.push(emptied(&format!("{name} in {}", path.display())));
        }
    }
}

fn read_vars(vars: &dyn Vars, values: &mut Values, problems: &mut Vec<String>) {
    for key in &KEYS {
        match vars.get(key.variable) {
            Ok(Some(text)) => values.set(key.name, text, Source::Variable(key.variable)),
            Ok(None) if NEVER_EMPTY.contains(&key.name) && vars.is_emptied(key.variable) => {
                problems.push(emptied(key.variable));
            }
            Ok(None) => {}
            Err(error) => problems.push(error.to_string()),
        }
    }
    let mut names = vars.names();
    names.sort();
    for name in names.iter().filter(|name| name.starts_with("AGENT_HOST_")) {
        let known = KEYS.iter().any(|key| key.variable == name) || OTHER_VARIABLES.contains(&name.as_str());
        if !known && !FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            let near = nearest(name, KEYS.iter().map(|key| key.variable));
            problems.push(format!("{name} is not known{near}"));
        }
    }
}

/// What is set in the environment and has no effect.
pub(super) fn ignored(vars: &dyn Vars) -> Vec<String> {
    let has_none = |ignored: &&Ignored| match vars.get(ignored.variable) {
        Ok(value) => value.is_some_and(|value| value != ignored.unless),
        // One that is not UTF-8 is set all the same.
        Err(_) => true,
    };
    let said = |Ignored { variable, instead, .. }: &Ignored| format!("{variable} is set and has no effect: {instead}");
    IGNORED.iter().filter(has_none).map(said).collect()
}

/// The likeliest thing that was meant, as the end of a sentence.
fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// Jaro-Winkler similarity above which a name is worth a guess; clap uses 0.7 for shorter names.
    const SIMILAR: f64 = 0.9;
    let scored = known.map(|name| (strsim::jaro_winkler(given, name), name));
    match scored.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, name)) if score > SIMILAR => format!("; did you mean {name}?"),
        _ => "; `agent-host config show` lists all settings".to_owned(),
    }
}
