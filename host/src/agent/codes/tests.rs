use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::agent::{EngineConfig, InProcessCompiler};

/// Counts what is compiled.
struct Counting(InProcessCompiler, AtomicUsize);

#[async_trait::async_trait]
impl Compiler for Counting {
    async fn compile(&self, module: Bytes, code: File) -> Result<(), CompileError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.compile(module, code).await
    }
}

struct Bench {
    folder: TempDir,
    engine: Engine,
    compiler: Arc<Counting>,
}

impl Bench {
    fn new() -> Self {
        let engine = Engine::new(&EngineConfig { instances_max: 2, memory_bytes_max: 1 << 20 }).unwrap();
        let compiler = Arc::new(Counting(InProcessCompiler::new().unwrap(), AtomicUsize::new(0)));
        Self { folder: TempDir::new().unwrap(), engine, compiler }
    }

    fn folder(&self) -> PathBuf {
        self.folder.path().join("code")
    }

    /// As a host that starts.
    fn open(&self) -> Codes {
        self.open_bounded(u64::MAX)
    }

    fn open_bounded(&self, bytes_max: u64) -> Codes {
        Codes::open(&self.folder(), ByteSize(bytes_max), &self.engine, Arc::clone(&self.compiler) as _).unwrap()
    }

    /// How often something was compiled since the last time.
    fn compiled(&self) -> usize {
        self.compiler.1.swap(0, Ordering::Relaxed)
    }

    /// The entries, by name.
    fn entries(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.folder()).unwrap().map(|file| file.unwrap().path());
        let mut entries: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "code")).collect();
        entries.sort();
        entries
    }
}

