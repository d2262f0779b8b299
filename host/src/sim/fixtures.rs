//! What there is in a simulated world: embedded stores, answers from outside, secrets, files; and looking at them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use url::{Host, Url};

use super::SimError;
use super::scenario::{Given, HttpFixture, Sent};
use crate::capability::cache::{Cache as _, MemoryCache, Space};
use crate::capability::files::FilesRoot;
use crate::capability::key_value::{Bucket, KeyValue as _, MemoryKeyValue};
use crate::capability::outbound_http::{MemoryNetwork, Network, TcpNetwork};
use crate::capability::secrets::{EnvironmentSecrets, variable};
use crate::capability::sql::{Database, Value};
use crate::manifest::{Manifest, TransactionMode};
use crate::task::AgentName;

/// How long a fixture's statement may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A world.
pub(crate) struct World {
    pub(super) key_value: Arc<MemoryKeyValue>,
    pub(super) cache: Arc<MemoryCache>,
    pub(super) network: Arc<dyn Network>,
    pub(super) secrets: EnvironmentSecrets,
    pub(super) files: FilesRoot,
    folder: Option<PathBuf>,
    /// Goes with the world.
    _temporary: Option<TempDir>,
    given: Given,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl World {
    /// An empty world with a real outside: the network, this process's environment, this folder.
    pub(crate) fn open(files: Option<&Path>) -> Result<Self, SimError> {
        let root = FilesRoot::open(files).map_err(|error| SimError::Fixture(format!("the files' root: {error}")))?;
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Ok(Self {
            key_value: Arc::default(),
            cache: Arc::new(MemoryCache::new()),
            network: Arc::new(TcpNetwork::default()),
            secrets: EnvironmentSecrets::new(variables),
            files: root,
            folder: files.map(Path::to_owned),
            _temporary: None,
            given: Given::default(),
            sent: Arc::default(),
        })
    }

    /// A world with nothing in it but what is given.
    pub(crate) fn closed(given: &Given, manifest: &Manifest) -> Result<Self, SimError> {
        let wrong = |what: &str, error: std::io::Error| SimError::Fixture(format!("{what}: {error}"));
        let temporary = TempDir::new().map_err(|error| wrong("a folder for files", error))?;
        for grant in &manifest.grants.files {
            std::fs::create_dir_all(temporary.path().join(&grant.host)).map_err(|error| wrong(&grant.host, error))?;
        }
        for (name, text) in &given.files {
            write(temporary.path(), name, text)?;
        }
        let files = FilesRoot::open(Some(temporary.path())).map_err(|error| wrong("the files' root", error))?;
        let secret = |(name, value): (&String, &String)| (variable(&manifest.agent.name, name), value.clone());
        let sent = Arc::default();
        Ok(Self {
            key_value: Arc::default(),
            cache: Arc::new(MemoryCache::new()),
            network: Arc::new(network(&given.http, &sent)?),
            secrets: EnvironmentSecrets::new(given.secrets.iter().map(secret)),
            files,
            folder: Some(temporary.path().to_owned()),
            _temporary: Some(temporary),
            given: given.clone(),
            sent,
        })
    }

    /// Puts there what is given and lies in a store.
    pub(super) async fn fill(
        &self,
        manifest: &Manifest,
        database: &dyn Database,
        alias: &AgentName,
    ) -> Result<(), SimError> {
        let wrong = |what: String, error: &dyn std::fmt::Display| SimError::Fixture(format!("given {what}: {error}"));
        let agent = &manifest.agent.name;
        for (bucket, entries) in &self.given.key_value {
            for (key, value) in entries {
                let set = self.key_value.set(&Bucket::new(agent, bucket), key, value.clone().into_bytes()).await;
                set.map_err(|error| wrong(format!("key_value {bucket:?} {key:?}"), &error))?;
            }
        }
        let space = Space::new(agent, Arc::default());
        for (key, value) in &self.given.cache {
            let set = self.cache.set(&space, key, value.clone().into_bytes(), None).await;
            set.map_err(|error| wrong(format!("cache {key:?}"), &error))?;
        }
        for statement in &self.given.sql {
            if manifest.grants.sql.is_empty() {
                return Err(wrong("sql".to_owned(), &"the manifest grants no database"));
            }
            let wrong = |error: &dyn std::fmt::Display| wrong(format!("sql {statement:?}"), error);
            let opened = database.open(alias, TransactionMode::Statement, STATEMENT_TIMEOUT).await;
            let mut connection = opened.map_err(|error| wrong(&error))?;
            connection.execute(statement, &[], STATEMENT_TIMEOUT).await.map_err(|error| wrong(&error))?;
        }
        Ok(())
    }

    /// The value of a key.
    pub(crate) async fn value(&self, agent: &AgentName, bucket: &str, key: &str) -> Option<String> {
        let value = self.key_value.get(&Bucket::new(agent, bucket), key).await.ok().flatten();
        value.map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// The cached value of a key.
    pub(crate) async fn cached(&self, agent: &AgentName, key: &str) -> Option<String> {
        let value = self.cache.get(&Space::new(agent, Arc::default()), key).await.ok().flatten();
        value.map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// The text of a file.
    pub(crate) fn file(&self, name: &str) -> Option<String> {
        let bytes = std::fs::read(self.folder.as_ref()?.join(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The requests that were sent since the last time.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn write(root: &Path, name: &str, text: &str) -> Result<(), SimError> {
    let wrong = |why: &dyn std::fmt::Display| SimError::Fixture(format!("given files {name:?}: {why}"));
    let is_inside = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !is_inside {
        return Err(wrong(&"expected a path below the files' root"));
    }
    let path = root.join(name);
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, text));
    made.map_err(|error| wrong(&error))
}

/// What is outside: a server for each origin, which answers as the fixtures say and to everything else that there is none.
fn network(fixtures: &[HttpFixture], sent: &Arc<Mutex<Vec<Sent>>>) -> Result<MemoryNetwork, SimError> {
    let mut network = MemoryNetwork::new();
    let mut origins: BTreeMap<String, (SocketAddr, Vec<(Url, HttpFixture)>)> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for fixture in fixtures {
        let wrong = |why: &str| SimError::Fixture(format!("given http {:?}: {why}", fixture.url));
        let url = Url::parse(&fixture.url).map_err(|error| wrong(&error.to_string()))?;
        if StatusCode::from_u16(fixture.status).is_err() {
            return Err(wrong("status: expected 100 to 999"));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(wrong("expected http:// or https://"));
        };
        let number = u8::try_from(names.len()).map_err(|_| wrong("at most 256 hosts"))?;
        let address = match &host {
            Host::Ipv4(address) => IpAddr::V4(*address),
            Host::Ipv6(address) => IpAddr::V6(*address),
            Host::Domain("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
            // Nothing leaves this process: any address will do that is nobody's own network.
            Host::Domain(_) => IpAddr::V4(Ipv4Addr::new(1, 1, 1, number)),
        };
        let key = url.origin().ascii_serialization();
        let known = origins.values().find(|(_, all)| all.iter().any(|(other, _)| other.host() == url.host()));
        let address = known.map_or(address, |(address, _)| address.ip());
        if let Host::Domain(name) = host
            && names.insert(name.to_owned())
        {
            network = network.with_name(name, &[address]);
        }
        let entry = origins.entry(key).or_insert_with(|| (SocketAddr::new(address, port), Vec::new()));
        entry.1.push((url, fixture.clone()));
    }
    for (origin, (address, answers)) in origins {
        let sent = Arc::clone(sent);
        network = network.with_server(address, move |request| {
            let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
            let url = format!("{origin}{path}");
            let body = String::from_utf8_lossy(request.body()).into_owned();
            let method = request.method().to_string();
            sent.lock().unwrap_or_else(PoisonError::into_inner).push(Sent { method, url: url.clone(), body });
            answer(request, &url, &answers)
        });
    }
    Ok(network)
}

fn answer(request: &Request<Bytes>, url: &str, answers: &[(Url, HttpFixture)]) -> Response<Bytes> {
    let method = request.method().as_str();
    let found = answers.iter().find(|(known, fixture)| {
        known.as_str() == url && fixture.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
    });
    let mut response = Response::new(Bytes::new());
    let Some((_, fixture)) = found else {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = format!("the scenario has no answer to {method} {url}\n").into();
        return response;
    };
    *response.status_mut() = StatusCode::from_u16(fixture.status).unwrap_or(StatusCode::OK);
    if let Some(json) = &fixture.json {
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        *response.body_mut() = json.to_string().into();
    } else {
        *response.body_mut() = fixture.body.clone().into();
    }
    for (name, value) in &fixture.headers {
        if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(name), http::HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Rows of a query in an agent's schema, as JSON.
pub(super) async fn query(
    database: &dyn Database,
    alias: &AgentName,
    statement: &str,
) -> Result<Vec<Vec<Json>>, String> {
    let failed = |error: crate::capability::sql::SqlError| crate::capability::chain(&error);
    let opened = database.open(alias, TransactionMode::Statement, STATEMENT_TIMEOUT).await;
    let mut connection = opened.map_err(failed)?;
    connection.query(statement, &[], STATEMENT_TIMEOUT).await.map_err(failed)?;
    let mut rows = Vec::new();
    while let Some(batch) = connection.next_rows().await.map_err(failed)? {
        rows.extend(batch.rows.into_iter().map(|row| row.into_iter().map(shown).collect()));
        if !connection.is_streaming() {
            break;
        }
    }
    Ok(rows)
}

/// A value as a scenario writes it.
fn shown(value: Value) -> Json {
    let date = |date: crate::capability::sql::Date| format!("{:04}-{:02}-{:02}", date.year, date.month, date.day);
    let time = |time: crate::capability::sql::Time| {
        format!("{:02}:{:02}:{:02}.{:06}", time.hour, time.minute, time.second, time.nanosecond / 1_000)
    };
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => json!(value),
        Value::Int8(value) => json!(value),
        Value::Int16(value) => json!(value),
        Value::Int32(value) => json!(value),
        Value::Int64(value) | Value::Timestamp(value) => json!(value),
        Value::Float32(value) => json!(value),
        Value::Float64(value) => json!(value),
        Value::Text(text) | Value::Uuid(text) | Value::Decimal(text) => json!(text),
        Value::Date(value) => json!(date(value)),
        Value::Time(value) => json!(time(value)),
        Value::DateTime(value) => json!(format!("{}T{}", date(value.date), time(value.time))),
        Value::Json(bytes) => serde_json::from_slice(&bytes).unwrap_or(Json::Null),
        Value::Binary(bytes) | Value::Unsupported(bytes) => {
            json!(bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
        }
        Value::ArrayInt32(items) => json!(items),
        Value::ArrayInt64(items) => json!(items),
        Value::ArrayDecimal(items) | Value::ArrayText(items) => json!(items),
    }
}
