//! Paths that lead out of a granted folder, or try to. Beside it lies a canary: what it holds may be neither seen nor changed.

mod paths;

use super::*;
use paths::escapes;

/// When everything outside was last changed, in seconds: who sees this has seen something outside.
const MARK: u64 = 777_777_777;

/// `files_root`, with a granted folder, a read-only one, and the canary.
struct Ground {
    root: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let ground = Self { root: tempfile::TempDir::new().unwrap() };
        for folder in ["granted", "readonly", "outside/deep"] {
            fs::create_dir_all(ground.path(folder)).unwrap();
        }
        fs::write(ground.path("readonly/file"), "read only").unwrap();
        fs::write(ground.path("outside/secret.txt"), "the canary").unwrap();
        fs::write(ground.path("outside/deep/secret.txt"), "the canary's nest").unwrap();
        for outside in ["outside/deep/secret.txt", "outside/deep", "outside/secret.txt", "outside", ""] {
            let times = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(MARK));
            fs::File::open(ground.path(outside)).unwrap().set_times(times).unwrap();
        }
        ground
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn folders(&self) -> Folders {
        let grants = [grant("granted", FileAccess::ReadWrite), grant("readonly", FileAccess::Read)];
        FilesRoot::open(Some(self.root.path())).unwrap().grant(&grants).unwrap()
    }

    /// Puts the granted folder in order, with every trap that an operator could have left in it.
    fn plant(&self) {
        let granted = self.path("granted");
        for entry in fs::read_dir(&granted).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        fs::create_dir(granted.join("inner")).unwrap();
        fs::write(granted.join("file"), "inside").unwrap();
        let outside = self.path("outside");
        for (link, target) in [
            ("link_rel", Path::new("../outside/secret.txt")),
            ("link_abs", &outside.join("secret.txt")),
            ("dirlink", Path::new("../outside")),
            ("dirlink_abs", &outside),
            ("chain", Path::new("dirlink")),
            ("inner/up", Path::new("../..")),
            ("loop", Path::new("loop")),
            ("rootlink", Path::new("/")),
            ("proclink", Path::new("/proc/self/root")),
            ("fdlink", Path::new("/proc/self/fd")),
            ("cwdlink", Path::new("/proc/self/cwd")),
            ("environlink", Path::new("/proc/self/environ")),
            ("nowhere", Path::new("../outside/made.txt")),
        ] {
            symlink(target, granted.join(link)).unwrap();
        }
    }

    /// Everything outside of the granted folder: what it is, when it was changed, and what is in it.
    fn canary(&self) -> BTreeMap<PathBuf, (u32, u64, i64, String)> {
        let mut seen = BTreeMap::new();
        let mut paths = vec![self.root.path().to_owned(), self.path("outside"), self.path("readonly")];
        while let Some(path) = paths.pop() {
            let metadata = path.symlink_metadata().unwrap();
            let mut content = String::new();
            if metadata.is_dir() {
                let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
                names.sort();
                content = format!("{names:?}");
                if path != self.root.path() {
                    paths.extend(names);
                }
            } else if metadata.is_file() {
                content = fs::read_to_string(&path).unwrap();
            }
            seen.insert(path, (metadata.mode(), metadata.nlink(), metadata.mtime(), content));
        }
        seen
    }
}

fn where_is(file: &impl AsRawFd) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

/// Everything that WASI lets a guest do with a path, tried with this one. Gives how many attempts there were.
async fn attempt(ground: &Ground, guest: &mut Guest, path: &str) -> usize {
    let granted = ground.path("granted").canonicalize().unwrap();
    let mut attempts = 0;
    let (read, write) = (DescriptorFlags::READ, DescriptorFlags::WRITE);
    ground.plant();
    for follow in [PathFlags::empty(), PathFlags::SYMLINK_FOLLOW] {
        for (open, flags) in [
            (OpenFlags::empty(), read),
            (OpenFlags::empty(), read | write),
            (OpenFlags::DIRECTORY, read),
            (OpenFlags::DIRECTORY, read | DescriptorFlags::MUTATE_DIRECTORY),
            (OpenFlags::TRUNCATE, write),
            (OpenFlags::CREATE, write),
            (OpenFlags::CREATE | OpenFlags::EXCLUSIVE, write),
            (OpenFlags::CREATE | OpenFlags::TRUNCATE, read | write),
        ] {
            if open.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE) {
                ground.plant();
            }
            attempts += 1;
            let folder = guest.folder(0);
            let opened = answer(guest.view().open_at(folder, follow, path.to_owned(), open, flags).await);
            if let Ok(opened) = opened {
                let file = match guest.table.get(&opened).unwrap() {
                    Descriptor::File(file) => Arc::clone(&file.file),
                    Descriptor::Dir(dir) => Arc::clone(&dir.dir),
                };
                assert!(where_is(&*file).starts_with(&granted), "{path:?} opened {:?}", where_is(&*file));
                guest.close(opened);
            }
        }
        ground.plant();
        attempts += 2;
        let folder = guest.folder(0);
        if let Ok(stat) = answer(guest.view().stat_at(folder, follow, path.to_owned()).await) {
            let modified = stat.data_modification_timestamp.map(|time| time.seconds);
            assert!(modified != Some(MARK) && !path.starts_with('/'), "{path:?} shows {stat:?}");
        }
        let folder = guest.folder(0);
        let _ = answer(guest.view().metadata_hash_at(folder, follow, path.to_owned()).await);
        let folder = guest.folder(0);
        let now = || NewTimestamp::Now;
        let _ = answer(guest.view().set_times_at(folder, follow, path.to_owned(), now(), now()).await);
    }
    changes(ground, guest, path).await + attempts
}

