//! A TCP relay in front of the broker that cuts and refuses connections on request, or is a slow line.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "test code: a broken expectation ends the test"
)]

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Relay {
    url: String,
    allowed: watch::Sender<bool>,
}

impl Relay {
    pub(crate) async fn start(broker: &str) -> Self {
        Self::with_speed(broker, u32::MAX).await
    }

    /// One that lets so many bytes a second through to each client.
    pub(crate) async fn with_speed(broker: &str, bytes_per_second: u32) -> Self {
        let mut uri: lapin::uri::AMQPUri = broker.parse().unwrap();
        let target = (uri.authority.host.clone(), uri.authority.port);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        uri.authority.host = "127.0.0.1".to_owned();
        uri.authority.port = listener.local_addr().unwrap().port();
        let (allowed, watched) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *watched.borrow() {
                    tokio::spawn(pass(client, target.clone(), bytes_per_second, watched.clone()));
                }
            }
        });
        Self { url: uri.to_string(), allowed }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Cuts every connection and takes no more.
    pub(crate) fn refuse(&self) {
        self.allowed.send_replace(false);
    }

    pub(crate) fn allow(&self) {
        self.allowed.send_replace(true);
    }
}

async fn pass(client: TcpStream, target: (String, u16), bytes_per_second: u32, mut allowed: watch::Receiver<bool>) {
    let broker = TcpStream::connect(target).await.unwrap();
    let ((mut from_client, to_client), (from_broker, mut to_broker)) = (client.into_split(), broker.into_split());
    let there = async {
        tokio::io::copy(&mut from_client, &mut to_broker).await?;
        to_broker.shutdown().await
    };
    tokio::select! {
        _ = async { tokio::try_join!(there, carry(from_broker, to_client, bytes_per_second)) } => {}
        _ = allowed.wait_for(|allowed| !allowed) => {}
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    bytes_per_second: u32,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..count]).await?;
        if bytes_per_second < u32::MAX {
            // The speed of the line, which is what is simulated: no test waits for it.
            tokio::time::sleep(Duration::from_secs(1).mul_f64(count as f64 / f64::from(bytes_per_second))).await;
        }
    }
}
