//! Programs that mean harm: none has an effect, all end in time, as root and as an ordinary user.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use thyme_engine::sandbox::{Guarantee, InputImage, Sandbox, SandboxOptions, Status};

use super::sandbox::{NOBODY, TIMEOUT, is_root, options, picture, run, session};

/// Things outside the jail that hostile code must not touch, and a look at whether it did.
struct Canaries {
    folder: tempfile::TempDir,
    listener: TcpListener,
    victim: Child,
    secret: String,
    started: Instant,
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        if is_root() {
            // The user that the jailed code is, so that only walls protect it.
            command.uid(NOBODY);
        }
        Canaries { folder, listener, victim: command.spawn().unwrap(), secret, started: Instant::now() }
    }

    fn fill_in(&self, code: &str) -> String {
        let folder = self.folder.path().to_str().unwrap();
        // Errors quote the line of code, so the word must not stand in it.
        code.replace("'BREACH'", "'BRE' + 'ACH'")
            .replace("{FOLDER}", folder)
            .replace("{PORT}", &self.listener.local_addr().unwrap().port().to_string())
            .replace("{VICTIM}", &self.victim.id().to_string())
            .replace("{HOST}", &std::process::id().to_string())
    }

    fn assert_untouched(&mut self, name: &str) {
        let names: BTreeSet<String> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, BTreeSet::from(["canary.txt", "canary.png", "original.png"].map(String::from)), "{name}");
        assert_eq!(fs::read_to_string(self.folder.path().join("canary.txt")).unwrap(), self.secret, "{name}");
        let original = self.folder.path().join("original.png");
        assert_eq!(fs::metadata(&original).unwrap().permissions().mode() & 0o777, 0o666, "{name}");
        assert_eq!(image::open(&original).unwrap().into_rgb8(), picture(), "{name}");
        assert_eq!(
            self.listener.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "{name} reached the network"
        );
        assert!(self.victim.try_wait().unwrap().is_none(), "{name} killed another process");
    }
}

impl Drop for Canaries {
    fn drop(&mut self) {
        drop(self.victim.kill());
        drop(self.victim.wait());
    }
}

