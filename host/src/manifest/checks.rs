//! What TOML alone cannot tell: values out of range, and values that contradict each other.

use super::record::{RECORDING_BYTES_MAX, RECORDING_BYTES_MIN};
use super::{MEMORY_BYTES_MAX, Manifest, OUTPUT_BYTES_MAX, Shape, TIMEOUT_MAX};
use crate::units::{ByteSize, format_duration};

/// Everything that is wrong with a manifest, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestErrors(pub Vec<String>);

impl ManifestErrors {
    pub(super) fn syntax(error: &toml::de::Error) -> Self {
        Self(vec![error.to_string().trim_end().to_owned()])
    }
}

impl std::fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "agent.toml is wrong: {}", self.0.join("; "))
    }
}

impl std::error::Error for ManifestErrors {}

/// A wasm page; less memory than one page runs nothing.
const MEMORY_BYTES_MIN: ByteSize = ByteSize(64 << 10);

/// Bytes of all arguments of a program, which gets them with each task.
const ARGUMENTS_BYTES_MAX: ByteSize = ByteSize(32 << 10);

/// Most entries of a granted folder: the host walks over all of them to count what is in use.
const FOLDER_ENTRIES_MAX: u32 = 1_000_000;

pub(super) fn problems(manifest: &Manifest) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |holds: bool, problem: &dyn Fn() -> String| {
        if !holds {
            problems.push(problem());
        }
    };
    check(manifest.manifest_version == 1, &|| {
        format!("manifest_version = {}: this host reads version 1", manifest.manifest_version)
    });
    check(is_relative_inside(&manifest.agent.module), &|| {
        format!("agent.module = {:?}: expected a path inside the manifest's folder", manifest.agent.module)
    });
    let limits = &manifest.limits;
    check((MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&limits.memory), &|| {
        format!("limits.memory = {}: expected {MEMORY_BYTES_MIN} to {MEMORY_BYTES_MAX}", limits.memory)
    });
    check(!limits.timeout.is_zero() && limits.timeout <= TIMEOUT_MAX, &|| {
        let (given, max) = (format_duration(limits.timeout), format_duration(TIMEOUT_MAX));
        format!("limits.timeout = {given}: expected more than 0 and at most {max}, inside RabbitMQ's consumer timeout")
    });
    check(!limits.cpu.is_zero(), &|| "limits.cpu = 0ms: expected more than 0".to_owned());
    check(limits.concurrency > 0, &|| {
        "limits.concurrency = 0: expected at least 1; to stop an agent, pause it".to_owned()
    });
    check(limits.output <= OUTPUT_BYTES_MAX, &|| {
        format!("limits.output = {}: expected at most {OUTPUT_BYTES_MAX}", limits.output)
    });
    check((RECORDING_BYTES_MIN..=RECORDING_BYTES_MAX).contains(&manifest.record.size), &|| {
        format!("record.size = {}: expected {RECORDING_BYTES_MIN} to {RECORDING_BYTES_MAX}", manifest.record.size)
    });
    let retry = &manifest.retry;
    check(retry.max_attempts > 0, &|| "retry.max_attempts = 0: expected at least 1".to_owned());
    check(retry.initial <= retry.max, &|| {
        let (initial, max) = (format_duration(retry.initial), format_duration(retry.max));
        format!("retry.initial = {initial} is above retry.max = {max}")
    });
    check(manifest.pool.max_invocations > 0, &|| "pool.max_invocations = 0: expected at least 1".to_owned());
    grants(manifest, &mut check);
    check(manifest.command.is_none() || matches!(manifest.agent.shape, None | Some(Shape::Command)), &|| {
        "[command] is given, but agent.shape is not \"command\"".to_owned()
    });
    let args = manifest.command.iter().flat_map(|command| &command.args);
    check(args.clone().all(|argument| !argument.contains('\0')), &|| {
        "command.args: an argument holds a NUL, at which a program would stop reading it".to_owned()
    });
    check(args.map(|argument| argument.len() + 1).sum::<usize>() <= ARGUMENTS_BYTES_MAX.as_usize(), &|| {
        format!("command.args: expected at most {ARGUMENTS_BYTES_MAX} in all; send more as the task's body")
    });
    problems
}

