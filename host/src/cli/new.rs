//! `agent-host new -t LANG NAME`: an agent to start from.

mod templates;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use self::templates::File;
use super::failed::Failed;
use super::output::Console;
use crate::task::AgentName;
use crate::wit;

/// `new`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct New {
    /// The agent's name; also that of its folder, which is made here
    #[arg(value_parser = AgentName::parse)]
    name: AgentName,
    /// What it is written in
    #[arg(short, long, value_enum)]
    template: Language,
    /// Make it in this folder instead
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// The folder of the crate agent-sdk, for Rust [default: the one above here, in a checkout of agent-host]
    #[arg(long, value_name = "FOLDER")]
    sdk: Option<PathBuf>,
}

/// What agents are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    /// Rust, with agent-sdk
    Rust,
    /// JavaScript, with componentize-js
    Js,
    /// Python, with componentize-py
    Python,
    /// C
    C,
    /// Go, as a plain program
    Go,
}

impl Language {
    fn files(self) -> &'static [File] {
        match self {
            Self::Rust => templates::RUST,
            Self::Js => templates::JS,
            Self::Python => templates::PYTHON,
            Self::C => templates::C,
            Self::Go => templates::GO,
        }
    }

    /// Whether it is built from the interface's own files.
    fn needs_wit(self) -> bool {
        matches!(self, Self::Js | Self::Python)
    }

    /// What brings its tools, in the agent's folder.
    fn prepare(self) -> Option<&'static str> {
        match self {
            Self::Rust => Some("rustup target add wasm32-wasip2"),
            Self::Js => Some("npm install"),
            Self::Python => Some("pip install -r requirements.txt"),
            Self::C | Self::Go => None,
        }
    }
}

impl New {
    pub(super) fn run(&self, console: &mut Console<'_>) -> Result<(), Failed> {
        let folder = self.dir.clone().unwrap_or_else(|| self.name.as_str().into());
        let wrong = |path: &Path, error: std::io::Error| Failed::usage(format!("{}: {error}", path.display()));
        let is_taken = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
        if is_taken {
            return Err(Failed::usage(format!("{}: there is something in it already", folder.display())));
        }
        let sdk = if self.template == Language::Rust { self.sdk()? } else { String::new() };
        let filled = |text: &str| {
            let name = self.name.as_str();
            text.replace("{{name}}", name).replace("{{crate}}", &name.replace('-', "_")).replace("{{sdk}}", &sdk)
        };
        let own = self.template.files().iter().chain(templates::COMMON);
        let own = own.map(|(path, text)| ((*path).to_owned(), filled(text)));
        let interface = wit::FILES.iter().filter(|_| self.template.needs_wit());
        let interface = interface.map(|(path, text)| (format!("wit/{path}"), (*text).to_owned()));
        for (path, text) in own.chain(interface) {
            let path = folder.join(path);
            let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, text));
            made.map_err(|error| wrong(&path, error))?;
        }
        let prepare = self.template.prepare().map_or_else(String::new, |line| format!("\n  {line}"));
        Ok(console.text(&format!(
            "{name} is made. Next:\n  cd {folder}{prepare}\n  agent-host build\n  agent-sim test scenarios\n  agent-host dev",
            name = self.name,
            folder = folder.display(),
        ))?)
    }

    /// Where the crate agent-sdk is.
    fn sdk(&self) -> Result<String, Failed> {
        let is_sdk = |folder: &PathBuf| folder.join("Cargo.toml").is_file() && folder.join("macros").is_dir();
        let here = std::env::current_dir().map_err(|error| Failed::usage(format!("the current folder: {error}")))?;
        let found = match &self.sdk {
            Some(folder) => Some(here.join(folder)).filter(is_sdk),
            None => here.ancestors().map(|above| above.join("agent-sdk")).find(is_sdk),
        };
        let found = found.ok_or_else(|| {
            Failed::usage(
                "agent-sdk is not there: name its folder in a checkout of agent-host with --sdk, or make the agent in such a \
                 checkout"
                    .to_owned(),
            )
        })?;
        let path = found.canonicalize().map_err(|error| Failed::usage(format!("{}: {error}", found.display())))?;
        // In TOML a backslash or a quote would end it.
        let path = path.display().to_string();
        if path.contains(['"', '\\']) {
            Err(Failed::usage(format!("{path}: a path without quotes is needed")))
        } else {
            Ok(path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    #[test]
    fn the_interface_is_embedded_whole() {
        fn list(folder: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    list(&path, root, found);
                } else if path.extension().is_some_and(|extension| extension == "wit") {
                    found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let mut found = Vec::new();
        list(&root, &root, &mut found);
        found.sort();
        let mut embedded: Vec<_> = wit::FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        embedded.sort();
        assert_eq!(embedded, found);
    }

    #[test]
    fn every_template_is_an_agent() {
        for language in Language::value_variants() {
            let text = |wanted: &str| {
                let found = language.files().iter().find(|(path, _)| *path == wanted);
                found.unwrap_or_else(|| panic!("{language:?} has no {wanted}")).1
            };
            let manifest = text("agent.toml").replace("{{name}}", "my-agent").replace("{{crate}}", "my_agent");
            let manifest = Manifest::parse(&manifest).unwrap();
            assert_eq!(manifest.agent.name.as_str(), "my-agent");
            assert!(manifest.build.is_some_and(|build| !build.watch.is_empty()));
            assert!(text("README.md").contains("agent-sim") && !text(".gitignore").is_empty());
        }
    }
}
