//! The statements. Where no id is given, one is drawn between 1 and the highest, and the next row from there is taken:
//! two index look-ups, however many rows there are and however many were deleted.

use agent_sdk::sql::{Connection, Row};
use agent_sdk::{Failure, params, sql};

use crate::{Item, Reply};

const INSERT: &str = "
    INSERT INTO items (name, value) VALUES ($1, $2) RETURNING id, name, value, version";

const INSERT_MANY: &str = "
    INSERT INTO items (name, value) SELECT $1, $2 FROM generate_series(1, $3::bigint)";

const SELECT: &str = "SELECT id, name, value, version FROM items WHERE id = $1";

const SELECT_ANY: &str = "
    SELECT id, name, value, version FROM items
    WHERE id >= (SELECT 1 + floor(random() * coalesce(max(id), 0))::bigint FROM items)
    ORDER BY id LIMIT 1";

const UPDATE: &str = "
    UPDATE items SET value = coalesce($2, value + 1), version = version + 1, updated_at = now()
    WHERE id = $1
    RETURNING id, name, value, version";

const UPDATE_ANY: &str = "
    UPDATE items SET value = coalesce($1, value + 1), version = version + 1, updated_at = now()
    WHERE id = (
        SELECT id FROM items
        WHERE id >= (SELECT 1 + floor(random() * coalesce(max(id), 0))::bigint FROM items)
        ORDER BY id LIMIT 1
    )
    RETURNING id, name, value, version";

const DELETE: &str = "DELETE FROM items WHERE id = $1 RETURNING id, name, value, version";

const DELETE_ANY: &str = "
    DELETE FROM items
    WHERE id = (
        SELECT id FROM items
        WHERE id >= (SELECT 1 + floor(random() * coalesce(max(id), 0))::bigint FROM items)
        ORDER BY id LIMIT 1
    )
    RETURNING id, name, value, version";

pub(crate) fn insert(database: &Connection, name: &str, value: i64, count: i64) -> Result<Reply, Failure> {
    if count == 1 {
        return reply("insert", database.query_opt(INSERT, params![name, value])?);
    }
    let rows = database.execute(INSERT_MANY, params![name, value, count])?;
    Ok(Reply { op: "insert", rows, item: None })
}

pub(crate) fn select(database: &Connection, id: Option<i64>) -> Result<Reply, Failure> {
    let row = match id {
        Some(id) => database.query_opt(SELECT, params![id]),
        None => database.query_opt(SELECT_ANY, params![]),
    };
    reply("select", row?)
}

pub(crate) fn update(database: &Connection, id: Option<i64>, value: Option<i64>) -> Result<Reply, Failure> {
    let row = match id {
        Some(id) => database.query_opt(UPDATE, params![id, value]),
        None => database.query_opt(UPDATE_ANY, params![value]),
    };
    reply("update", row?)
}

pub(crate) fn delete(database: &Connection, id: Option<i64>) -> Result<Reply, Failure> {
    let row = match id {
        Some(id) => database.query_opt(DELETE, params![id]),
        None => database.query_opt(DELETE_ANY, params![]),
    };
    reply("delete", row?)
}

fn reply(op: &'static str, row: Option<Row>) -> Result<Reply, Failure> {
    let item = row.as_ref().map(item).transpose()?;
    Ok(Reply { op, rows: u64::from(item.is_some()), item })
}

fn item(row: &Row) -> Result<Item, sql::Error> {
    Ok(Item { id: row.get("id")?, name: row.get("name")?, value: row.get("value")?, version: row.get("version")? })
}
