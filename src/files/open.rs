//! Files by names that somebody else gives. Only regular files are read: what has no end, or makes its reader wait, is refused by what it is
//! before it is opened. A file that the program makes in a folder of its own is new: no link leads its bytes elsewhere.

use std::fs::{File, FileType, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Most bytes of a file of settings: a config, a recipe, a template, a trainer's state.
pub const SETTINGS_BYTES_MAX: u64 = 16 << 20;
/// Most bytes of a tokenizer, and of the index of a checkpoint's files.
pub const TOKENIZER_BYTES_MAX: u64 = 256 << 20;

/// Rights of a new file, of which the umask takes some.
const NEW_FILE_MODE: u32 = 0o666;
/// What is wrong with a link in a folder of the program's own.
const OWN_LINK: &str =
    "it is a symbolic link, through which nothing is written; remove it, or put the file itself there";
/// Major and minor number of /dev/null.
const NULL_DEVICE: (u32, u32) = (1, 3);

/// Opens a regular file to read it; symbolic links to one are followed.
///
/// # Errors
/// When it is missing or cannot be read, or is a folder, a FIFO, a socket or a device.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_checked(path, OpenOptions::new().read(true))
}

/// Opens a regular file to read and to write it, as it is.
///
/// # Errors
/// As [`open_regular`].
pub fn open_regular_to_write(path: &Path) -> io::Result<File> {
    open_checked(path, OpenOptions::new().read(true).write(true))
}

/// Looks before it opens, since opening some devices does something, and again behind it, since names change.
fn open_checked(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    check_regular(&found(path)?)?;
    let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// The whole of a regular file.
///
/// # Errors
/// As [`open_regular`], and when it has more than `bytes_max` bytes, or grows beyond them.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let too_large = || io::Error::new(ErrorKind::InvalidData, format!("it has more than {bytes_max} bytes"));
    let announced = file.metadata()?.len();
    if announced > bytes_max {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(announced as usize);
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { Err(too_large()) } else { Ok(bytes) }
}

/// As [`read`], of text in UTF-8.
///
/// # Errors
/// As [`read`], and when it is other text.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    let not_utf8 = |_| io::Error::new(ErrorKind::InvalidData, "it is no text in UTF-8");
    String::from_utf8(read(path, bytes_max)?).map_err(not_utf8)
}

/// Whether there is something of that name, even a symbolic link to nothing.
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Makes or empties the file that a user names to write to. It may be a link to one, `/dev/null`, or what stdout or stderr of this process
/// goes to.
///
/// # Errors
/// When it cannot be written, or is something else.
pub fn create_output(path: &Path) -> io::Result<File> {
    if let Ok(metadata) = path.metadata() {
        if let Some(stream) = stream(&metadata) {
            return stream;
        }
        check_regular(&metadata)?;
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    check_regular(&file.metadata()?)?;
    file.set_len(0)?;
    Ok(file)
}

/// Writes all of the file that a user names, as [`create_output`] does; a regular one has its old bytes until the new ones are whole, and
/// keeps its mode, and owner and group where they may be given.
///
/// # Errors
/// As [`create_output`].
pub fn write_output(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => {
            let mut new = Replacement::begin(&path.canonicalize()?)?;
            // Before the mode, of which a new owner takes some away. Only root gives files away, but many belong to several groups.
            let owned = fchown(new.file(), Some(metadata.uid()), Some(metadata.gid()));
            drop(owned.or_else(|_| fchown(new.file(), None, Some(metadata.gid()))));
            new.file().set_permissions(metadata.permissions())?;
            new.file().write_all(bytes)?;
            new.finish()
        }
        _ => create_output(path)?.write_all(bytes),
    }
}

/// Puts a new file in the place of whatever file or link has that name.
///
/// # Errors
/// When its folder cannot be written, or the name is a folder's.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = Replacement::begin(path)?;
    new.file().write_all(bytes)?;
    new.finish()
}

/// A new file that takes its name when it is whole.
#[derive(Debug)]
pub struct Replacement {
    file: NamedTempFile,
    path: PathBuf,
}

