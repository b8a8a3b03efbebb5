//! The disk that a session holds where no tmpfs bounds it: its scratch folder on the host, the files that it removed and keeps open,
//! and those that it keeps mapped. The code that fills it is hostile, and changes it while it is measured.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};

/// Folders in folders, at most: deeper ones count as a full disk.
const DEPTH_MAX: usize = 64;
/// What an entry costs beside its bytes, so that empty files without number are seen too.
const ENTRY_BYTES: u64 = 4096;
/// A folder, opened for reading; never through a link.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The folder of one session, and the process that fills it.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    pub(super) folder: PathBuf,
    pub(super) process: u32,
}

impl Scratch {
    /// Whether more than `bytes` are held. What cannot be measured counts as more.
    pub(super) fn holds_more_than(&self, bytes: u64) -> bool {
        // In this order: a file goes from its name to a descriptor and from there to a mapping, never back.
        let Some(named) = rustix::fs::open(&self.folder, FOLDER, Mode::empty()).ok().and_then(|folder| {
            let mut total = 0;
            count(folder, DEPTH_MAX, bytes, &mut total).then_some(total)
        }) else {
            return true;
        };
        // A process that just takes its user cannot be asked for a moment.
        let held = (0..5).find_map(|try_number| {
            std::thread::sleep(Duration::from_millis(2 * u64::from(try_number > 0)));
            as_owner_of(self.process, || self.removed_bytes(bytes))
        });
        held.is_none_or(|held| named.saturating_add(held) > bytes)
    }

    /// The bytes of removed files that the process still holds, or nothing if it cannot be asked. A process that has ended holds none.
    fn removed_bytes(&self, bytes_max: u64) -> io::Result<u64> {
        let process = PathBuf::from(format!("/proc/{}", self.process));
        let mut open = Vec::new();
        let mut total = 0u64;
        for entry in fs::read_dir(process.join("fd"))? {
            // It may have been closed since.
            let Ok(metadata) = entry.and_then(|entry| fs::metadata(entry.path())) else { continue };
            let file = (metadata.dev(), metadata.ino());
            if metadata.is_file() && metadata.nlink() == 0 && !open.contains(&file) {
                total = total.saturating_add(metadata.len() + ENTRY_BYTES);
                open.push(file);
            }
        }
        let maps = fs::read(process.join("maps"))?;
        let folder = self.folder.as_os_str().as_encoded_bytes();
        for line in maps.split(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            let mut fields = line.splitn(6, ' ');
            let inode = fields.nth(4).and_then(|inode| inode.parse::<u64>().ok());
            let path = fields.next().unwrap_or("").trim_start();
            let is_removed = path.ends_with(" (deleted)") && path.as_bytes().starts_with(folder);
            // Nothing says how long such a file is. Python keeps a descriptor beside each of its mappings.
            if is_removed && !open.iter().any(|&(_, number)| Some(number) == inode) {
                total = total.saturating_add(bytes_max.saturating_add(1));
            }
        }
        Ok(total)
    }

    /// Removes the folder, however deep: folders in folders are moved up before they are emptied. Best effort.
    pub(super) fn remove(&self) {
        let _ = remove_flat(&self.folder);
    }
}

/// Adds up a folder until it exceeds `enough`; false if it cannot be measured.
fn count(folder: OwnedFd, depth: usize, enough: u64, total: &mut u64) -> bool {
    let Ok(entries) = Dir::new(folder) else { return false };
    let Ok(folder) = entries.fd().and_then(rustix::io::dup) else { return false };
    for entry in entries {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // Gone since it was listed.
        let Ok(found) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        *total = total.saturating_add(u64::try_from(found.st_size).unwrap_or(0) + ENTRY_BYTES);
        if *total > enough {
            return true;
        }
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            match open_folder(&folder, name) {
                Ok(inner) => {
                    if depth == 0 || !count(inner, depth - 1, enough, total) {
                        return false;
                    }
                }
                Err(rustix::io::Errno::NOENT) => {}
                Err(_) => return false,
            }
        }
    }
    true
}

/// Opens a folder in a folder, also one whose mode forbids it to its owner.
fn open_folder(folder: &OwnedFd, name: &std::ffi::CStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(folder, name, FOLDER, Mode::empty()).or_else(|error| match error {
        rustix::io::Errno::ACCESS => {
            rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(folder, name, FOLDER, Mode::empty())
        }
        error => Err(error),
    })
}

