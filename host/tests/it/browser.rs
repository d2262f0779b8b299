//! Chromium under WebDriver, as a person would use it.

use std::process::Stdio;
use std::time::Duration;

use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::common::wait_until;

/// What a desk and a phone show, in CSS pixels. Chromium makes no window narrower than 500, so a phone is emulated.
const DESK: (u32, u32) = (1280, 860);
const PHONE: (u32, u32) = (390, 844);
/// A page that has not drawn in so long never will.
const DRAWN_WITHIN: Duration = Duration::from_secs(60);

/// How the browser is set up.
#[derive(Clone, Copy)]
pub(crate) enum Look {
    Desk,
    DeskDark,
    Phone,
}

/// A browser with one tab. It ends with its driver, when it is dropped.
pub(crate) struct Browser {
    client: Client,
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    pub(crate) async fn start(look: Look) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("`cargo xtask test` has looked for chromedriver");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next_line().await.unwrap().expect("chromedriver says where it listens");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let profile = tempfile::tempdir().unwrap();
        let (width, height) = DESK;
        let mut options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            format!("--window-size={width},{height}"), format!("--user-data-dir={}", profile.path().display()),
        ] });
        match look {
            Look::Desk => {}
            Look::DeskDark => options["args"].as_array_mut().unwrap().push("--force-dark-mode".into()),
            Look::Phone => {
                let (width, height) = PHONE;
                options["mobileEmulation"] =
                    json!({ "deviceMetrics": { "width": width, "height": height, "pixelRatio": 2.0, "touch": true } });
            }
        }
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".to_owned(), options);
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("chromium starts");
        Self { client, _driver: driver, _profile: profile }
    }

    pub(crate) async fn go(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Waits until the page's main part shows this text.
    pub(crate) async fn sees(&self, text: &str) {
        wait_until(&format!("the page shows {text:?}"), async || self.main().await.contains(text).then_some(())).await;
    }

    /// The text of the page's main part.
    pub(crate) async fn main(&self) -> String {
        self.run("return document.querySelector('main').innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks what has this text, as soon as there is such a thing.
    pub(crate) async fn click(&self, element: &str, text: &str) {
        let path = format!("//{element}[normalize-space(.)='{text}']");
        // The page may draw itself anew between the look and the click.
        wait_until(&format!("{text:?} is clicked"), async || {
            self.client.find(Locator::XPath(&path)).await.ok()?.click().await.ok()
        })
        .await;
    }

    /// Answers the open dialog with OK, and with this text where it asks for one.
    pub(crate) async fn answer(&self, text: Option<&str>) {
        let waiting = self.client.wait().at_most(DRAWN_WITHIN);
        waiting.for_element(Locator::Css("dialog[open]")).await.expect("a dialog opens");
        if let Some(text) = text {
            self.client.find(Locator::Id("ask-input")).await.unwrap().send_keys(text).await.unwrap();
        }
        self.client.find(Locator::Id("ask-yes")).await.unwrap().click().await.unwrap();
    }

    /// Presses a key where the focus is.
    pub(crate) async fn press(&self, key: &str) {
        // The page may draw itself anew between the look and the key.
        wait_until(&format!("{key:?} is pressed"), async || {
            self.client.active_element().await.ok()?.send_keys(key).await.ok()
        })
        .await;
    }

    /// What a script answers.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Keeps what is on the screen, where `SCREENSHOTS` names a folder for it: the pictures in docs/ are made so.
    pub(crate) async fn keep_screen(&self, name: &str) {
        if let Some(folder) = std::env::var_os("SCREENSHOTS") {
            let picture = self.client.screenshot().await.unwrap();
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), picture).unwrap();
        }
    }

    pub(crate) async fn close(self) {
        self.client.close().await.unwrap();
    }
}
