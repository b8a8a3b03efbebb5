//! The set-ups that a sandbox may find: root or an ordinary user, with namespaces or without, each version of Landlock. `SECURITY.md` holds
//! the table of their walls.

use std::fs;
use std::path::Path;
use std::process::Command;

use thyme_engine::sandbox::{
    Guarantee, InputImage, Interpreter, Offered, Sandbox, SandboxError, SandboxOptions, Status,
};

use super::super::sandbox::{NOBODY, is_root, options, ordinary, picture};
use super::have_no_effect;
use super::programs::HOSTILE;

/// The newest version of Landlock that the table knows.
const LANDLOCK_MAX: u32 = 7;

/// Who runs the engine, and what the kernel lets him have; without a version of Landlock.
fn set_ups() -> Vec<(&'static str, SandboxOptions)> {
    let set_up = |as_user, user_namespaces, namespaces_of_root| SandboxOptions {
        as_user,
        offered: Offered { user_namespaces, namespaces_of_root, ..Offered::default() },
        ..options()
    };
    vec![
        ("root", set_up(None, true, true)),
        ("root, user namespaces only", set_up(None, true, false)),
        ("root, no namespaces", set_up(None, false, false)),
        ("user, user namespaces", set_up(Some(NOBODY), true, true)),
        ("user, no namespaces", set_up(Some(NOBODY), false, true)),
    ]
}

/// Those of the user who runs the tests: another user may not be allowed to read the interpreter's folders.
fn own_set_ups() -> Vec<(&'static str, SandboxOptions)> {
    let own = if is_root() { "root" } else { "user" };
    set_ups().into_iter().filter(|(name, _)| name.starts_with(own)).collect()
}

fn with_landlock(mut options: SandboxOptions, landlock: u32) -> SandboxOptions {
    options.offered.landlock = landlock;
    options
}

fn named(wanted: &str) -> SandboxOptions {
    set_ups().into_iter().find(|(name, _)| *name == wanted).unwrap().1
}

/// The programs that do not wait for a limit of time.
fn quick() -> Vec<(&'static str, &'static str)> {
    let slow =
        ["bomb", "loops", "sleeps", "ignores signals", "without end", "without number", "floods", "forges", "endless"];
    HOSTILE.iter().filter(|(name, _)| !slow.iter().any(|word| name.contains(word))).copied().collect()
}

/// The lines of the table: a set-up, the versions of Landlock for which it is the same, and what holds each guarantee.
fn table() -> Vec<String> {
    let mut lines: Vec<(String, u32, u32, String)> = Vec::new();
    for (name, options) in set_ups() {
        for landlock in 0..=LANDLOCK_MAX {
            let options = with_landlock(options.clone(), landlock);
            let starts = Sandbox::start(options.clone());
            let everything = SandboxOptions { consent: Guarantee::ALL.to_vec(), ..options };
            let sandbox = starts.unwrap_or_else(|_| Sandbox::start(everything).unwrap());
            let walls = sandbox.walls();
            let cells = Guarantee::ALL.map(|guarantee| match walls.fallen().contains(&guarantee) {
                true => "**not held**".to_owned(),
                false => walls.of(guarantee).join(", ").replace(&format!(" (version {landlock})"), ""),
            });
            let cells = cells.join(" | ");
            match lines.last_mut().filter(|(last, _, _, last_cells)| (last.as_str(), last_cells) == (name, &cells)) {
                Some((_, _, to, _)) => *to = landlock,
                None => lines.push((name.to_owned(), landlock, landlock, cells)),
            }
        }
    }
    let versions = |from, to| if from == to { format!("{from}") } else { format!("{from} to {to}") };
    lines.into_iter().map(|(name, from, to, cells)| format!("| {name} | {} | {cells} |", versions(from, to))).collect()
}

