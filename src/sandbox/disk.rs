//! Measures the disk that a session holds where no tmpfs bounds it: its scratch folder on the host, the files that it removed and keeps open,
//! and those that it keeps mapped. The code that fills it is hostile, and changes it while it is measured.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Gid, Uid};

use super::scratch::{Scratch, folder_bytes};

/// What an entry costs beside its bytes, as in a folder.
const ENTRY_BYTES: u64 = 4096;

impl Scratch {
    /// Whether more than `bytes` are held. What cannot be measured counts as more.
    pub(super) fn holds_more_than(&self, bytes: u64) -> bool {
        // In this order: a file goes from its name to a descriptor and from there to a mapping, never back.
        let named = folder_bytes(&self.folder, bytes);
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
            let metadata = match fs::metadata(entry?.path()) {
                Ok(metadata) => metadata,
                // Closed since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let file = (metadata.dev(), metadata.ino());
            if metadata.is_file() && metadata.nlink() == 0 && !open.contains(&file) {
                total = total.saturating_add(metadata.len() + ENTRY_BYTES);
                open.push(file);
            }
        }
        let maps = fs::read(process.join("maps"))?;
        // The paths of mappings name no links.
        let folder = fs::canonicalize(&self.folder)?;
        let folder = folder.as_os_str().as_encoded_bytes();
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
}