impl Replacement {
    /// Begins one, under another name in the folder of `path`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn begin(path: &Path) -> io::Result<Replacement> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix(".").suffix(".partial").permissions(Permissions::from_mode(NEW_FILE_MODE));
        Ok(Replacement { file: builder.tempfile_in(folder)?, path: path.to_owned() })
    }

    /// What is written goes here.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// When the name is a folder's.
    pub fn finish(self) -> io::Result<()> {
        self.file.persist(self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Makes the file, or opens it to write at its end, in a folder of the program's own.
///
/// # Errors
/// When it cannot be written, or is a link or anything but a regular file.
pub fn append_own(path: &Path) -> io::Result<File> {
    check_own(path)?;
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().append(true).create(true).custom_flags(flags).open(path)?;
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// Refuses a link, or anything but a regular file, where a folder of the program's own has a file.
///
/// # Errors
/// When it is one.
pub fn check_own(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => Err(refused(OWN_LINK)),
        Ok(metadata) => check_regular(&metadata),
        Err(_) => Ok(()),
    }
}

/// Refuses a link, or anything but a folder, where a folder of the program's own has another.
///
/// # Errors
/// When it is one.
pub fn check_own_folder(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => Err(refused(OWN_LINK)),
        Ok(metadata) if !metadata.is_dir() => Err(refused("it is no folder; remove it")),
        _ => Ok(()),
    }
}

/// What a name leads to. A link to nothing is not a missing file: it says where it leads.
fn found(path: &Path) -> io::Result<Metadata> {
    path.metadata().map_err(|error| match path.read_link() {
        Ok(target) if error.kind() == ErrorKind::NotFound => {
            refused(format!("it is a symbolic link to {}, which does not exist", target.display()))
        }
        _ => error,
    })
}

fn check_regular(metadata: &Metadata) -> io::Result<()> {
    match metadata.file_type() {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => Err(refused("it is a folder; name a file")),
        kind => Err(refused(format!("it is {}, not a regular file; put the content into one", name_of(kind)))),
    }
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() => "a block device",
        _ => "a character device",
    }
}

/// The open file where it is `/dev/null`, or what stdout or stderr goes to unless that is a regular file.
fn stream(metadata: &Metadata) -> Option<io::Result<File>> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_dir() {
        return None;
    }
    let device = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    if kind.is_char_device() && device == NULL_DEVICE {
        return Some(OpenOptions::new().write(true).open("/dev/null"));
    }
    let own = [io::stdout().as_fd().try_clone_to_owned(), io::stderr().as_fd().try_clone_to_owned()];
    own.into_iter().flatten().map(File::from).find_map(|file| {
        let is_same = |own: Metadata| (own.dev(), own.ino()) == (metadata.dev(), metadata.ino());
        file.metadata().is_ok_and(is_same).then_some(Ok(file))
    })
}

fn refused(reason: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo(path: &Path) {
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fifo(&path("fifo"));
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
        std::os::unix::fs::symlink(path("fifo"), path("link")).unwrap();
        for (name, said) in [
            ("fifo", "a FIFO"),
            ("link", "a FIFO"),
            ("socket", "a socket"),
            ("", "a folder"),
            ("/dev/zero", "a character device"),
            ("dangling", "a symbolic link to nowhere, which does not exist"),
        ] {
            let error = read(&path(name), 10).unwrap_err();
            assert!(error.to_string().contains(said) && error.kind() != ErrorKind::NotFound, "{name}: {error}");
            if name != "dangling" {
                assert!(create_output(&path(name)).is_err() && write_output(&path(name), b"x").is_err(), "{name}");
            }
            assert!(append_own(&path(name)).is_err(), "{name}");
        }
        assert_eq!(read(&path("missing"), 10).unwrap_err().kind(), ErrorKind::NotFound);
        create_output(Path::new("/dev/null")).unwrap().write_all(b"x").unwrap();
        write_output(Path::new("/dev/null"), b"x").unwrap();
        assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_file_is_read_up_to_its_bound_even_if_its_length_is_a_lie() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap(), [7; 10]);
        assert!(read(&path, 9).unwrap_err().to_string().contains("more than 9 bytes"));
        // It says that it has no bytes.
        assert!(read(Path::new("/proc/self/status"), 8).is_err());
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&path, SETTINGS_BYTES_MAX).is_err());
    }

    #[test]
    fn a_file_that_a_user_names_keeps_its_mode_and_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for mode in [0o600, 0o640, 0o664, 0o755] {
            std::fs::write(&path, "old and longer").unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let is_given = std::os::unix::fs::chown(&path, Some(4_000), Some(4_001)).is_ok();
            let before = path.metadata().unwrap();
            write_output(&path, b"new").unwrap();
            let after = path.metadata().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
            assert_eq!(
                (after.mode(), after.uid(), after.gid()),
                (before.mode(), before.uid(), before.gid()),
                "{is_given}"
            );
        }
    }

    #[test]
    fn a_file_of_the_programs_own_is_not_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let [other, link] = ["other", "link"].map(|name| folder.path().join(name));
        std::fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        assert!(append_own(&link).unwrap_err().to_string().contains("symbolic link"));
        replace(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"kept");
        assert_eq!((std::fs::read(&link).unwrap(), link.is_symlink()), (b"new".to_vec(), false));
        // A name that a user gives is a link if the user says so.
        std::os::unix::fs::symlink(&other, folder.path().join("again")).unwrap();
        write_output(&folder.path().join("again"), b"through").unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"through");
        assert!(folder.path().join("again").is_symlink());
        append_own(&link).unwrap().write_all(b"er").unwrap();
        assert_eq!(std::fs::read(&link).unwrap(), b"newer");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