#[test]
fn the_walls_of_every_set_up_are_those_of_the_document() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md")).unwrap();
    let committed: Vec<&str> =
        document.lines().filter(|line| line.starts_with("| root") || line.starts_with("| user")).collect();
    assert!(committed.len() >= set_ups().len());
    let version = ordinary().walls().of(Guarantee::Reads).iter().any(|wall| wall.contains("Landlock (version 7)"));
    if !is_root() || !version {
        println!("the table wants root and Landlock 7; only that the document has one was checked");
        return;
    }
    let found = table();
    assert_eq!(committed, found, "the table of SECURITY.md is not what was found; it would be:\n{}", found.join("\n"));
}

#[test]
fn hostile_programs_have_no_effect_on_a_user_without_namespaces() {
    have_no_effect(named("user, no namespaces"), &quick());
}

#[test]
fn hostile_programs_have_no_effect_with_the_first_version_of_landlock() {
    have_no_effect(with_landlock(named("user, no namespaces"), 1), &quick());
}

#[test]
fn hostile_programs_have_no_effect_on_root_without_namespaces() {
    if is_root() {
        have_no_effect(with_landlock(named("root, no namespaces"), 2), &quick());
    }
}

#[test]
#[ignore = "a quarter of an hour; cargo test --test it every_set_up_that_starts -- --ignored --nocapture"]
fn hostile_programs_have_no_effect_in_every_set_up_that_starts() {
    for (name, options) in set_ups() {
        for landlock in 0..=LANDLOCK_MAX {
            let options = with_landlock(options.clone(), landlock);
            match Sandbox::start(options.clone()) {
                Ok(_) => {
                    println!("== {name}, Landlock {landlock}");
                    have_no_effect(options, HOSTILE);
                }
                Err(error) => println!("== {name}, Landlock {landlock} does not start: {error}"),
            }
        }
    }
}

#[test]
fn what_the_probe_could_do_is_named() {
    // No mechanism but the user and the limits: what a container without Landlock and seccomp leaves.
    let offered = Offered { landlock: 0, user_namespaces: false, namespaces_of_root: false, seccomp: false };
    let refusal = Sandbox::start(SandboxOptions { offered, ..options() }).unwrap_err();
    let SandboxError::NoWall { guarantee: Guarantee::Reads, breaches } = &refusal else { panic!("{refusal}") };
    for name in ["read /etc/passwd", "read a file that everyone may read", "list the processes", "write to a module"] {
        assert!(breaches.iter().any(|breach| breach == name), "{name} is missing in {breaches:?}");
    }
    assert!(refusal.to_string().contains("could read a file that everyone may read, "), "{refusal}");
    let all = SandboxOptions { offered, consent: Guarantee::ALL.to_vec(), ..options() };
    let sandbox = Sandbox::start(all).unwrap();
    let walls = sandbox.walls();
    for (guarantee, name) in [
        (Guarantee::Network, "connect to a server of this machine by TCP"),
        (Guarantee::Network, "connect to a server by an abstract Unix socket"),
        (Guarantee::Processes, "have a pipe signal another process"),
        (Guarantee::Processes, "signal another process of its user"),
        (Guarantee::Reads, "lock a module's file for others"),
        (Guarantee::Reads, "change the mode of a file outside"),
        (Guarantee::Reads, "shorten a module by opening it for nothing"),
        (Guarantee::Bounds, "hold memory in a file without a name"),
        (Guarantee::Bounds, "widen a pipe"),
    ] {
        assert!(walls.breaches(guarantee).contains(&name.to_owned()), "{name} is missing in\n{walls}");
    }
    // What the limits hold without any other wall.
    assert!(!walls.breaches(Guarantee::Bounds).iter().any(|name| name.contains("map more memory")), "{walls}");
}

