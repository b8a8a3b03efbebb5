//! What the probe tries to reach: files, servers and memory outside the jail, made for one start and gone with it. `probe.py` tries;
//! what can only be seen from outside is looked at here.

use std::fs::{self, Permissions};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::disk::is_unlocked;
use super::guarantee::{Attempt, Guarantee};
use super::scratch::{Scratch, remove_whole};

/// The user of the trial session, where sessions are users of their own: `SESSION_USERS` of `jail.py`.
const TRIAL_USER: u32 = 2_000_000_000;
/// The disk of the trial session, of `zygote.py`.
const TRIAL_DISK_BYTES: u64 = 1 << 20;

/// Everything outside that the trial session must not reach. Modes and owners would let it: only walls stand between.
pub(super) struct Outside {
    folder: PathBuf,
    secret: String,
    log: PathBuf,
    shared_memory: Option<NamedTempFile>,
    tcp: TcpListener,
    tcp6: Option<TcpListener>,
    udp: UdpSocket,
    abstract_name: String,
    /// Kept open so that a connection would succeed.
    _sockets: [UnixListener; 2],
}

impl Outside {
    /// Lays all of it out below the zygote's folder.
    pub(super) fn new(zygote_folder: &Path, as_user: Option<u32>) -> io::Result<Outside> {
        let folder = zygote_folder.join("outside");
        let name = zygote_folder.file_name().and_then(|name| name.to_str()).unwrap_or("thyme-sandbox");
        let secret = format!("secret of {name}");
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
        for file in ["file", "spare", "module.py"].map(|file| folder.join(file)) {
            fs::write(&file, &secret)?;
            give_to_all(&file, as_user);
        }
        // Not every file system has attributes.
        let _ = rustix::fs::setxattr(folder.join("file"), "user.canary", b"1", XattrFlags::empty());
        // Not every machine has shared memory.
        let shared_memory = tempfile::Builder::new().prefix("thyme-sandbox-").tempfile_in("/dev/shm").ok();
        if let Some(file) = &shared_memory {
            fs::write(file.path(), &secret)?;
            give_to_all(file.path(), as_user);
        }
        let abstract_name = format!("{name}-probe");
        let socket = folder.join("socket");
        let sockets =
            [UnixListener::bind(&socket)?, UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name)?)?];
        give_to_all(&socket, as_user);
        Ok(Outside {
            log: zygote_folder.join("log"),
            folder,
            secret,
            shared_memory,
            tcp: TcpListener::bind("127.0.0.1:0")?,
            tcp6: TcpListener::bind("[::1]:0").ok(),
            udp: UdpSocket::bind("127.0.0.1:0")?,
            abstract_name,
            _sockets: sockets,
        })
    }

    /// Where everything lies, for `probe.py`.
    pub(super) fn places(&self) -> Value {
        let port = |address: io::Result<std::net::SocketAddr>| address.map_or(0, |address| address.port());
        json!({
            "secret": self.secret,
            "outside": self.folder,
            "module": self.module(),
            "log": self.log,
            "shared_memory": self.shared_memory.as_ref().map(NamedTempFile::path),
            "tcp": port(self.tcp.local_addr()),
            "tcp6": self.tcp6.as_ref().map_or(0, |listener| port(listener.local_addr())),
            "udp": port(self.udp.local_addr()),
            "socket": self.folder.join("socket"),
            "abstract": self.abstract_name,
            "host": std::process::id(),
            "parent": std::os::unix::process::parent_id(),
        })
    }

    /// What only the host can see of the trial session, while its process lives: its locks, and removed files that it holds.
    pub(super) fn seen_of(&self, trial: &Scratch, has_mounts: bool) -> Vec<Attempt> {
        let attempt = |guarantee, name: &str, refused| Attempt { guarantee, name: name.to_owned(), refused };
        let mut seen = vec![attempt(Guarantee::Reads, "lock a module's file for others", is_unlocked(&self.module()))];
        if !has_mounts {
            let is_measured = trial.holds_more_than(TRIAL_DISK_BYTES);
            seen.push(attempt(Guarantee::Bounds, "hold more disk than allowed in removed files", is_measured));
        }
        seen
    }

    /// A file that the trial session may read as sessions read modules.
    fn module(&self) -> PathBuf {
        self.folder.join("module.py")
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        remove_whole(&self.folder);
    }
}

/// Lets everyone read and write, and makes the user of the trial session the owner where we may, so that no mode refuses anything.
fn give_to_all(path: &Path, as_user: Option<u32>) {
    // Best effort: where the owner cannot change, there are no users of sessions either.
    drop(fs::set_permissions(path, Permissions::from_mode(0o666)));
    drop(std::os::unix::fs::chown(path, Some(as_user.unwrap_or(TRIAL_USER)), None));
}
