use std::sync::Mutex;

use super::*;
use crate::agents::{AgentInfo, ChangeError, Deployed, Plan, Upload};
use crate::catalog::{CatalogError, Change};

/// What is deployed, as it is asked for; fails where it is told to.
#[derive(Default)]
struct Asked {
    deploys: Mutex<Vec<(String, Activation, usize)>>,
    is_away: Mutex<bool>,
}

impl Asked {
    fn taken(&self) -> Vec<(String, Activation, usize)> {
        std::mem::take(&mut self.deploys.lock().unwrap())
    }
}

#[async_trait::async_trait]
impl Agents for Asked {
    fn is_deployed(&self, _: &AgentName) -> bool {
        unreachable!()
    }

    fn may_be_deployed(&self, _: &AgentName) -> bool {
        unreachable!()
    }

    async fn is_elsewhere(&self, _: &AgentName) -> Result<bool, CatalogError> {
        unreachable!()
    }

    fn all_consuming(&self) -> bool {
        unreachable!()
    }

    async fn list(&self) -> Result<Vec<AgentInfo>, CatalogError> {
        unreachable!()
    }

    async fn get(&self, _: &AgentName) -> Result<Option<AgentInfo>, CatalogError> {
        unreachable!()
    }

    async fn deploy(
        &self,
        agent: &AgentName,
        upload: Upload,
        activation: Activation,
        _: Actor,
    ) -> Result<Deployed, DeployError> {
        self.deploys.lock().unwrap().push((agent.to_string(), activation, upload.signatures.len()));
        if *self.is_away.lock().unwrap() {
            return Err(DeployError::Database("no connection".to_owned()));
        }
        let digest = String::new();
        Ok(Deployed { agent: agent.clone(), revision: 1, digest, known: false, active: true, signed_by: None })
    }

    async fn plan(&self, _: &AgentName, _: Upload) -> Result<Plan, DeployError> {
        unreachable!()
    }

    async fn change(&self, _: &AgentName, _: Change, _: bool, _: Actor) -> Result<(), ChangeError> {
        unreachable!()
    }
}

/// A folder of agents, and what is asked for because of it.
struct Followed {
    dir: tempfile::TempDir,
    folder: AgentsFolder,
    asked: Asked,
}

impl Followed {
    /// At the start there is one agent, `a`, in the folder `1`.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = AgentsFolder::new(dir.path().to_path_buf());
        let mut followed = Self { dir, folder, asked: Asked::default() };
        followed.write("1", "one");
        followed.folder.deploy_all(&followed.asked).await;
        followed
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, folder: &str, description: &str) {
        std::fs::create_dir_all(self.path(folder)).unwrap();
        std::fs::write(self.path(folder).join("a.wasm"), "module").unwrap();
        let text = "manifest_version = 1\n[agent]\nname = \"a\"\nmodule = \"a.wasm\"\ndescription = ";
        std::fs::write(self.path(folder).join("agent.toml"), format!("{text}{description:?}\n")).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Looks once, and tells what was asked for.
    async fn look(&mut self) -> Vec<(Activation, usize)> {
        let looked = self.folder.look(&self.asked, Duration::ZERO, &CancellationToken::new()).await;
        assert_eq!(looked, Looked::Settled);
        self.asked.taken().into_iter().map(|(_, activation, signatures)| (activation, signatures)).collect()
    }
}

#[tokio::test]
async fn what_comes_back_as_it_was_overrules_nobody() {
    let mut followed = Followed::start().await;
    assert_eq!(followed.asked.taken(), [("a".to_owned(), Activation::IfNew, 0)]);
    followed.rename("1", ".away");
    assert_eq!(followed.look().await, []);
    followed.rename(".away", "1");
    assert_eq!(followed.look().await, []);
    // Nor under another name.
    followed.rename("1", "2");
    assert_eq!(followed.look().await, []);
    followed.write("2", "two");
    assert_eq!(followed.look().await, [(Activation::Always, 0)]);
    followed.rename("2", ".away");
    assert_eq!(followed.look().await, []);
    followed.write(".away", "three");
    followed.rename(".away", "2");
    assert_eq!(followed.look().await, [(Activation::Always, 0)], "something else is meant");
}

#[tokio::test]
async fn of_two_folders_with_one_agent_neither_is_deployed() {
    let mut followed = Followed::start().await;
    followed.asked.taken();
    followed.write(".2", "two");
    assert_eq!(followed.look().await, [], "what is being put together");
    followed.rename(".2", "1.bak");
    assert_eq!(followed.look().await, []);
    assert_eq!(followed.folder.clashes.values().next(), Some(&vec![followed.path("1"), followed.path("1.bak")]));
    followed.write("1", "three");
    assert_eq!(followed.look().await, []);
    std::fs::remove_dir_all(followed.path("1.bak")).unwrap();
    assert_eq!(followed.look().await, [(Activation::Always, 0)]);
    assert_eq!(followed.look().await, []);
}

#[tokio::test]
async fn a_signature_alone_activates_nothing() {
    let mut followed = Followed::start().await;
    followed.asked.taken();
    std::fs::write(followed.path("1/a.wasm.sig"), "AAAA").unwrap();
    assert_eq!(followed.look().await, [(Activation::Never, 1)]);
    assert_eq!(followed.look().await, []);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_ever_later() {
    let mut followed = Followed::start().await;
    followed.asked.taken();
    *followed.asked.is_away.lock().unwrap() = true;
    followed.write("1", "two");
    assert_eq!(followed.look().await.len(), 1);
    for after in [10, 20, 40, 60, 60] {
        let again = |followed: &mut Followed, at| {
            let path = followed.path("1");
            let retry = followed.folder.seen.get_mut(&path).unwrap().retry.as_mut().unwrap();
            assert_eq!(retry.after, Duration::from_secs(after));
            retry.at = at;
        };
        again(&mut followed, Instant::now() + Duration::from_secs(3_600));
        assert_eq!(followed.look().await, [], "before {after} s");
        again(&mut followed, Instant::now());
        assert_eq!(followed.look().await, [(Activation::Always, 0)], "after {after} s");
    }
    // Something else is tried at once.
    *followed.asked.is_away.lock().unwrap() = false;
    followed.write("1", "three");
    assert_eq!(followed.look().await.len(), 1);
    assert_eq!(followed.look().await, []);
}

#[tokio::test]
async fn a_file_that_keeps_its_length_and_time_is_read_again() {
    let mut followed = Followed::start().await;
    followed.asked.taken();
    let module = followed.path("1/a.wasm");
    let modified = std::fs::metadata(&module).unwrap().modified().unwrap();
    let new = followed.path("new");
    std::fs::write(&new, "mODULE").unwrap();
    std::fs::File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
    std::fs::rename(new, module).unwrap();
    assert_eq!(followed.look().await, [(Activation::Always, 0)]);
}

#[tokio::test]
async fn nothing_is_begun_once_it_is_told_to_end() {
    let mut followed = Followed::start().await;
    followed.asked.taken();
    followed.write("1", "two");
    let stop = CancellationToken::new();
    stop.cancel();
    followed.folder.look(&followed.asked, Duration::ZERO, &stop).await;
    assert_eq!(followed.asked.taken(), []);
    assert_eq!(followed.look().await.len(), 1);
}
