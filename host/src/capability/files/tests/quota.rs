//! A full folder is an error of the guest that filled it, and of nobody else.

use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime_wasi::p2::bindings::filesystem::types::Host;
use wasmtime_wasi::p2::{OutputStream, StreamError};

use super::*;

const QUOTA: u64 = 100_000;
const FILES: u32 = 20;

/// Two folders, the first of them small.
fn folders(root: &Path) -> Folders {
    for folder in ["small", "other"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let small = FileGrant { quota: ByteSize(QUOTA), max_files: FILES, ..grant("small", FileAccess::ReadWrite) };
    FilesRoot::open(Some(root)).unwrap().grant(&[small, grant("other", FileAccess::ReadWrite)]).unwrap()
}

/// Bytes of all files of a folder.
fn held(folder: &Path) -> u64 {
    let total = AtomicU64::new(0);
    for entry in fs::read_dir(folder).unwrap() {
        total.fetch_add(entry.unwrap().metadata().unwrap().len(), Ordering::Relaxed);
    }
    total.into_inner()
}

#[tokio::test]
async fn a_hole_of_a_tebibyte_is_refused() {
    let root = tempfile::TempDir::new().unwrap();
    let mut guest = Guest::new(&folders(root.path()));
    let file = guest.create("sparse").await.unwrap();
    assert_eq!(answer(guest.view().set_size(borrow(&file), 1 << 40).await), Err(ErrorCode::Quota));
    assert_eq!(guest.write(&file, b"x", 1 << 40).await, Err(ErrorCode::Quota));
    assert_eq!(guest.write(&file, b"x", u64::MAX).await, Err(ErrorCode::FileTooLarge));
    assert_eq!(held(&root.path().join("small")), 0);
    answer(guest.view().set_size(borrow(&file), QUOTA).await).unwrap();
    assert_eq!(guest.write(&file, b"x", QUOTA - 1).await, Ok(1), "what is there can be overwritten");
    assert_eq!(guest.write(&file, b"x", QUOTA).await, Err(ErrorCode::Quota));
    answer(guest.view().set_size(borrow(&file), 0).await).unwrap();
    assert_eq!(guest.write(&file, b"x", QUOTA - 1).await, Ok(1), "what was given back can be used again");
}

#[tokio::test]
async fn an_endless_append_ends_at_the_quota_with_its_error() {
    let root = tempfile::TempDir::new().unwrap();
    let mut guest = Guest::new(&folders(root.path()));
    let file = guest.create("endless").await.unwrap();
    for is_append in [true, false] {
        let stream = if is_append {
            answer(guest.view().append_via_stream(borrow(&file))).unwrap()
        } else {
            answer(guest.view().write_via_stream(borrow(&file), 10)).unwrap()
        };
        let failed = loop {
            let stream: &mut Box<dyn OutputStream> = guest.table.get_mut(&stream).unwrap();
            if let Err(error) = stream.blocking_write_and_flush(vec![b'x'; 4096].into()).await {
                break error;
            }
            assert!(held(&root.path().join("small")) <= QUOTA);
        };
        let StreamError::LastOperationFailed(error) = failed else { panic!("{failed:?}") };
        let error = guest.table.push(error).unwrap();
        assert_eq!(guest.view().filesystem_error_code(error).unwrap(), Some(ErrorCode::Quota));
        let stream: &mut Box<dyn OutputStream> = guest.table.get_mut(&stream).unwrap();
        assert!(matches!(stream.check_write(), Err(StreamError::Closed)));
    }
    assert!(held(&root.path().join("small")) > QUOTA - 4096);
}

#[tokio::test]
async fn writes_of_nothing_keep_nothing() {
    let root = tempfile::TempDir::new().unwrap();
    let mut guest = Guest::new(&folders(root.path()));
    let file = guest.create("empty").await.unwrap();
    let stream = answer(guest.view().append_via_stream(borrow(&file))).unwrap();
    let stream: &mut Box<dyn OutputStream> = guest.table.get_mut(&stream).unwrap();
    stream.write(bytes::Bytes::new()).unwrap();
    assert_eq!(stream.check_write().unwrap(), 0, "one write at a time, however small");
    assert!(matches!(stream.write(bytes::Bytes::new()), Err(StreamError::Trap(_))));
}

#[tokio::test]
async fn empty_files_folders_and_links_end_at_their_number() {
    let root = tempfile::TempDir::new().unwrap();
    let mut guest = Guest::new(&folders(root.path()));
    let mut made = 0;
    for number in 0..1_000_000 {
        let folder = guest.folder(0);
        let other = guest.folder(0);
        let name = format!("n{number}");
        let answer = match number % 4 {
            0 => match guest.create(&name).await {
                Ok(file) => {
                    guest.close(file);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            1 => answer(guest.view().create_directory_at(folder, name).await),
            2 => answer(guest.view().symlink_at(folder, "n0".to_owned(), name).await),
            _ => answer(guest.view().link_at(folder, PathFlags::empty(), "n0".to_owned(), other, name).await),
        };
        if let Err(error) = answer {
            assert_eq!(error, ErrorCode::Quota);
            break;
        }
        made += 1;
    }
    assert_eq!(made, FILES);
    // Opening what is there makes nothing; and room that is given back can be used again.
    let file = guest.create("n0").await.unwrap();
    guest.close(file);
    assert_eq!(guest.create("one-more").await.map(drop), Err(ErrorCode::Quota));
    let folder = guest.folder(0);
    answer(guest.view().unlink_file_at(folder, "n2".to_owned()).await).unwrap();
    guest.create("one-more").await.unwrap();
}

#[tokio::test]
async fn a_full_folder_is_full_for_nobody_else() {
    let root = tempfile::TempDir::new().unwrap();
    let granted = folders(root.path());
    let mut guest = Guest::new(&granted);
    let file = guest.create("all").await.unwrap();
    guest.write(&file, &vec![b'x'; usize::try_from(QUOTA).unwrap()], 0).await.unwrap();
    assert_eq!(guest.write(&file, b"x", QUOTA).await, Err(ErrorCode::Quota));
    let mut other = Guest::new(&granted);
    let flags = DescriptorFlags::WRITE;
    let folder = other.folder(1);
    let path = "there".to_owned();
    let there = other.view().open_at(folder, PathFlags::empty(), path, OpenFlags::CREATE, flags).await;
    let there = answer(there).unwrap();
    assert_eq!(other.write(&there, b"room", 0).await, Ok(4));
    // The same folder in another task, and in another grant, is the same room.
    let more = other.create("more").await.unwrap();
    assert_eq!(other.write(&more, b"x", 0).await, Err(ErrorCode::Quota));
    // A file that was removed still takes its room while it is open.
    let folder = guest.folder(0);
    answer(guest.view().unlink_file_at(folder, "all".to_owned()).await).unwrap();
    assert_eq!(other.write(&more, b"x", 0).await, Err(ErrorCode::Quota));
    guest.close(file);
    assert_eq!(other.write(&more, b"x", 0).await, Ok(1));
    // Between folders only copies go: each is counted by itself.
    let (from, to) = (other.folder(0), other.folder(1));
    let renamed = other.view().rename_at(from, "more".to_owned(), to, "more".to_owned()).await;
    assert_eq!(answer(renamed), Err(ErrorCode::CrossDevice));
}

#[tokio::test]
async fn two_that_write_at_once_share_the_room() {
    let root = tempfile::TempDir::new().unwrap();
    let granted = folders(root.path());
    let writers = (0..8).map(|number: u32| {
        let mut guest = Guest::new(&granted);
        tokio::spawn(async move {
            let file = guest.create(&number.to_string()).await.unwrap();
            let mut at = 0;
            while guest.write(&file, &[b'x'; 1000], at).await.is_ok() {
                at += 1000;
            }
            at
        })
    });
    let mut written = 0;
    for writer in writers.collect::<Vec<_>>() {
        written += writer.await.unwrap();
    }
    assert_eq!((written, held(&root.path().join("small"))), (QUOTA, QUOTA));
}

#[tokio::test]
async fn handles_streams_and_listings_are_bounded() {
    let root = tempfile::TempDir::new().unwrap();
    let granted = folders(root.path());
    let mut guest = Guest::new(&granted);
    let file = guest.create("file").await.unwrap();
    let mut files = Vec::new();
    let refused = loop {
        match guest.open("file", OpenFlags::empty(), DescriptorFlags::READ).await {
            Ok(file) => files.push(file),
            Err(error) => break error,
        }
        assert!(files.len() < limits::OPEN_FILES_MAX);
    };
    assert_eq!((refused, files.len()), (ErrorCode::InsufficientMemory, limits::OPEN_FILES_MAX - 3));
    guest.close(files.pop().unwrap());
    guest.open("file", OpenFlags::empty(), DescriptorFlags::READ).await.unwrap();

    let mut streams = Vec::new();
    for _ in 0..limits::STREAMS_MAX {
        streams.push(answer(guest.view().read_via_stream(borrow(&file), 0)).unwrap());
    }
    let refused = answer(guest.view().append_via_stream(borrow(&file))).map(drop);
    assert_eq!(refused, Err(ErrorCode::InsufficientMemory));
    guest.table.delete(streams.pop().unwrap()).unwrap();
    answer(guest.view().append_via_stream(borrow(&file))).unwrap();

    for _ in 0..limits::LISTINGS_MAX {
        let folder = guest.folder(0);
        answer(guest.view().read_directory(folder).await).unwrap();
    }
    let folder = guest.folder(0);
    assert_eq!(answer(guest.view().read_directory(folder).await).map(drop), Err(ErrorCode::InsufficientMemory));

    let many = root.path().join("other");
    for number in 0..=limits::LISTED_ENTRIES_MAX {
        fs::write(many.join(number.to_string()), "").unwrap();
    }
    let mut guest = Guest::new(&granted);
    let folder = guest.folder(1);
    assert_eq!(answer(guest.view().read_directory(folder).await).map(drop), Err(ErrorCode::InsufficientMemory));
}
