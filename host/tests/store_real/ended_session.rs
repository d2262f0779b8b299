//! What PostgreSQL says of a session that it ends: told to whoever sends the next statement (`vendor/sqlx-postgres`, `flush`).

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor, PgConnection};
use tokio::net::{TcpStream, UnixListener};

use super::{NEVER, with_database};

/// Over a Unix socket, where a write fails as soon as the other side is closed, and closed before the next statement.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_is_told_to_the_statement_that_finds_it_closed() {
    with_database(|scratch| async move {
        let options: PgConnectOptions = scratch.url.parse().unwrap();
        let mut server = TcpStream::connect((options.get_host(), options.get_port())).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let passing = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let ((from_client, to_client), (from_server, to_server)) = (&mut client.split(), &mut server.split());
            // The end of either is the end of both.
            tokio::select! {
                copied = tokio::io::copy(from_client, to_server) => copied.unwrap(),
                copied = tokio::io::copy(from_server, to_client) => copied.unwrap(),
            };
        });
        let mut connection: PgConnection = options.socket(folder.path()).port(5432).connect().await.unwrap();
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await.unwrap();
        sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut scratch.connect().await).await.unwrap();
        tokio::time::timeout(NEVER, passing).await.expect("the server closes the connection").unwrap();

        let error = connection.execute("SELECT 1").await.unwrap_err();
        let told = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        assert_eq!(told.as_deref(), Some("57P01"), "{error:?}");
        assert!(connection.execute("SELECT 1").await.is_err());
    })
    .await;
}
