//! Checks of signatures: whether the keys can be read, and whether what a start would load is signed by one of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::{Exit, Finding};
use crate::catalog::Migration;
use crate::config::Backend;
use crate::package::{self, Package};
use crate::signature::{Signature, TrustedKeys, digest};

const CHECK: &str = "signatures";
const MEND: &str = "sign the module and deploy it again (--signature), or direct new tasks to a revision that is signed \
                    (agent-host rollback): a host that starts refuses this one";
/// How long reading the modules of the catalog may take.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The keys, where any are configured, and what is not signed by them.
pub(super) async fn check(files: &[PathBuf], agents_dir: Option<&Path>, database: &Backend) -> Vec<Finding> {
    if files.is_empty() {
        return Vec::new();
    }
    let keys = match TrustedKeys::read(files) {
        Ok(keys) => keys,
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
            let mend = "name files with public keys in AGENT_HOST_SIGNATURE_KEYS, with : between them";
            return vec![Finding::problem(CHECK, Exit::Usage, format!("{error}{cause}"), mend)];
        }
    };
    let trusted = format!("modules must be signed by one of: {}", keys.names().join(", "));
    let mut findings = vec![Finding::ok(CHECK, trusted)];
    findings.extend(of_folder(&keys, agents_dir));
    if let Backend::Url(url) = database {
        let looking = async {
            let mut connection = PgConnection::connect(url.expose()).await?;
            let found = of_catalog(&keys, &mut connection).await;
            // The answer is known; a goodbye that fails changes nothing.
            let _ = connection.close().await;
            found
        };
        match tokio::time::timeout(READ_TIMEOUT, looking).await {
            Ok(Ok(found)) => findings.extend(found),
            Ok(Err(error)) => findings.extend(unread(&error)),
            Err(_) => {
                let found = format!("the catalog's modules were not read within {} s", READ_TIMEOUT.as_secs());
                findings.push(Finding::warning(CHECK, found, "run it again where the database is near"));
            }
        }
    }
    findings
}

/// Agents whose module is not signed, in the folder from which a start deploys.
fn of_folder(keys: &TrustedKeys, folder: Option<&Path>) -> Vec<Finding> {
    let folders = folder.and_then(|folder| package::find(folder).ok()).unwrap_or_default();
    let unsigned = folders.iter().filter_map(|folder| {
        // One that cannot be read is told of elsewhere.
        let upload = Package::read(folder).ok()?.upload;
        let vouching = keys.vouching(&upload.module, &upload.manifest, &upload.migrations, &upload.signatures);
        let error = vouching.err()?;
        let mend = "put its signature beside the module (MODULE.sig), or the host starts without this agent";
        Some(Finding::problem(CHECK, Exit::Usage, format!("{}: {error}", folder.display()), mend))
    });
    unsigned.collect()
}

/// Revisions that get new tasks, and that a host with these keys does not load.
async fn of_catalog(keys: &TrustedKeys, connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    const LOADED: &str = "
        SELECT r.agent, r.revision, r.digest, r.manifest, r.migrations, r.signatures
        FROM agent_host.revisions AS r JOIN agent_host.agents AS a ON a.agent = r.agent
        WHERE r.revision IN (a.revision_active, a.canary) ORDER BY r.agent, r.revision";
    const PARTS: &str = "SELECT bytes FROM agent_host.modules WHERE digest = $1 ORDER BY part";
    let mut findings = Vec::new();
    let mut holding = 0;
    for row in sqlx::query(LOADED).fetch_all(&mut *connection).await? {
        let (agent, revision): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (expected, manifest): (String, String) = (row.try_get(2)?, row.try_get(3)?);
        let Json(migrations): Json<Vec<Migration>> = row.try_get(4)?;
        let Json(signatures): Json<Vec<Signature>> = row.try_get(5)?;
        let parts: Vec<Vec<u8>> = sqlx::query_scalar(PARTS).bind(&expected).fetch_all(&mut *connection).await?;
        let module = parts.concat();
        let vouching = if digest(&module) == expected {
            keys.vouching(&module, &manifest, &migrations, &signatures).map_err(|error| error.to_string())
        } else {
            Err("its module in the database is not what its digest says".to_owned())
        };
        match vouching {
            Ok(_) => holding += 1,
            Err(why) => {
                let found = format!("revision {revision} of {agent}: {why}");
                findings.push(Finding::problem(CHECK, Exit::Unavailable, found, MEND));
            }
        }
    }
    if findings.is_empty() && holding > 0 {
        findings.push(Finding::ok(CHECK, format!("all revisions that get new tasks are signed ({holding})")));
    }
    Ok(findings)
}

/// A catalog that no host has made yet, or not yet with signatures, has nothing to be looked at.
fn unread(error: &sqlx::Error) -> Option<Finding> {
    const NO_SUCH_TABLE_OR_COLUMN: [&str; 3] = ["42P01", "3F000", "42703"];
    let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
    if code.is_some_and(|code| NO_SUCH_TABLE_OR_COLUMN.contains(&code.as_str())) {
        return None;
    }
    // What keeps the database from answering at all is told of elsewhere.
    let found = format!("the catalog cannot be read: {error}");
    Some(Finding::warning(CHECK, found, "correct DATABASE_URL, and run it again"))
}