/// Hostile programs: each prints BREACH if it got what it wanted. {FOLDER}, {PORT}, {VICTIM} and {HOST} are filled in.
const HOSTILE: &[(&str, &str)] = &[
    ("connects out", "import socket\nsocket.create_connection(('127.0.0.1', {PORT}), 1).send(b'x')\nprint('BREACH')"),
    ("asks a name server", "import socket\nsocket.getaddrinfo('example.com', 80)\nprint('BREACH')"),
    (
        "sends a datagram",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {PORT}))\nprint('BREACH')",
    ),
    (
        "fetches a page",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{PORT}/', timeout=1)\nprint('BREACH')",
    ),
    ("listens", "import socket\ns = socket.socket()\ns.bind(('0.0.0.0', 0))\ns.listen()\nprint('BREACH')"),
    ("opens an abstract socket", "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0thyme')\nprint('BREACH')"),
    ("makes a netlink socket", "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\nprint('BREACH')"),
    ("reads the password file", "print(open('/etc/passwd').read(), 'BREACH')"),
    ("reads another file", "print(open('{FOLDER}/canary.txt').read(), 'BREACH')"),
    ("opens another file as an image", "print(open('{FOLDER}/canary.png', 'rb').read(), 'BREACH')"),
    ("prints another file's path", "processed_path = '{FOLDER}/original.png'\nprint(processed_path)"),
    ("lists the host's folders", "print(os.listdir('{FOLDER}'), 'BREACH')"),
    ("lists homes", "print(os.listdir('/root'), os.listdir('/home'), 'BREACH')"),
    ("escapes by a symlink", "os.symlink('{FOLDER}/canary.txt', 'link.png')\nprint(open('link.png').read(), 'BREACH')"),
    (
        "has a symlink fetched",
        "os.symlink('{FOLDER}/original.png', temp_output_dir + 'link.png')\nprint(temp_output_dir + 'link.png')",
    ),
    ("hard-links a file", "os.link('{FOLDER}/canary.txt', 'hard.txt')\nprint(open('hard.txt').read(), 'BREACH')"),
    ("climbs by dots", "print(open('../../../../..{FOLDER}/canary.txt').read(), 'BREACH')"),
    ("writes outside", "open('{FOLDER}/new.txt', 'w').write('x')\nprint('BREACH')"),
    ("overwrites outside", "open('{FOLDER}/canary.txt', 'w').write('x')\nprint('BREACH')"),
    ("removes outside", "os.remove('{FOLDER}/canary.txt')\nprint('BREACH')"),
    ("removes everything", "import shutil\nshutil.rmtree('/', ignore_errors=True)\nprint(os.path.exists(image_path))"),
    (
        "changes the input's mode",
        "os.chmod(image_path, 0o777)\nos.chmod('{FOLDER}/original.png', 0o777)\nprint('BREACH')",
    ),
    ("overwrites the input", "Image.new('RGB', (9, 9)).save(image_path)\nprint('BREACH')"),
    ("replaces the input", "open('x', 'w').write('x')\nos.replace('x', image_path)\nprint('BREACH')"),
    ("forks", "os.fork()\nprint('BREACH')"),
    ("is a fork bomb", "while True:\n    os.fork()"),
    (
        "is a fork bomb that swallows errors",
        "while True:\n    try:\n        if os.fork() == 0: print('BREACH')\n    except Exception: pass",
    ),
    (
        "starts a program",
        "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'touch {FOLDER}/new.txt'])\nprint('BREACH')",
    ),
    ("uses the shell", "code = os.system('touch {FOLDER}/new.txt; echo BREACH')\nprint(code)"),
    ("replaces itself", "os.execv('/bin/sh', ['sh', '-c', 'touch {FOLDER}/new.txt'])"),
    ("spawns", "os.posix_spawn('/bin/true', ['true'], {})\nprint('BREACH')"),
    ("uses multiprocessing", "import multiprocessing\nmultiprocessing.Pool(2).map(print, ['BREACH'])"),
    (
        "bombs with threads",
        "import threading, time\nfor _ in range(10_000):\n    threading.Thread(target=time.sleep, args=(9,)).start()\nprint('BREACH')",
    ),
    ("kills its parent", "import signal\nos.kill(os.getppid(), signal.SIGKILL)\nprint(os.getppid())"),
    ("kills the host", "os.kill({HOST}, 9)\nprint('BREACH')"),
    ("kills a stranger", "os.kill({VICTIM}, 9)\nprint('BREACH')"),
    ("kills everyone", "os.kill(-1, 9)\nprint('BREACH')"),
    ("kills its group", "os.killpg(0, 9)\nprint('BREACH')"),
    ("kills by pidfd", "import signal\nsignal.pidfd_send_signal(os.pidfd_open({VICTIM}), 9)\nprint('BREACH')"),
    (
        "traces a stranger",
        "import ctypes\nc = ctypes.CDLL(None)\nif c.ptrace(16, {VICTIM}, 0, 0) == 0: print('BREACH')\nif c.ptrace(16, {HOST}, 0, 0) == 0: print('BREACH')",
    ),
    ("reads a stranger's memory", "print(open('/proc/{VICTIM}/mem', 'rb').read(1), 'BREACH')"),
    ("reads the environment of the host", "print(open('/proc/{HOST}/environ').read(), 'BREACH')"),
    ("reads the environment of process 1", "print(open('/proc/1/environ').read(), 'BREACH')"),
    (
        "reads its own environment",
        "if os.environ or 'CARGO' in str(os.environ): print('BREACH')\nprint(open('/proc/self/environ').read(), 'BREACH')",
    ),
    (
        "mounts",
        "import ctypes\nif ctypes.CDLL(None).mount(b'x', b'/mnt/data', b'tmpfs', 0, None) == 0: print('BREACH')",
    ),
    ("unmounts its root", "import ctypes\nif ctypes.CDLL(None).umount2(b'/', 2) == 0: print('BREACH')"),
    ("makes a user namespace", "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0: print('BREACH')"),
    ("becomes root", "os.setuid(0)\nprint('BREACH')"),
    ("leaves the root", "os.chroot('.')\nprint('BREACH')"),
    ("makes a device", "import stat\nos.mknod('disk', 0o666 | stat.S_IFBLK, os.makedev(254, 0))\nprint('BREACH')"),
    ("raises its limits", "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nprint('BREACH')"),
    ("eats memory", "kept = bytearray(4 << 30)\nprint('BREACH')"),
    (
        "eats memory in pieces",
        "kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))\n    if len(kept) > 1000: print('BREACH')",
    ),
    ("eats memory by memfd", "f = os.memfd_create('x')\nos.ftruncate(f, 4 << 30)\nprint('BREACH')"),
    (
        "fills the disk",
        "with open('big', 'wb') as f:\n    for _ in range(64): f.write(bytes(1 << 20))\nprint('BREACH')",
    ),
    (
        "fills the disk with files",
        "for i in range(64):\n    open(f'big{i}', 'wb').write(bytes(1 << 20))\nprint('BREACH')",
    ),
    ("makes files without number", "for i in range(1_000_000): open(f'{i}', 'w').close()\nprint('BREACH')"),
    ("loops", "while True: pass"),
    ("sleeps", "import time\ntime.sleep(1000)"),
    ("loops in C", "sum(range(10 ** 12))"),
    (
        "ignores signals and exceptions",
        "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ),
    ("prints without end", "while True: print('spam' * 1000)"),
    ("prints without end to descriptors", "while True:\n    for d in (1, 2): os.write(d, b'x' * 4096)"),
    (
        "floods the wire",
        "for d in range(64):\n    try:\n        while True: os.write(d, b'\\xff' * 65536)\n    except OSError: pass",
    ),
    (
        "forges an answer",
        "import struct, json\nm = json.dumps({'status': 'ok', 'text': 'forged', 'blobs': [10 ** 15], 'images': ['a.png'], 'round': 1, 'seconds': 0}).encode()\nfor d in range(3, 64):\n    try: os.write(d, struct.pack('<I', len(m)) + m)\n    except OSError: pass",
    ),
    (
        "announces an endless answer",
        "import struct\nfor d in range(3, 64):\n    try: os.write(d, struct.pack('<I', 2 ** 32 - 1))\n    except OSError: pass",
    ),
    ("closes every descriptor", "os.closerange(0, 256)"),
    ("recurses without end", "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()"),
    ("crashes", "import ctypes\nctypes.string_at(0)"),
    ("leaves at once", "os._exit(0)"),
    ("names a fifo as its image", "os.mkfifo(temp_output_dir + 'x.png')\nprint(temp_output_dir + 'x.png')"),
    (
        "names an image bomb",
        "import zlib, struct\ndef part(k, d): return struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d))\nopen('bomb.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + part(b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)) + part(b'IDAT', zlib.compress(bytes(1 << 20))) + part(b'IEND', b''))\nprint('bomb.png')",
    ),
    (
        "names a million images",
        "Image.new('RGB', (9, 9)).save('a.png')\nfor i in range(1000): os.symlink('a.png', f'{i}.png')\nprint('\\n'.join(f'{i}.png' for i in range(1000)))",
    ),
    (
        "breaks what answers",
        "import json, builtins\njson.dumps = None\nimport sys\nfor m in list(sys.modules.values()):\n    for k in ('write_frame', 'read_frame'):\n        if hasattr(m, k): setattr(m, k, None)",
    ),
];

