//! Folders that model code filled on the host, where a session could not mount its own: measured and removed without trust in what lies
//! in them. Links are not followed, modes do not hide anything, depth does not count.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmod, fstat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Folders inside one another, beyond which a folder counts as over any limit.
const DEPTH_MAX: usize = 64;
/// How long, and at what distance, a removal is tried while a process that is ending may still write.
const REMOVAL: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);
/// What the owner needs to list a folder, and to empty it.
const LIST: u32 = 0o500;
const CHANGE: u32 = 0o700;

/// The folder of one session, and the process that fills it.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    pub(super) folder: PathBuf,
    pub(super) process: u32,
}

/// The bytes of all files below a folder, counted until they exceed `enough`.
pub(super) fn folder_bytes(folder: &Path, enough: u64) -> u64 {
    let Ok(folder) = open_folder(CWD, folder, LIST) else { return 0 };
    let mut total = 0;
    add_bytes(folder, enough, &mut total, 0);
    total
}

/// Adds up a folder's files; what is nested too deep counts as more than enough.
fn add_bytes(folder: OwnedFd, enough: u64, total: &mut u64, depth: usize) {
    if depth > DEPTH_MAX {
        *total = u64::MAX;
        return;
    }
    let Ok(entries) = Dir::read_from(&folder) else { return };
    for entry in entries.flatten().filter(|entry| !is_dots(entry.file_name())) {
        let Ok(status) = statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        // Every entry costs, so that empty files without number are seen too.
        *total = total.saturating_add(status.st_size.unsigned_abs()).saturating_add(4096);
        if is_folder(status.st_mode)
            && let Ok(inner) = open_folder(&folder, entry.file_name(), LIST)
        {
            add_bytes(inner, enough, total, depth + 1);
        }
        if *total > enough {
            return;
        }
    }
}

/// Removes a folder and all that is in it. Gives up after a moment; what is left then is left to the system's own cleaning.
pub(super) fn remove_whole(folder: &Path) {
    let deadline = Instant::now() + REMOVAL;
    while Instant::now() < deadline {
        if let Ok(opened) = open_folder(CWD, folder, CHANGE) {
            // What fails now is tried again.
            drop(empty(&opened, deadline));
        }
        match fs::remove_dir(folder) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return drop(fs::remove_file(folder)),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
    tracing::warn!("cannot remove {}; remove it by hand", folder.display());
}

/// Empties a folder level by level: what a folder inside it holds is first moved up, so that neither a path nor the stack grows with the
/// depth.
fn empty(root: &OwnedFd, deadline: Instant) -> io::Result<()> {
    let mut moved = 0_u64;
    while Instant::now() < deadline {
        let mut folders = 0;
        for entry in Dir::read_from(root)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) || removed(root, name)? {
                continue;
            }
            folders += 1;
            let folder = open_folder(root, name, CHANGE)?;
            for inner in Dir::read_from(&folder)? {
                let inner = inner?;
                if is_dots(inner.file_name()) || removed(&folder, inner.file_name())? {
                    continue;
                }
                // A folder that moves gets a new parent, which its own mode must permit.
                drop(open_folder(&folder, inner.file_name(), CHANGE)?);
                loop {
                    moved += 1;
                    match renameat(&folder, inner.file_name(), root, format!("moved-{moved}")) {
                        Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                        done => break done?,
                    }
                }
            }
            unlinkat(root, name, AtFlags::REMOVEDIR)?;
        }
        if folders == 0 {
            break;
        }
    }
    Ok(())
}

/// Removes what is no folder; false where it is one.
fn removed(folder: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a folder, never through a link, and sees to it that its mode grants its owner what is `wanted`.
fn open_folder(parent: impl AsFd, name: impl Arg, wanted: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
    if fstat(&place)?.st_mode & wanted != wanted {
        // By its descriptor, so that no other file's mode can change. Where it fails, the next call does, or root needs no mode.
        let _ = chmod(format!("/proc/self/fd/{}", place.as_raw_fd()), Mode::RWXU);
    }
    Ok(openat(&place, c".", flags | OFlags::RDONLY, Mode::empty())?)
}

fn is_folder(mode: u32) -> bool {
    FileType::from_raw_mode(mode).is_dir()
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A folder inside a folder, so deep that no path names the last.
    fn nest(folder: &Path, depth: usize) {
        let mut folder = open_folder(CWD, folder, LIST).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&folder, "a-long-name-of-a-folder", Mode::RWXU).unwrap();
            folder = open_folder(&folder, "a-long-name-of-a-folder", LIST).unwrap();
        }
    }

    #[test]
    fn a_folder_goes_whatever_lies_in_it_and_nothing_else_does() {
        let outside = tempfile::tempdir().unwrap();
        let kept = outside.path().join("kept.txt");
        fs::write(&kept, "kept").unwrap();
        mode(&kept, 0o640);
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("scratch");
        fs::create_dir_all(folder.join("locked/inner")).unwrap();
        fs::write(folder.join("locked/inner/file"), "x").unwrap();
        fs::write(folder.join("moved-1"), "x").unwrap();
        symlink(outside.path(), folder.join("link")).unwrap();
        symlink(&kept, folder.join("locked/link")).unwrap();
        nest(&folder, 500);
        for name in ["locked/inner", "locked", ""] {
            mode(&folder.join(name), 0);
        }
        assert_eq!(folder_bytes(&folder, u64::MAX - 1), u64::MAX);
        remove_whole(&folder);
        assert!(!folder.exists());
        assert_eq!(
            (fs::read_to_string(&kept).unwrap().as_str(), fs::metadata(&kept).unwrap().permissions().mode() & 0o777),
            ("kept", 0o640)
        );
        // A link in the folder's own place goes; what it names stays.
        symlink(outside.path(), &folder).unwrap();
        assert_eq!(folder_bytes(&folder, u64::MAX - 1), 0);
        remove_whole(&folder);
        assert!(folder.symlink_metadata().is_err() && kept.exists());
    }

    #[test]
    fn what_a_mode_hides_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("hidden")).unwrap();
        fs::write(folder.path().join("hidden/large"), vec![0; 100_000]).unwrap();
        mode(&folder.path().join("hidden"), 0);
        assert!(folder_bytes(folder.path(), 1 << 30) >= 100_000);
    }
}