#[test]
fn files_of_its_own_are_copied_and_changed_without_namespaces() {
    let (_, options) = own_set_ups().into_iter().find(|(name, _)| name.ends_with("no namespaces")).unwrap();
    let sandbox = Sandbox::start(options).unwrap();
    let mut session = sandbox.session(InputImage::from_rgb(&picture(), Path::new("a.png")).unwrap());
    let code = "import shutil, tempfile, pathlib, fcntl
for name, copy in (('a', shutil.copy), ('b', shutil.copy2), ('copy', shutil.copyfile)):
    copy(image_path, name + '.dat')
os.makedirs('tree/inner')
open('tree/inner/file', 'w').write('x')
shutil.copytree('tree', 'tree2')
os.chmod('copy.dat', 0o600)
os.utime('copy.dat', (1, 1))
os.utime('copy.dat')
pathlib.Path('copy.dat').touch()
pathlib.Path('copy.dat').chmod(0o644)
with open('copy.dat', 'r+b') as file:
    os.fchmod(file.fileno(), 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
os.truncate('tree/inner/file', 0)
print(os.path.getsize('tree/inner/file'), os.path.getsize('tree2/inner/file'))
with tempfile.TemporaryFile() as file: file.write(b'x')
try: os.chmod('missing', 0)
except FileNotFoundError: print('missing')
try: os.chmod(os.__file__, 0o777)
except PermissionError: print('refused')";
    let execution = session.run(code).unwrap();
    assert_eq!((execution.status, execution.text.trim()), (Status::Ok, "0 1\nmissing\nrefused"));
}

#[test]
fn a_lock_of_one_sequence_is_not_seen_by_another() {
    let lock = "import fcntl, struct, sysconfig
library = f\"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/libc.so.6\"
file = next(open(path) for path in (np.__file__, library) if os.access(path, os.R_OK))
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
fcntl.fcntl(file, 37, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 0, 0, 0))
print('locked')";
    for (name, options) in own_set_ups() {
        let sandbox = Sandbox::start(options).unwrap();
        let image = InputImage::from_rgb(&picture(), Path::new("a.png")).unwrap();
        let (mut first, mut second) = (sandbox.session(image.clone()), sandbox.session(image));
        assert_eq!(first.run(lock).unwrap().text.trim(), "locked", "{name}");
        assert_eq!(second.run(lock).unwrap().text.trim(), "locked", "{name}");
    }
}

#[test]
fn only_the_folders_of_modules_can_be_read() {
    // A virtual environment inside a project, and one that is the project itself.
    for prefix in ["venv", "."] {
        let project = tempfile::tempdir().unwrap();
        let home = project.path().join(prefix);
        let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&home).status().unwrap();
        assert!(made.success());
        let python = home.join("bin/python");
        let site = |python: &Path| {
            let code = "import sysconfig; print(sysconfig.get_path('purelib'))";
            let output = Command::new(python).args(["-c", code]).output().unwrap();
            std::path::PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
        };
        let (own, theirs) = (site(&python), site(&ordinary().interpreter().path));
        for name in fs::read_dir(&theirs).unwrap().map(|entry| entry.unwrap().file_name()) {
            copy_tree(&theirs.join(&name), &own.join(&name));
        }
        let secrets = [".env", "src/settings.py", "venv/.env", "lib/secret.txt", "bin/secret.txt"]
            .map(|name| project.path().join(name));
        for secret in &secrets {
            fs::create_dir_all(secret.parent().unwrap()).unwrap();
            fs::write(secret, "SECRET").unwrap();
        }
        fs::write(own.join("project.pth"), project.path().join("src").to_str().unwrap()).unwrap();
        Command::new("chmod").args(["-R", "a+rX"]).arg(project.path()).status().unwrap();
        for (name, options) in own_set_ups() {
            let sandbox =
                Sandbox::start_with(options, Interpreter { path: python.clone(), ..ordinary().interpreter().clone() })
                    .unwrap();
            let mut session = sandbox.session(InputImage::from_rgb(&picture(), Path::new("a.png")).unwrap());
            let code = format!(
                "for path in {secrets:?}:\n    try: print(open(path).read())\n    except OSError: print('refused')\nprint(len(np.__file__) > 0, cv2.imread(image_path).shape)"
            );
            let execution = session.run(&code).unwrap();
            let expected = format!("{}True (480, 640, 3)", "refused\n".repeat(secrets.len()));
            assert_eq!((execution.status, execution.text.trim()), (Status::Ok, expected.as_str()), "{name}, {prefix}");
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-r", "--reflink=auto"]).args([from, to]).status().unwrap();
    assert!(copied.success());
}
