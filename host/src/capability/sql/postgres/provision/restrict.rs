//! What every role may do by default, and agents are not to.
//!
//! PostgreSQL grants this to PUBLIC, so it can only be taken from everyone, in this one database: host and agents are best
//! given a database of their own. What the host's role may not take away stays, and is told in the log; the rest of the
//! isolation does not rest on it.

use sqlx::{Executor, PgPool};

/// One thing to take from everyone.
struct Restriction {
    /// What agents can do while it is not taken.
    leaves: &'static str,
    /// Whether everyone has it, as a query for one boolean.
    is_open: String,
    /// Takes it.
    close: String,
}

/// Functions that reach past an agent's schema, as far as everyone may call them: large objects, which lie outside of any
/// schema, notifications, and other servers.
const FUNCTIONS: &str = "\
    SELECT p.oid::regprocedure FROM pg_proc p WHERE has_function_privilege('public', p.oid, 'EXECUTE') AND ( \
        p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN ('lo_close', 'lo_creat', 'lo_create', \
            'lo_from_bytea', 'lo_get', 'lo_lseek', 'lo_lseek64', 'lo_open', 'lo_put', 'lo_tell', 'lo_tell64', \
            'lo_truncate', 'lo_truncate64', 'lo_unlink', 'loread', 'lowrite', 'pg_notify') \
        OR EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid \
            WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_extension'::regclass \
            AND d.deptype = 'e' AND e.extname = 'dblink'))";

fn restrictions() -> [Restriction; 4] {
    let on_database = |privilege: &str| {
        let is_open = format!("SELECT has_database_privilege('public', current_database(), '{privilege}')");
        let revoke = format!("REVOKE {privilege} ON DATABASE %I FROM PUBLIC");
        (is_open, format!("DO $$ BEGIN EXECUTE format('{revoke}', current_database()); END $$"))
    };
    let (temporary, create) = (on_database("TEMPORARY"), on_database("CREATE"));
    [
        Restriction {
            leaves: "make temporary tables: they end with the task, and no limit bounds them on the server's disk",
            is_open: temporary.0,
            close: temporary.1,
        },
        Restriction { leaves: "make schemas of other names", is_open: create.0, close: create.1 },
        Restriction {
            // So before PostgreSQL 15.
            leaves: "make objects in the schema public",
            is_open: "SELECT COALESCE((SELECT has_schema_privilege('public', oid, 'CREATE') FROM pg_namespace \
                      WHERE nspname = 'public'), false)"
                .to_owned(),
            close: "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned(),
        },
        Restriction {
            leaves: "call functions for large objects and notifications, and those of the extension dblink",
            is_open: format!("SELECT EXISTS ({FUNCTIONS})"),
            close: format!(
                "DO $$ DECLARE f regprocedure; BEGIN FOR f IN {FUNCTIONS} LOOP \
                 EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f); END LOOP; END $$"
            ),
        },
    ]
}

/// Takes from everyone what can be taken, and tells the rest.
pub(super) async fn everyone(admin: &PgPool) -> Result<(), sqlx::Error> {
    for Restriction { leaves, is_open, close } in restrictions() {
        if !sqlx::query_scalar(&is_open).fetch_one(admin).await? {
            continue;
        }
        // Without the right to, PostgreSQL answers with an error or with a warning, by what else the role may do.
        let refused = admin.execute(close.as_str()).await.err().map(|error| crate::capability::chain(&error));
        if sqlx::query_scalar(&is_open).fetch_one(admin).await? {
            let why = refused.unwrap_or_default();
            tracing::info!(
                why,
                "the role of DATABASE_URL may not take a privilege from PUBLIC, so agents can {leaves}"
            );
        }
    }
    Ok(())
}
