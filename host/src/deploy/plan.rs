//! What a deploy would change, without doing it.

use std::collections::BTreeMap;

use toml::Value;
use wasmparser::{Parser, Payload};

use super::{Deployer, check, vouched};
use crate::agents::{DeployError, Difference, Plan, Upload};
use crate::catalog::StoredRevision;
use crate::task::AgentName;

impl Deployer {
    pub(super) async fn planned(&self, agent: &AgentName, upload: Upload) -> Result<Plan, DeployError> {
        let (manifest, content) = check::content(agent, upload)?;
        vouched::uploaded(&self.trusted, &content).await?;
        self.check_secrets(&manifest)?;
        self.tried(&content, &manifest).await?;
        let mut known = None;
        for summary in self.catalog.revisions(agent).await? {
            if summary.digest == content.digest
                && let Some(stored) = self.catalog.get(agent, summary.revision).await?
                && stored.content.manifest == content.manifest
            {
                known = Some(summary.revision);
            }
        }
        let active = self.entry(agent).await?.and_then(|entry| entry.traffic).map(|traffic| traffic.active);
        let stored = match active {
            Some(active) => self.catalog.get(agent, active).await?,
            None => None,
        };
        let (digest, module_bytes) = (content.digest.clone(), content.module.len() as u64);
        // Reading a large module takes a while.
        let differences = tokio::task::spawn_blocking(move || differences(stored.as_ref(), &content)).await;
        let differences = differences.map_err(|error| DeployError::Host(error.to_string()))?;
        Ok(Plan { digest, module_bytes, known, active, differences })
    }
}

fn differences(stored: Option<&StoredRevision>, new: &crate::catalog::NewRevision) -> Vec<Difference> {
    let old = stored.map(|stored| &stored.content);
    let module = |content: &crate::catalog::NewRevision| format!("{}, {} bytes", content.digest, content.module.len());
    let mut all = compared(
        old.map(|old| BTreeMap::from([("module".to_owned(), module(old))])).unwrap_or_default(),
        BTreeMap::from([("module".to_owned(), module(new))]),
    );
    let imports = |module: &[u8]| -> BTreeMap<String, String> {
        imports(module).into_iter().map(|name| (format!("import {name}"), name)).collect()
    };
    all.extend(compared(old.map(|old| imports(&old.module)).unwrap_or_default(), imports(&new.module)));
    let keys = |manifest: &str| {
        let mut keys = BTreeMap::new();
        if let Ok(table) = manifest.parse::<toml::Table>() {
            flatten("", &Value::Table(table), &mut keys);
        }
        keys
    };
    all.extend(compared(old.map(|old| keys(&old.manifest)).unwrap_or_default(), keys(&new.manifest)));
    let migrations = |content: &crate::catalog::NewRevision| -> BTreeMap<String, String> {
        let named = content.migrations.iter();
        named.map(|migration| (format!("migration {}", migration.name), migration.sql.clone())).collect()
    };
    all.extend(compared(old.map(migrations).unwrap_or_default(), migrations(new)));
    all
}

fn compared(mut old: BTreeMap<String, String>, new: BTreeMap<String, String>) -> Vec<Difference> {
    let mut all = Vec::new();
    for (what, to) in new {
        match old.remove(&what) {
            Some(from) if from == to => {}
            from => all.push(Difference { what, from, to: Some(to) }),
        }
    }
    all.extend(old.into_iter().map(|(what, from)| Difference { what, from: Some(from), to: None }));
    all
}

/// A table's keys with dots between them, each with its value as TOML.
fn flatten(prefix: &str, value: &Value, keys: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, keys);
            }
        }
        other => {
            keys.insert(prefix.to_owned(), other.to_string());
        }
    }
}

/// What a component imports. It was read before, so nothing in it is malformed.
fn imports(module: &[u8]) -> Vec<String> {
    let (mut names, mut depth) = (Vec::new(), 0_u32);
    for payload in Parser::new(0).parse_all(module).flatten() {
        match payload {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                names.extend(section.into_iter().flatten().map(|import| import.name.name.to_owned()));
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::conformance::revision;

    #[test]
    fn what_differs_is_told_and_what_does_not_is_not() {
        let agent = AgentName::parse("echo").unwrap();
        let component = |import: &str| wat::parse_str(format!("(component (import \"{import}\" (func)))")).unwrap();
        let stored = StoredRevision {
            revision: 1,
            created_at_ms: 1,
            content: revision(&agent, "[limits]\nmemory = \"64MiB\"\ntimeout = \"1s\"", component("a")),
        };
        let mut new = revision(&agent, "[limits]\nmemory = \"1MiB\"\n[grants]\ncache = true", component("b"));
        new.migrations.pop();
        let told = |old| {
            let told = differences(old, &new).into_iter();
            told.map(|d| (d.what, d.from.is_some(), d.to.is_some())).collect::<Vec<_>>()
        };
        let expected = [
            ("module", true, true),
            ("import b", false, true),
            ("import a", true, false),
            ("grants.cache", false, true),
            ("limits.memory", true, true),
            ("limits.timeout", true, false),
            ("migration 0002_b.sql", true, false),
        ];
        assert_eq!(told(Some(&stored)), expected.map(|(what, from, to)| (what.to_owned(), from, to)));
        assert!(told(None).iter().all(|(_, from, to)| !from && *to));
        let same = StoredRevision { content: new.clone(), ..stored };
        assert_eq!(told(Some(&same)), []);
    }
}
