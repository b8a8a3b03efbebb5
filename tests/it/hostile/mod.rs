//! Programs that mean harm: none has an effect, all end in time, as root and as an ordinary user, with and without namespaces, with every
//! version of Landlock; and the walls of each of these set-ups.

mod programs;
mod set_ups;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use thyme_engine::sandbox::{Guarantee, InputImage, Sandbox, SandboxOptions, Status};

use programs::HOSTILE;

use super::sandbox::{NOBODY, TIMEOUT, is_root, options, ordinary, picture, run, session};

/// Things outside the jail that hostile code must not touch, and a look at whether it did.
struct Canaries {
    folder: tempfile::TempDir,
    listener: TcpListener,
    victim: Child,
    secret: String,
    started: Instant,
    /// A file that all may read and write, beside the folder.
    shared_memory: tempfile::NamedTempFile,
    /// A module that every session may read.
    module: String,
    /// Modes, owners and times of everything in the folder, as they were.
    before: Vec<String>,
}

impl Canaries {
    fn new() -> Canaries {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let secret = format!("secret-{:x}", std::process::id() * 7919);
        for name in ["canary.txt", "canary.png"] {
            fs::write(folder.path().join(name), &secret).unwrap();
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o666)).unwrap();
        }
        picture().save(folder.path().join("original.png")).unwrap();
        fs::set_permissions(folder.path().join("original.png"), fs::Permissions::from_mode(0o666)).unwrap();
        let shared_memory = tempfile::Builder::new().prefix("thyme-canary-").tempfile_in("/dev/shm").unwrap();
        fs::write(shared_memory.path(), &secret).unwrap();
        fs::set_permissions(shared_memory.path(), fs::Permissions::from_mode(0o666)).unwrap();
        let canary = folder.path().join("canary.txt");
        let _ = rustix::fs::setxattr(&canary, "user.canary", b"1", rustix::fs::XattrFlags::empty());
        if is_root() {
            for path in [folder.path(), &canary, shared_memory.path()] {
                std::os::unix::fs::chown(path, Some(NOBODY), None).unwrap();
            }
        }
        let before = state_of(folder.path());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        if is_root() {
            // The user that the jailed code is, so that only walls protect it.
            command.uid(NOBODY);
        }
        let victim = command.spawn().unwrap();
        Canaries { folder, listener, victim, secret, started: Instant::now(), shared_memory, module: module(), before }
    }

    fn fill_in(&self, code: &str) -> String {
        let folder = self.folder.path().to_str().unwrap();
        // Errors quote the line of code, so the word must not stand in it.
        code.replace("'BREACH'", "'BRE' + 'ACH'")
            .replace("{FOLDER}", folder)
            .replace("{PORT}", &self.listener.local_addr().unwrap().port().to_string())
            .replace("{VICTIM}", &self.victim.id().to_string())
            .replace("{HOST}", &std::process::id().to_string())
            .replace("{SHM}", self.shared_memory.path().to_str().unwrap())
            .replace("{MODULE}", &self.module)
    }

    fn assert_untouched(&mut self, name: &str) {
        let names: BTreeSet<String> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, BTreeSet::from(["canary.txt", "canary.png", "original.png"].map(String::from)), "{name}");
        assert_eq!(fs::read_to_string(self.folder.path().join("canary.txt")).unwrap(), self.secret, "{name}");
        assert_eq!(state_of(self.folder.path()), self.before, "{name}");
        assert_eq!(fs::read_to_string(self.shared_memory.path()).unwrap(), self.secret, "{name}");
        assert!(is_unlocked(Path::new(&self.module)), "{name} left a lock");
        assert_eq!(system_v_objects(), 0, "{name} left memory");
        for folder in ["/dev/shm", "/tmp", "/var/tmp", "/run"] {
            assert!(!Path::new(folder).join("thyme-hostile").exists(), "{name} wrote to {folder}");
        }
        let original = self.folder.path().join("original.png");
        assert_eq!(image::open(&original).unwrap().into_rgb8(), picture(), "{name}");
        assert_eq!(
            self.listener.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "{name} reached the network"
        );
        assert!(self.victim.try_wait().unwrap().is_none(), "{name} killed another process");
    }
}

/// Name, mode, owner, length, times of content and attributes of a folder and its files.
fn state_of(folder: &Path) -> Vec<String> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.push(folder.to_owned());
    paths.sort();
    let state = |path: &PathBuf| {
        let found = fs::metadata(path).unwrap();
        let mut attribute = [0u8; 8];
        let attribute_bytes = rustix::fs::getxattr(path, "user.canary", &mut attribute[..]).ok();
        format!(
            "{path:?} {:o} {} {} {} {} {attribute_bytes:?}",
            found.mode(),
            found.uid(),
            found.size(),
            found.mtime_nsec(),
            found.ctime_nsec()
        )
    };
    paths.iter().map(state).collect()
}