/// What changes a folder. Most of it fails; nothing of it may reach out.
async fn changes(ground: &Ground, guest: &mut Guest, path: &str) -> usize {
    let here = |path: &str| path.to_owned();
    let none = PathFlags::empty();
    macro_rules! attempts {
        ($($guest:ident, $folder:ident, $other:ident => $call:expr;)*) => {{
            let mut attempts = 0;
            $(
                {
                    ground.plant();
                    attempts += 1;
                    let ($folder, $other) = ($guest.folder(0), $guest.folder(0));
                    let _ = ($folder.rep(), $other.rep());
                    let mut $guest = $guest.view();
                    let _ = answer($call.await);
                }
            )*
            attempts
        }};
    }
    let attempts = attempts! {
        guest, folder, other => guest.readlink_at(folder, here(path));
        guest, folder, other => guest.create_directory_at(folder, here(path));
        guest, folder, other => guest.unlink_file_at(folder, here(path));
        guest, folder, other => guest.remove_directory_at(folder, here(path));
        guest, folder, other => guest.rename_at(folder, here("file"), other, here(path));
        guest, folder, other => guest.rename_at(folder, here("inner"), other, here(path));
        guest, folder, other => guest.rename_at(folder, here(path), other, here("stolen"));
        guest, folder, other => guest.link_at(folder, none, here("file"), other, here(path));
        guest, folder, other => guest.link_at(folder, none, here(path), other, here("stolen"));
        guest, folder, other => guest.link_at(folder, PathFlags::SYMLINK_FOLLOW, here(path), other, here("stolen"));
        guest, folder, other => guest.symlink_at(folder, here("file"), here(path));
        guest, folder, other => guest.symlink_at(folder, here(path), here("made"));
    };
    // A link that the guest could make itself leads nowhere either.
    if let Ok(opened) = guest.open("made", OpenFlags::empty(), DescriptorFlags::READ).await {
        if let Descriptor::File(file) = guest.table.get(&opened).unwrap() {
            assert!(where_is(&*file.file).starts_with(ground.path("granted").canonicalize().unwrap()), "{path:?}");
        }
        guest.close(opened);
    }
    let made = fs::read_link(ground.path("granted/made"));
    assert!(made.is_err() || made.is_ok_and(|target| target.is_relative() && !target.starts_with("..")), "{path:?}");
    attempts + 1
}

#[tokio::test]
async fn no_path_leads_out_of_a_granted_folder() {
    let ground = Ground::new();
    let before = ground.canary();
    let folders = ground.folders();
    let mut guest = Guest::new(&folders);
    let (paths, mut attempts) = (escapes(), 0);
    assert!(paths.len() >= 60);
    for path in &paths {
        attempts += attempt(&ground, &mut guest, path).await;
        assert_eq!(ground.canary(), before, "{path:?} changed something outside");
    }
    assert!(attempts > 60 * 20, "{attempts}");
}

#[test]
fn no_path_of_a_manifest_leads_out_of_the_root() {
    let ground = Ground::new();
    ground.plant();
    let before = ground.canary();
    let granted = ground.path("granted").canonicalize().unwrap();
    let root = FilesRoot::open(Some(&granted)).unwrap();
    for path in escapes() {
        for access in [FileAccess::Read, FileAccess::ReadWrite] {
            if let Ok(folders) = root.grant(&[FileGrant { host: path.clone(), ..grant("x", access) }]) {
                let opened = where_is(&folders.granted()[0].dir);
                assert!(opened.starts_with(&granted), "{path:?} is {opened:?}");
            }
        }
    }
    assert_eq!(ground.canary(), before);
}

