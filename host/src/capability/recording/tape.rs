//! A run's tape, whichever side it is of.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use wasmtime_wasi::WasiCtxBuilder;

use super::clocks::Which;
use super::format::{FORMAT, Head, Recorded, Recording, TaskGiven};
use super::player::{Answer, Difference, Over, Player};
use super::writer::{self, Writer};
use crate::capability::secrets::{SecretSource, SecretsError};
use crate::manifest::Manifest;
use crate::memory::Holder;
use crate::secrets::Secret;
use crate::task::{Completion, Task};

/// What one run asks and is told, as it is written down or played back.
#[derive(Debug)]
pub struct Tape {
    pub(super) side: Side,
    seed: [u8; 32],
}

#[derive(Debug)]
pub(super) enum Side {
    Writes(Writer),
    Plays(Player),
}

impl Tape {
    /// One that is recorded, of at most so many bytes; none where the system gives no random seed.
    pub(in crate::capability) fn recording(bytes_max: usize) -> Option<Arc<Self>> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).ok()?;
        Some(Arc::new(Self { side: Side::Writes(Writer::new(bytes_max)), seed }))
    }

    /// One that is played back, to one run. Of secrets the agent gets these values, and stand-ins for the others.
    #[must_use]
    pub fn playing(recording: Arc<Recording>, secrets: HashMap<String, Secret>) -> Arc<Self> {
        let player = Player::new(recording, secrets);
        Arc::new(Self { seed: player.seed(), side: Side::Plays(player) })
    }

    /// Accounts there for what is written down.
    pub(in crate::capability) fn account_to(&self, holder: &Holder) {
        if let Side::Writes(writer) = &self.side {
            writer.account_to(holder);
        }
    }

    /// Gives an instance the tape's random numbers.
    pub fn seed(&self, wasi: &mut WasiCtxBuilder) {
        let stream = |number| {
            let mut generator = ChaCha20Rng::from_seed(self.seed);
            generator.set_stream(number);
            generator
        };
        let mut seed = [0; 16];
        stream(2).fill_bytes(&mut seed);
        wasi.secure_random(stream(0)).insecure_random(stream(1)).insecure_random_seed(u128::from_le_bytes(seed));
    }

    /// Begins a call.
    pub(super) fn asked(&self, call: &'static str, asked: &(impl Serialize + ?Sized)) -> Asked<'_> {
        match &self.side {
            Side::Writes(writer) => Asked::Written(writer.asked(call, asked)),
            Side::Plays(player) => Asked::Played(player.answer(call, asked)),
        }
    }

    /// A call, answered by this future, or by the tape.
    pub(super) async fn call<R: Serialize + DeserializeOwned>(
        &self,
        call: &'static str,
        asked: &(impl Serialize + ?Sized),
        answering: impl Future<Output = R>,
    ) -> R {
        self.asked(call, asked).answered_by(answering).await
    }

    /// The same, where nothing can wait.
    pub(in crate::capability) fn call_now<R: Serialize + DeserializeOwned + Default>(
        &self,
        call: &'static str,
        asked: &(impl Serialize + ?Sized),
        answer: impl FnOnce() -> R,
    ) -> R {
        match &self.side {
            Side::Writes(writer) => {
                let answer = answer();
                writer.note(call, asked, &answer);
                answer
            }
            Side::Plays(player) => player.answer(call, asked).and_then(Answer::read).unwrap_or_default(),
        }
    }

    /// What a clock shows.
    pub(super) fn read(&self, clock: Which, now: impl FnOnce() -> u64) -> u64 {
        match &self.side {
            Side::Writes(writer) => {
                let now = now();
                writer.read(clock, now);
                now
            }
            Side::Plays(player) => player.read(clock),
        }
    }

    /// The time of day, which the host tells the agent.
    #[must_use]
    pub fn unix_ms_now(&self) -> u64 {
        self.read(Which::Wall, crate::task::unix_ms_now)
    }

    /// Notes that the run has files, which are not recorded.
    pub fn note_files(&self) {
        if let Side::Writes(writer) = &self.side {
            writer.note_files();
        }
    }

    /// Notes a secret that the run was given.
    pub(super) fn knows(&self, name: &str, secret: &Secret) {
        if let Side::Writes(writer) = &self.side {
            writer.knows(name, secret);
        }
    }

    /// Cancelled where a replay does not go on.
    #[must_use]
    pub fn over_token(&self) -> CancellationToken {
        match &self.side {
            Side::Writes(_) => CancellationToken::new(),
            Side::Plays(player) => player.token().clone(),
        }
    }

    /// Why a replay did not go on, where it did not.
    #[must_use]
    pub fn over(&self) -> Option<Over> {
        match &self.side {
            Side::Writes(_) => None,
            Side::Plays(player) => player.over(),
        }
    }

    /// The first recorded call that a replay did not come to.
    #[must_use]
    pub fn left(&self) -> Option<Difference> {
        match &self.side {
            Side::Writes(_) => None,
            Side::Plays(player) => player.left(),
        }
    }

    /// What came of a replay, as it would have been recorded.
    #[must_use]
    pub fn came_of_it(&self, completion: &Completion) -> Recorded {
        let came_of_it = Recorded::of(completion);
        match &self.side {
            Side::Writes(_) => came_of_it,
            Side::Plays(player) => {
                let document = serde_json::to_value(&came_of_it).unwrap_or_default();
                serde_json::from_value(player.redacted(document)).unwrap_or(came_of_it)
            }
        }
    }
}