/// A file that every session may read, and that all share.
fn module() -> String {
    let code = "import numpy; print(numpy.__file__)";
    let output = Command::new(&ordinary().interpreter().path).args(["-c", code]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Whether nobody holds a lock on the file. Tests that run beside this one look too, for a moment.
fn is_unlocked(path: &Path) -> bool {
    let file = File::options().read(true).write(true).open(path).or_else(|_| File::open(path)).unwrap();
    let is_free = || {
        // A lock for writing wants a file that may be written.
        let lock = FlockOperation::NonBlockingLockExclusive;
        let posix = rustix::fs::fcntl_lock(&file, lock);
        rustix::fs::flock(&file, lock).is_ok() && (posix.is_ok() || posix == Err(rustix::io::Errno::BADF))
    };
    (0..100).any(|try_number| {
        std::thread::sleep(Duration::from_millis(if try_number == 0 { 0 } else { 10 }));
        is_free()
    })
}

/// Objects of System V that belong to users of sessions.
fn system_v_objects() -> usize {
    let of_sessions = |line: &str| line.contains(" 20000000") || line.contains(" 65534 ");
    let lines = |kind: &str| fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
    ["shm", "msg", "sem"].iter().map(|kind| lines(kind).lines().filter(|line| of_sessions(line)).count()).sum()
}

impl Drop for Canaries {
    fn drop(&mut self) {
        drop(self.victim.kill());
        drop(self.victim.wait());
    }
}

/// Runs each program in a sandbox of its own set-up, with all canaries around it.
fn have_no_effect(options: SandboxOptions, programs: &[(&str, &str)]) {
    assert!(programs.len() >= 30);
    let sandbox = Sandbox::start(SandboxOptions { timeout: TIMEOUT, ..options }).unwrap();
    println!("walls:\n{}", sandbox.walls());
    assert_eq!(sandbox.walls().fallen(), [] as [Guarantee; 0]);
    let mut canaries = Canaries::new();
    let input = InputImage::read(&canaries.folder.path().join("original.png")).unwrap();
    // The pixels that all sessions share.
    let seen = || {
        let code = "print(int(np.asarray(Image.open(image_path)).sum()), int(cv2.imread(image_path).sum()), 'alive')";
        sandbox.session(input.clone()).run(code).unwrap().text
    };
    let before = seen();
    for (name, code) in programs {
        let started = Instant::now();
        let mut session = sandbox.session(input.clone());
        let execution = session.run(&canaries.fill_in(code)).unwrap();
        let seconds = started.elapsed();
        println!(
            "{name:<40} {:?} {:.2} s: {}",
            execution.status,
            seconds.as_secs_f64(),
            execution.text.lines().last().unwrap_or("").chars().take(100).collect::<String>()
        );
        assert!(seconds < TIMEOUT + Duration::from_secs(2), "{name} took {seconds:?}");
        assert!(
            !execution.text.contains("BREACH") && !execution.text.contains(&canaries.secret),
            "{name}: {}",
            execution.text
        );
        assert!(
            execution.images.len() <= 16
                && !execution.images.iter().any(|image| image.image.dimensions() == (640, 480)),
            "{name}"
        );
        canaries.assert_untouched(name);
        // The next run of the same sequence works, with the input as it was.
        let next = session.run("print(Image.open(image_path).size)").unwrap();
        assert!(
            next.status != Status::Ok || next.text.trim() == "(640, 480)" || name.contains("answer"),
            "{name}: {}",
            next.text
        );
    }
    assert!(before.trim().ends_with("alive"), "{before}");
    assert_eq!(seen(), before);
    println!("{} programs in {:.1} s", programs.len(), canaries.started.elapsed().as_secs_f64());
}

#[test]
fn hostile_programs_have_no_effect_with_the_rights_we_have() {
    have_no_effect(options(), HOSTILE);
}

#[test]
fn hostile_programs_have_no_effect_as_an_ordinary_user() {
    // An ordinary user who runs the tests has just this in the test above.
    have_no_effect(SandboxOptions { as_user: is_root().then_some(NOBODY), ..options() }, HOSTILE);
}

#[test]
fn one_session_cannot_see_the_files_of_another() {
    let mut first = session();
    first.run("open(temp_output_dir + 'mine.txt', 'w').write('private')").unwrap();
    let seen = run(
        "import glob\nprint([p for p in glob.glob('/mnt/**', recursive=True) + glob.glob('/tmp/**', recursive=True) if 'mine' in p])",
    );
    assert_eq!(seen.text.trim(), "[]");
}
