//! A TCP relay in front of the broker that cuts and refuses connections on request.

#![allow(clippy::unwrap_used, reason = "test code: a broken expectation ends the test")]

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Relay {
    url: String,
    allowed: watch::Sender<bool>,
}

impl Relay {
    pub(crate) async fn start(broker: &str) -> Self {
        let mut uri: lapin::uri::AMQPUri = broker.parse().unwrap();
        let target = (uri.authority.host.clone(), uri.authority.port);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        uri.authority.host = "127.0.0.1".to_owned();
        uri.authority.port = listener.local_addr().unwrap().port();
        let (allowed, watched) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *watched.borrow() {
                    tokio::spawn(pass(client, target.clone(), watched.clone()));
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

async fn pass(mut client: TcpStream, target: (String, u16), mut allowed: watch::Receiver<bool>) {
    let mut broker = TcpStream::connect(target).await.unwrap();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut broker) => {}
        _ = allowed.wait_for(|allowed| !allowed) => {}
    }
}