/// A component that differs from others of another number.
fn module(number: usize) -> Bytes {
    let module = format!("(component (core module (func (export \"f\") (result i32) i32.const {number})))");
    wat::parse_str(module).unwrap().into()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn open_to_others(path: &Path) {
    std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
}

#[tokio::test]
async fn a_module_is_compiled_once() {
    let bench = Bench::new();
    let codes = bench.open();
    codes.component(&module(1)).await.unwrap();
    codes.component(&module(1)).await.unwrap();
    assert_eq!(bench.compiled(), 1);
    codes.component(&module(2)).await.unwrap();
    assert_eq!((bench.compiled(), bench.entries().len()), (1, 2));
    let restarted = bench.open();
    restarted.component(&module(1)).await.unwrap();
    restarted.component(&module(2)).await.unwrap();
    assert_eq!(bench.compiled(), 0);
    // A second host on the same folder, at the same time.
    bench.open().component(&module(3)).await.unwrap();
    codes.component(&module(3)).await.unwrap();
    assert_eq!(bench.compiled(), 1);
}

#[tokio::test]
async fn only_the_hosts_user_can_look_into_the_folder() {
    let bench = Bench::new();
    std::fs::create_dir(bench.folder()).unwrap();
    std::fs::set_permissions(bench.folder(), Permissions::from_mode(0o777)).unwrap();
    let codes = bench.open();
    codes.component(&module(1)).await.unwrap();
    assert_eq!(
        (mode(&bench.folder()), mode(&bench.folder().join("key")), mode(&bench.entries()[0])),
        (0o700, 0o600, 0o600)
    );
    // What others could have changed or read is not relied on.
    open_to_others(&bench.entries()[0]);
    codes.component(&module(1)).await.unwrap();
    assert_eq!((bench.compiled(), mode(&bench.entries()[0])), (2, 0o600));
    let key = bench.folder().join("key");
    let before = std::fs::read(&key).unwrap();
    open_to_others(&key);
    bench.open().component(&module(1)).await.unwrap();
    assert_eq!((bench.compiled(), mode(&key)), (1, 0o600));
    assert_ne!(std::fs::read(&key).unwrap(), before);
}

#[tokio::test]
async fn an_entry_that_is_not_as_it_was_made_is_compiled_anew() {
    let bench = Bench::new();
    let codes = bench.open();
    codes.component(&module(1)).await.unwrap();
    codes.component(&module(2)).await.unwrap();
    assert_eq!(bench.compiled(), 2);
    let [path, other] = bench.entries().try_into().unwrap();
    let name = |number| Seal::new(&codes.parts.key, Sha256::digest(module(number)).into(), &codes.parts.identity);
    let (path, other) = if path.ends_with(name(1).name()) { (path, other) } else { (other, path) };
    let good = std::fs::read(&path).unwrap();
    let changed = |at: usize| {
        let mut entry = good.clone();
        entry[at] ^= 1;
        entry
    };
    let foreign = Bench::new();
    foreign.open().component(&module(1)).await.unwrap();
    let damaged = [
        ("empty", Vec::new()),
        ("only a seal", good[good.len() - 40..].to_vec()),
        ("cut off", good[..good.len() / 2].to_vec()),
        ("without its seal", good[..good.len() - 40].to_vec()),
        ("one byte less", good[..good.len() - 1].to_vec()),
        ("one byte more", [good.as_slice(), &[0]].concat()),
        ("another first byte", changed(0)),
        ("other code", changed(good.len() / 2)),
        ("another tag", changed(good.len() - 1)),
        ("another format", changed(good.len() - 40)),
        ("of another module", std::fs::read(other).unwrap()),
        ("of another host", std::fs::read(&foreign.entries()[0]).unwrap()),
    ];
    for (what, entry) in damaged {
        std::fs::write(&path, entry).unwrap();
        codes.component(&module(1)).await.unwrap();
        assert_eq!(bench.compiled(), 1, "{what}");
        codes.component(&module(1)).await.unwrap();
        assert_eq!(bench.compiled(), 0, "{what}: mended");
    }
}

#[tokio::test]
async fn what_was_loaded_longest_ago_goes_first() {
    let bench = Bench::new();
    bench.open().component(&module(0)).await.unwrap();
    let bytes = std::fs::metadata(&bench.entries()[0]).unwrap().len();
    let codes = bench.open_bounded(bytes * 3 + bytes / 2);
    let age = |number: usize, seconds| {
        let seal = codes.parts.seal(&module(number));
        let entry = File::options().append(true).open(bench.folder().join(seal.name())).unwrap();
        entry.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    for number in 1..=2 {
        codes.component(&module(number)).await.unwrap();
    }
    for (number, seconds) in [(0, 300), (1, 200), (2, 100)] {
        age(number, seconds);
    }
    // Loading makes it the youngest.
    codes.component(&module(0)).await.unwrap();
    codes.component(&module(3)).await.unwrap();
    assert_eq!((bench.compiled(), bench.entries().len()), (4, 3));
    codes.component(&module(0)).await.unwrap();
    codes.component(&module(2)).await.unwrap();
    assert_eq!(bench.compiled(), 0);
    codes.component(&module(1)).await.unwrap();
    assert_eq!(bench.compiled(), 1, "it had gone");
    // Where nothing may be kept, the newest stays until it is loaded.
    bench.open_bounded(0).component(&module(4)).await.unwrap();
    assert_eq!(bench.entries().len(), 1);
}

#[tokio::test]
async fn what_a_host_that_died_left_behind_is_removed() {
    let bench = Bench::new();
    let codes = bench.open();
    let (old, young) = (bench.folder().join("new-old"), bench.folder().join("new-young"));
    for path in [&old, &young] {
        std::fs::write(path, b"half").unwrap();
    }
    let file = File::options().append(true).open(&old).unwrap();
    file.set_modified(SystemTime::now() - UNFINISHED_MAX - Duration::from_secs(60)).unwrap();
    drop(codes);
    bench.open();
    assert!(!old.exists() && young.exists(), "another host may be at it");
}

#[tokio::test]
async fn a_folder_that_is_none_is_refused_and_another_found() {
    let bench = Bench::new();
    std::fs::write(bench.folder(), b"a file").unwrap();
    let compiler = || Arc::clone(&bench.compiler) as Arc<dyn Compiler>;
    assert!(Codes::open(&bench.folder(), ByteSize(1), &bench.engine, compiler()).is_err());
    let codes = Codes::temporary(ByteSize(1 << 30), &bench.engine, compiler()).unwrap();
    let folder = codes.parts.folder.clone();
    assert_eq!(mode(&folder), 0o700);
    codes.component(&module(1)).await.unwrap();
    codes.component(&module(1)).await.unwrap();
    assert_eq!(bench.compiled(), 1);
    drop(codes);
    assert!(!folder.exists());
}

#[tokio::test]
async fn what_does_not_fit_the_pool_is_refused_from_its_entry_too() {
    let bench = Bench::new();
    let codes = bench.open();
    // 2 MiB, of which the engine's pool has room for 1.
    let module: Bytes =
        wat::parse_str("(component (core module $m (memory 32)) (core instance (instantiate $m)))").unwrap().into();
    for compiled in [1, 0] {
        let refused = codes.component(&module).await.err();
        assert!(matches!(refused, Some(LoadError::Unfit(_))), "{refused:?}");
        assert_eq!(bench.compiled(), compiled);
    }
    let invalid = codes.component(&Bytes::from_static(b"\0asm\x0d\0\x01\0\xff")).await.err();
    assert!(matches!(invalid, Some(LoadError::Compile(CompileError::Module(_)))), "{invalid:?}");
    assert_eq!(bench.entries().len(), 1, "nothing is kept of what failed");
}