/// Removes a folder and what is in it, without depth.
fn remove_flat(path: &Path) -> rustix::io::Result<()> {
    let top = rustix::fs::open(path, FOLDER, Mode::empty())?;
    let mut moved = 0u64;
    loop {
        let names = names_of(&top)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            if rustix::fs::unlinkat(&top, &name, AtFlags::empty()).is_ok() {
                continue;
            }
            let inner = open_folder(&top, &name)?;
            for inner_name in names_of(&inner)? {
                if rustix::fs::unlinkat(&inner, &inner_name, AtFlags::empty()).is_err() {
                    // A folder that is moved gets a new parent, which wants the right to write to it.
                    drop(open_folder(&inner, &inner_name)?);
                    moved += 1;
                    rustix::fs::renameat(&inner, &inner_name, &top, format!("{moved}-of-removed"))?;
                }
            }
            rustix::fs::unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
        }
    }
    rustix::fs::rmdir(path)
}

fn names_of(folder: &OwnedFd) -> rustix::io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Reads what `/proc` shows of a process. Root without the capability to trace may not read that of another user, so this thread takes that
/// user for the time of the reading. Nothing if it may not be read; 0 if the process has ended.
fn as_owner_of(process: u32, read: impl Fn() -> io::Result<u64>) -> Option<u64> {
    let found = match read() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let owner = fs::metadata(format!("/proc/{process}")).ok()?;
            let _taken = TakenUser::take(owner.uid(), owner.gid())?;
            read()
        }
        found => found,
    };
    match found {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
            Path::new("/proc/self/fd").exists().then_some(0)
        }
        // One that has ended and waits for its parent holds nothing, and belongs to root.
        Err(_) => fs::read_to_string(format!("/proc/{process}/stat"))
            .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
            .then_some(0),
    }
}

/// This thread acts as another user until the value is dropped. The other threads go on as before.
struct TakenUser;

impl TakenUser {
    fn take(user: u32, group: u32) -> Option<TakenUser> {
        rustix::process::geteuid().is_root().then_some(())?;
        let taken = TakenUser;
        rustix::thread::set_thread_res_gid(None, Gid::from_raw(group), None).ok()?;
        rustix::thread::set_thread_res_uid(None, Uid::from_raw(user), None).ok()?;
        Some(taken)
    }
}

impl Drop for TakenUser {
    fn drop(&mut self) {
        let back = rustix::thread::set_thread_res_uid(None, Uid::ROOT, None)
            .and_then(|()| rustix::thread::set_thread_res_gid(None, Gid::ROOT, None));
        back.expect("a thread whose saved user is root becomes root again");
    }
}

/// Whether a file that all may write can be opened and locked by us, so that no one else holds a lock on it.
pub(super) fn is_unlocked(path: &Path) -> bool {
    use rustix::fs::{FlockOperation, fcntl_lock, flock};
    let Ok(file) = File::options().read(true).write(true).open(path) else { return false };
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        && fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    fn scratch(folder: &Path) -> Scratch {
        Scratch { folder: folder.to_owned(), process: std::process::id() }
    }

    #[test]
    fn removed_files_that_are_open_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(&[0; 100_000]).unwrap();
        assert!(scratch(folder.path()).holds_more_than(100_000));
        assert!(!scratch(folder.path()).holds_more_than(200_000_000));
        fs::remove_file(&path).unwrap();
        let held = scratch(folder.path()).removed_bytes(1 << 40).unwrap();
        assert!(held >= 100_000, "{held}");
        assert!(scratch(folder.path()).holds_more_than(100_000));
        drop(file);
    }

    #[test]
    fn a_folder_without_end_counts_as_full_and_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scratch");
        fs::create_dir(&path).unwrap();
        let mut inner = rustix::fs::open(&path, FOLDER, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&inner, "deep", Mode::RWXU).unwrap();
            inner = rustix::fs::openat(&inner, "deep", FOLDER, Mode::empty()).unwrap();
        }
        assert!(scratch(&path).holds_more_than(1 << 40));
        scratch(&path).remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_its_owner_may_not_list_is_counted_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scratch");
        fs::create_dir_all(path.join("hidden")).unwrap();
        fs::write(path.join("hidden/file"), [0; 50_000]).unwrap();
        fs::set_permissions(path.join("hidden"), fs::Permissions::from_mode(0o300)).unwrap();
        assert!(scratch(&path).holds_more_than(50_000));
        assert!(!scratch(&path).holds_more_than(200_000_000));
        scratch(&path).remove();
        assert!(!path.exists());
    }
}