#[tokio::test]
async fn a_folder_that_may_be_read_may_only_be_read() {
    let ground = Ground::new();
    ground.plant();
    let before = ground.canary();
    let folders = ground.folders();
    let mut guest = Guest::new(&folders);
    let (read, write, none) = (DescriptorFlags::READ, DescriptorFlags::WRITE, PathFlags::empty());
    let here = |path: &str| path.to_owned();
    for (path, open, flags) in [
        ("file", OpenFlags::TRUNCATE, read),
        ("file", OpenFlags::TRUNCATE, write),
        ("file", OpenFlags::empty(), write),
        ("file", OpenFlags::CREATE, read),
        ("new", OpenFlags::CREATE, read),
        ("new", OpenFlags::CREATE | OpenFlags::EXCLUSIVE, write),
    ] {
        let folder = guest.folder(1);
        let opened = answer(guest.view().open_at(folder, none, here(path), open, flags).await).map(drop);
        assert_eq!(opened, Err(ErrorCode::NotPermitted), "{path} {open:?} {flags:?}");
    }
    let folder = guest.folder(1);
    let file = answer(guest.view().open_at(folder, none, here("file"), OpenFlags::empty(), read).await).unwrap();
    assert_eq!(guest.write(&file, b"x", 0).await, Err(ErrorCode::NotPermitted));
    assert_eq!(answer(guest.view().set_size(borrow(&file), 0).await), Err(ErrorCode::NotPermitted));
    let stream = answer(guest.view().write_via_stream(borrow(&file), 0)).map(drop);
    assert_eq!(stream, Err(ErrorCode::NotPermitted));
    let stream = answer(guest.view().append_via_stream(borrow(&file))).map(drop);
    assert_eq!(stream, Err(ErrorCode::NotPermitted));
    let (own, other) = (|guest: &Guest| guest.folder(0), |guest: &Guest| guest.folder(1));
    let (from, to) = (other(&guest), own(&guest));
    let linked = answer(guest.view().link_at(from, none, here("file"), to, here("mine")).await);
    assert_eq!(linked, Err(ErrorCode::NotPermitted), "a link to write it by");
    let (from, to) = (own(&guest), other(&guest));
    let linked = answer(guest.view().link_at(from, none, here("file"), to, here("theirs")).await);
    assert_eq!(linked, Err(ErrorCode::NotPermitted));
    let (from, to) = (other(&guest), own(&guest));
    let renamed = answer(guest.view().rename_at(from, here("file"), to, here("mine")).await);
    assert_eq!(renamed, Err(ErrorCode::NotPermitted));
    let (from, to) = (own(&guest), other(&guest));
    let renamed = answer(guest.view().rename_at(from, here("file"), to, here("file")).await);
    assert_eq!(renamed, Err(ErrorCode::NotPermitted));
    let folder = other(&guest);
    assert_eq!(answer(guest.view().unlink_file_at(folder, here("file")).await), Err(ErrorCode::NotPermitted));
    let folder = other(&guest);
    assert_eq!(answer(guest.view().create_directory_at(folder, here("new")).await), Err(ErrorCode::NotPermitted));
    let folder = other(&guest);
    assert_eq!(answer(guest.view().symlink_at(folder, here("file"), here("new")).await), Err(ErrorCode::NotPermitted));
    assert_eq!(ground.canary(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_swapped_for_a_link_meanwhile_leads_nowhere() {
    let ground = Ground::new();
    ground.plant();
    let before = ground.canary();
    fs::write(ground.path("granted/inner/secret.txt"), "inside").unwrap();
    let folders = ground.folders();
    let swapping = {
        let mut guest = Guest::new(&folders);
        tokio::spawn(async move {
            for _ in 0..1000 {
                for (from, to) in [("inner", "swap"), ("swap", "inner"), ("dirlink", "swap"), ("swap", "dirlink")] {
                    let (folder, other) = (guest.folder(0), guest.folder(0));
                    answer(guest.view().rename_at(folder, from.to_owned(), other, to.to_owned()).await).unwrap();
                }
            }
        })
    };
    let mut guest = Guest::new(&folders);
    let mut opened = 0;
    while !swapping.is_finished() || opened == 0 {
        let path = if swapping.is_finished() { "inner/secret.txt" } else { "swap/secret.txt" };
        let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
        // Not made: the lock under which files are made would keep the two apart.
        if let Ok(file) = guest.open(path, OpenFlags::empty(), flags).await {
            let (text, _) = answer(guest.view().read(borrow(&file), 100, 0).await).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), "inside");
            guest.close(file);
            opened += 1;
        }
    }
    swapping.await.unwrap();
    assert_eq!(ground.canary(), before);
}