fn grants(manifest: &Manifest, check: &mut dyn FnMut(bool, &dyn Fn() -> String)) {
    let grants = &manifest.grants;
    for (index, grant) in grants.sql.iter().enumerate() {
        let name = &grant.name;
        check(is_label(name), &|| format!("grants.sql name = {name:?}: expected letters, digits, '-' and '_'"));
        let twice = grants.sql.iter().take(index).any(|earlier| earlier.name == *name);
        check(!twice, &|| format!("grants.sql names {name:?} twice"));
        check(grant.max_rows > 0, &|| format!("grants.sql {name:?}: max_rows = 0: expected at least 1"));
        check(!grant.statement_timeout.is_zero(), &|| {
            format!("grants.sql {name:?}: statement_timeout = 0ms: expected more than 0")
        });
        check(grant.migrations.as_deref().is_none_or(is_relative_inside), &|| {
            format!("grants.sql {name:?}: migrations: expected a folder inside the manifest's folder")
        });
    }
    for bucket in &grants.key_value {
        check(is_label(bucket), &|| format!("grants.key_value {bucket:?}: expected letters, digits, '-' and '_'"));
    }
    for folder in &grants.files {
        check(is_relative_inside(&folder.host), &|| {
            format!("grants.files host = {:?}: expected a path relative to the host's files_root", folder.host)
        });
        check(folder.guest.starts_with('/'), &|| {
            format!("grants.files guest = {:?}: expected an absolute path, such as \"/reports\"", folder.guest)
        });
        check((1..=FOLDER_ENTRIES_MAX).contains(&folder.max_files), &|| {
            format!(
                "grants.files {:?}: max_files = {}: expected 1 to {FOLDER_ENTRIES_MAX}",
                folder.host, folder.max_files
            )
        });
    }
    for name in &manifest.secrets.required {
        check(is_label(name), &|| format!("secrets.required {name:?}: expected letters, digits, '-' and '_'"));
    }
}

/// Names that become part of keys and environment variables.
pub(crate) fn is_label(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn is_relative_inside(path: &str) -> bool {
    use std::path::{Component, Path};
    !path.is_empty()
        && !path.contains(['\0', '\\'])
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use proptest::prelude::*;

    const SMALLEST: &str = "manifest_version = 1\n[agent]\nname = \"a\"\nmodule = \"a.wasm\"\n";

    #[test]
    fn the_smallest_manifest_gets_the_documented_defaults() {
        let manifest = Manifest::parse(SMALLEST).unwrap();
        assert_eq!(manifest.limits.memory, ByteSize(64 << 20));
        assert_eq!(manifest.limits.timeout, Duration::from_secs(30));
        assert_eq!(manifest.retry.max_attempts, 5);
        assert_eq!(manifest.grants, Grants::default());
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let text = format!(
            "{}[limits]\nmemory = \"501MiB\"\ntimeout = \"21m\"\nconcurrency = 0\n[retry]\ninitial = \"10m\"\n[grants]\nkey_value = [\"a b\"]\n",
            SMALLEST.replace("a.wasm", "../a.wasm"),
        );
        let ManifestErrors(problems) = Manifest::parse(&text).unwrap_err();
        assert_eq!(problems.len(), 6, "{problems:#?}");
    }

    #[test]
    fn unknown_keys_are_named() {
        let error = Manifest::parse(&format!("{SMALLEST}\n[limit]\nmemory = \"1MiB\"\n")).unwrap_err();
        assert!(error.to_string().contains("limit"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = Manifest::parse(&text);
            let _ = Manifest::parse(&format!("{SMALLEST}{text}"));
        }
    }
}
