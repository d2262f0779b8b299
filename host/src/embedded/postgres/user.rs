//! The user that the server runs as, where the host is root.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::{StartError, file};

/// Users that a server may run as, best first.
const NAMES: [&str; 2] = ["postgres", "nobody"];

/// An unprivileged user.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl ServerUser {
    /// The user to run as; none where the host's own will do.
    pub(super) fn needed() -> Result<Option<Self>, StartError> {
        // SAFETY: it has no arguments, no effects and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(None);
        }
        let path = Path::new("/etc/passwd");
        let users = std::fs::read_to_string(path).map_err(file("reading", path))?;
        let find = |name: &&str| users.lines().find_map(|line| Self::from_line(line, name));
        NAMES.iter().find_map(find).map(Some).ok_or(StartError::NoUser)
    }

    /// name:password:uid:gid:…
    fn from_line(line: &str, name: &str) -> Option<Self> {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let _password = fields.next()?;
        Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }

    /// Gives the user a file or folder.
    pub(super) fn own(&self, path: &Path) -> Result<(), StartError> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .map_err(file("giving to the server's user", path))
    }

    /// Lets the user pass through the folder and the one that it is in, which are the host's own, and checks those above,
    /// which are not.
    pub(super) fn make_passable(&self, home: &Path) -> Result<(), StartError> {
        const PASS: u32 = 0o011;
        for own in [Some(home), home.parent()].into_iter().flatten() {
            let mode = std::fs::metadata(own).map_err(file("looking at", own))?.permissions().mode();
            if mode & PASS != PASS {
                let wider = std::fs::Permissions::from_mode(mode | PASS);
                std::fs::set_permissions(own, wider).map_err(file("making passable", own))?;
            }
        }
        self.check_passable(home.ancestors().skip(2))
    }

    /// Checks that the user can pass through these folders.
    pub(super) fn check_passable<'a>(&self, folders: impl Iterator<Item = &'a Path>) -> Result<(), StartError> {
        for above in folders {
            let folder = std::fs::metadata(above).map_err(file("looking at", above))?;
            let bit = match (folder.uid() == self.uid, folder.gid() == self.gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            if folder.permissions().mode() & bit == 0 {
                return Err(StartError::NotPassable { path: above.to_owned() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_closed_to_the_user_is_named() {
        let open = tempfile::tempdir().unwrap();
        let mode = |bits| std::fs::set_permissions(open.path(), std::fs::Permissions::from_mode(bits)).unwrap();
        let owner = std::fs::metadata(open.path()).unwrap();
        let user = ServerUser { uid: owner.uid() + 1, gid: owner.gid() + 1 };
        mode(0o711);
        assert!(user.check_passable([open.path()].into_iter()).is_ok());
        mode(0o700);
        let closed = user.check_passable([open.path()].into_iter()).unwrap_err();
        assert!(matches!(closed, StartError::NotPassable { path } if path == open.path()));
        let itself = ServerUser { uid: owner.uid(), gid: owner.gid() };
        assert!(itself.check_passable([open.path()].into_iter()).is_ok());
    }
}