/// A call that was begun.
pub(super) enum Asked<'a> {
    /// Its line, where there is room for one.
    Written(Option<writer::Asked<'a>>),
    /// Its answer, where the replay goes on.
    Played(Option<Answer<'a>>),
}

impl Asked<'_> {
    /// The answer, of this future, or of the tape. It does not return where a replay is over: that ends the run.
    pub(super) async fn answered_by<R: Serialize + DeserializeOwned>(self, answering: impl Future<Output = R>) -> R {
        match self {
            Self::Written(line) => {
                let answer = answering.await;
                if let Some(line) = line {
                    line.answered(&answer);
                }
                answer
            }
            Self::Played(answer) => match answer.and_then(Answer::read) {
                Some(answer) => answer,
                None => std::future::pending().await,
            },
        }
    }
}

/// Makes the recording of a run that has ended.
pub struct Recorder {
    pub(in crate::capability) tape: Arc<Tape>,
    pub(in crate::capability) secrets: Arc<dyn SecretSource>,
}

impl Recorder {
    /// The tape.
    #[must_use]
    pub fn tape(&self) -> &Arc<Tape> {
        &self.tape
    }

    /// The recording; nothing of a replay. Secrets that the agent has and did not ask for are taken out as well.
    ///
    /// # Errors
    /// The secrets cannot be read, and so cannot be taken out.
    pub async fn finish(
        &self,
        (revision, digest, manifest): (u64, &str, &Manifest),
        task: &Task,
        completion: &Completion,
    ) -> Result<Option<Vec<u8>>, SecretsError> {
        let Side::Writes(writer) = &self.tape.side else { return Ok(None) };
        for name in &manifest.secrets.required {
            if let Some(secret) = self.secrets.get(&manifest.agent.name, name).await? {
                writer.knows(name, &secret);
            }
        }
        let head = Head {
            format: FORMAT,
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            revision,
            digest: digest.to_owned(),
            manifest: manifest.clone(),
            task: TaskGiven::of(task),
            random_seed: self.tape.seed.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            }),
        };
        let (tape, came_of_it) = (Arc::clone(&self.tape), Recorded::of(completion));
        // Some of it is looked through once for every form of every secret: not on a thread that agents wait for.
        let finishing = tokio::task::spawn_blocking(move || match &tape.side {
            Side::Writes(writer) => Some(writer.finish(head, came_of_it)),
            Side::Plays(_) => None,
        });
        Ok(finishing.await.unwrap_or_default())
    }
}
