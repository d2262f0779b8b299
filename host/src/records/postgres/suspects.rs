//! Messages that may be what kills hosts.

use sqlx::PgConnection;

pub(super) async fn begins(connection: &mut PgConnection, message: &str) -> Result<u32, sqlx::Error> {
    const BEGIN: &str = "
        INSERT INTO suspects AS s (message, runs) VALUES ($1, 1)
        ON CONFLICT (message) DO UPDATE SET runs = s.runs + 1, updated_at = now()
        RETURNING runs - 1";
    let before: i32 = sqlx::query_scalar(BEGIN).bind(message).fetch_one(connection).await?;
    Ok(u32::try_from(before).unwrap_or(0))
}

pub(super) async fn ends(connection: &mut PgConnection, message: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM suspects WHERE message = $1").bind(message).execute(connection).await.map(drop)
}