fn hostile_programs_have_no_effect(options: SandboxOptions) {
    assert!(HOSTILE.len() >= 30);
    let sandbox = Sandbox::start(SandboxOptions { timeout: TIMEOUT, ..options }).unwrap();
    println!("walls as {:?}:\n{}", options_name(&sandbox), sandbox.walls());
    assert_eq!(sandbox.walls().fallen(), [] as [Guarantee; 0]);
    let mut canaries = Canaries::new();
    let input = InputImage::read(&canaries.folder.path().join("original.png")).unwrap();
    for (name, code) in HOSTILE {
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
    let after = sandbox.session(input).run("print('alive')").unwrap();
    assert_eq!(after.text.trim(), "alive");
    println!("{} programs in {:.1} s", HOSTILE.len(), canaries.started.elapsed().as_secs_f64());
}

fn options_name(sandbox: &Sandbox) -> String {
    let root = sandbox.walls().of(Guarantee::Reads).iter().any(|mechanism| mechanism.contains("user id"));
    if root { "root".into() } else { "an ordinary user".into() }
}

#[test]
fn hostile_programs_have_no_effect_with_the_rights_we_have() {
    hostile_programs_have_no_effect(options());
}

#[test]
fn hostile_programs_have_no_effect_as_an_ordinary_user() {
    // An ordinary user who runs the tests has just this in the test above.
    hostile_programs_have_no_effect(SandboxOptions { as_user: is_root().then_some(NOBODY), ..options() });
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
