//! Hostile programs: each prints BREACH if it got what it wanted. {FOLDER}, {PORT}, {VICTIM}, {HOST}, {SHM} and {MODULE} are filled in.

pub const HOSTILE: &[(&str, &str)] = &[
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
    (
        "writes to the shared pixels",
        "import ctypes\nlibc = ctypes.CDLL(None)\nimage, array = Image.open(image_path), cv2.imread(image_path)\nimage.load()\narray[:] = 0\n\
         image.paste((0, 0, 0), (0, 0, 640, 480))\nplace = ctypes.c_void_p(array.ctypes.data)\nfor size in (4096, array.nbytes):\n    \
         for call in (lambda: libc.msync(place, size, 4), lambda: libc.madvise(place, size, 9), lambda: libc.mprotect(place, size, 3)): call()\n\
         ctypes.memset(place, 0, array.nbytes)",
    ),
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
    // Calls that are allowed for some arguments only.
    (
        "changes modes outside",
        "for action in (lambda: os.chmod('{FOLDER}/canary.txt', 0o600), lambda: os.chmod('{FOLDER}', 0o700)):\n    try: action()\n    except OSError: pass\nimport ctypes\nc = ctypes.CDLL(None)\nif c.chmod(b'{FOLDER}/canary.txt', 0o600) == 0 or c.syscall(452, -100, b'{FOLDER}/canary.txt', 0o600, 0) == 0: print('BREACH')",
    ),
    (
        "changes times outside",
        "import ctypes\nc = ctypes.CDLL(None)\nif c.utimensat(-100, b'{FOLDER}/canary.txt', None, 0) == 0 or c.utimes(b'{FOLDER}/canary.txt', None) == 0 or c.utime(b'{FOLDER}/canary.txt', None) == 0: print('BREACH')\nos.utime('{FOLDER}/canary.txt', (1, 1))\nprint('BREACH')",
    ),
    (
        "truncates outside by path",
        "import ctypes\nif ctypes.CDLL(None).truncate(b'{FOLDER}/canary.txt', ctypes.c_long(0)) == 0: print('BREACH')\nos.truncate('{FOLDER}/canary.txt', 0)\nprint('BREACH')",
    ),
    (
        "truncates outside by opening",
        "for mode in (0, 1, 2, 3):\n    for more in (0, os.O_APPEND, os.O_CREAT, os.O_DIRECT, os.O_PATH):\n        try:\n            d = os.open('{FOLDER}/canary.txt', mode | os.O_TRUNC | more)\n            if not more & os.O_PATH: print('BREACH')\n        except OSError: pass",
    ),
    (
        "truncates by the old call",
        "import ctypes, sys\nif sys.maxsize > 2**32 and ctypes.CDLL(None).syscall(85, b'{FOLDER}/canary.txt', 0o666) >= 0 and os.uname().machine == 'x86_64': print('BREACH')",
    ),
    (
        "changes attributes outside",
        "import ctypes\nc = ctypes.CDLL(None)\nif c.setxattr(b'{FOLDER}/canary.txt', b'user.x', b'1', ctypes.c_size_t(1), 0) == 0 or c.removexattr(b'{FOLDER}/canary.txt', b'user.canary') == 0: print('BREACH')\nprint(os.getxattr('{FOLDER}/canary.txt', 'user.canary').decode(), 'BREACH')",
    ),
    (
        "changes owners outside",
        "import ctypes\nc = ctypes.CDLL(None)\nif c.chown(b'{FOLDER}/canary.txt', os.getuid(), os.getgid()) == 0 or c.lchown(b'{FOLDER}/canary.txt', -1, -1) == 0: print('BREACH')",
    ),
    (
        "acts on modules through descriptors",
        "import ctypes, json as j\nc = ctypes.CDLL(None)\nfor path in (os.__file__, j.__file__, np.__file__):\n    try: d = os.open(path, os.O_RDONLY)\n    except OSError: continue\n    mode = os.fstat(d).st_mode & 0o777\n    if c.fchmod(d, mode) == 0 or c.futimens(d, None) == 0 or c.ftruncate(d, ctypes.c_long(os.fstat(d).st_size)) == 0: print('BREACH')\n    if c.fsetxattr(d, b'user.x', b'1', ctypes.c_size_t(1), 0) == 0 or c.fchown(d, os.getuid(), -1) == 0: print('BREACH')",
    ),
    (
        "writes to modules",
        "for path in (os.__file__, np.__file__):\n    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDONLY | os.O_TRUNC, os.O_ACCMODE):\n        try:\n            os.close(os.open(path, flags))\n            print('BREACH')\n        except OSError: pass\nopen(os.path.join(os.path.dirname(np.__file__), 'planted.py'), 'w').write('x')\nprint('BREACH')",
    ),
    (
        "signals through a pipe",
        "import fcntl\nr, w = os.pipe()\nfor n in ({VICTIM}, -{VICTIM}, {HOST}, os.getppid()):\n    try:\n        fcntl.fcntl(r, fcntl.F_SETOWN, n)\n        fcntl.fcntl(r, 10, 9)\n        fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)\n        os.write(w, b'x')\n        print('BREACH')\n    except OSError: pass",
    ),
    (
        "signals through a pipe by other names",
        "import ctypes, fcntl, struct\nc = ctypes.CDLL(None)\nr, w = os.pipe()\nowner = struct.pack('ii', 1, {VICTIM})\nif c.fcntl(r, 15, owner) == 0 or c.ioctl(r, 0x8901, struct.pack('i', {VICTIM})) == 0 or c.ioctl(r, 0x8902, struct.pack('i', {VICTIM})) == 0 or c.ioctl(r, 0x5452, struct.pack('i', 1)) == 0: print('BREACH')\nfor d in range(3, 64):\n    if c.ioctl(d, 0x8902, struct.pack('i', {VICTIM})) == 0 or c.fcntl(d, 8, {VICTIM}) == 0: print('BREACH')\n    c.fcntl(d, 10, 9)\nos.write(w, b'x')",
    ),
    (
        "is told of changes by signals",
        "import fcntl\nd = os.open(temp_output_dir, os.O_RDONLY)\nfcntl.fcntl(d, 1026, 0x80000001)\nprint('BREACH')",
    ),
    (
        "takes a lease",
        "import fcntl\nfcntl.fcntl(os.open(image_path, os.O_RDONLY), 1024, fcntl.F_RDLCK)\nprint('BREACH')",
    ),
    (
        "locks the modules",
        "import fcntl\nd = os.open('{MODULE}', os.O_RDONLY)\nfcntl.flock(d, fcntl.LOCK_EX | fcntl.LOCK_NB)\nimport struct\nfor command in (fcntl.F_SETLK, 37): fcntl.fcntl(d, command, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 0, 0, 0))\nprint('locked')",
    ),
    (
        "sets the priority of others",
        "import ctypes\nc = ctypes.CDLL(None)\nif c.setpriority(0, {VICTIM}, 19) == 0 or c.sched_setaffinity({VICTIM}, ctypes.c_size_t(8), b'\\1' + bytes(7)) == 0 or c.syscall(251, 1, {VICTIM}, 3 << 13) == 0: print('BREACH')\nos.setpriority(os.PRIO_USER, 0, 19)\nprint('BREACH')",
    ),
    (
        "asks after other processes",
        "import time, ctypes\nc = ctypes.CDLL(None)\nb = ctypes.create_string_buffer(128)\nfor n in ({VICTIM}, {HOST}):\n    if c.prlimit(n, 7, None, b) == 0 or c.clock_gettime(~n << 3 | 2, b) == 0 or c.getpgid(n) > 0 or c.sched_getaffinity(n, ctypes.c_size_t(128), b) > 0 or c.getsid(n) > 0: print('BREACH')",
    ),
    (
        "queues signals",
        "import ctypes\nc = ctypes.CDLL(None)\nif c.sigqueue({VICTIM}, 9, None) == 0 or c.tgkill({VICTIM}, {VICTIM}, 9) == 0 or c.syscall(200, {VICTIM}, 9) == 0: print('BREACH')",
    ),
    (
        "reads memory across processes",
        "import ctypes\nc = ctypes.CDLL(None)\nb = ctypes.create_string_buffer(8)\niov = (ctypes.c_void_p * 2)(ctypes.addressof(b), 8)\nfor n in ({VICTIM}, {HOST}):\n    for name in ('process_vm_readv', 'process_vm_writev'):\n        if getattr(c, name)(n, iov, 1, iov, 1, 0) >= 0: print('BREACH')",
    ),
    ("looks at shared memory", "import glob\nprint(os.listdir('/dev/shm'), 'BREACH')"),
    ("reads shared memory", "print(open('{SHM}').read(), 'BREACH')"),
    ("writes shared memory", "open('{SHM}', 'w').write('x')\nprint('BREACH')"),
    (
        "makes shared memory",
        "for path in ('/dev/shm/thyme-hostile', '/tmp/thyme-hostile', '/var/tmp/thyme-hostile', '/run/thyme-hostile'):\n    try:\n        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))\n    except OSError: pass",
    ),
    (
        "uses System V memory",
        "import ctypes\nc = ctypes.CDLL(None)\nif c.shmget(0, 4096, 0o1600) >= 0 or c.msgget(0, 0o1600) >= 0 or c.semget(0, 1, 0o1600) >= 0 or c.shmget(0x7468796d, 4096, 0o1666) >= 0: print('BREACH')",
    ),
    (
        "uses keys and rings",
        "import ctypes\nc = ctypes.CDLL(None)\nif c.syscall(248, b'user', b'x', b'y', 1, -2) > 0 or c.syscall(250, 0, -3, 1) > 0 or c.syscall(425, 1, ctypes.create_string_buffer(120)) >= 0 or c.syscall(321, 0, None, 0) >= 0 or c.syscall(323, 0) >= 0 or c.syscall(298, None, 0, -1, -1, 0) >= 0: print('BREACH')",
    ),
    (
        "reads command lines",
        "for n in ('self', 1, {HOST}, {VICTIM}):\n    for name in ('cmdline', 'environ', 'maps', 'status', 'mem', 'root', 'cwd', 'fd'):\n        try: print(open(f'/proc/{n}/{name}').read()[:9], 'BREACH')\n        except OSError: pass\nprint(os.listdir('/proc'), 'BREACH')",
    ),
    (
        "lists the top folders",
        "for path in ('/', '/home', '/root', '/tmp', '/etc', '/var', '/opt', '/srv', os.path.dirname('{FOLDER}')):\n    try: print(os.listdir(path), 'BREACH')\n    except OSError: pass",
    ),
    (
        "reads the sandbox's own files",
        "for up in range(1, 6):\n    folder = '/'.join(temp_output_dir.rstrip('/').split('/')[:-up])\n    for name in ('log', 'zygote.py', 'jail.py', 'scratch'):\n        try:\n            path = folder + '/' + name\n            print(os.listdir(path) if name == 'scratch' else open(path).read()[:9], 'BREACH')\n        except OSError: pass",
    ),
    (
        "connects by a Unix socket",
        "import ctypes\nc = ctypes.CDLL(None)\nfor family in range(46):\n    for kind in (1, 2, 3, 5):\n        if c.socket(family, kind, 0) >= 0: print('BREACH')\nif c.socketpair(1, 1, 0, (ctypes.c_int * 2)()) == 0: print('BREACH')",
    ),
    (
        "fills the disk with removed files",
        "held = []\nfor i in range(40):\n    f = open(f'x{i}', 'wb', buffering=0)\n    os.unlink(f'x{i}')\n    f.write(bytes(1 << 20))\n    held.append(f)\nimport time\ntime.sleep(0.5)\nprint('BREACH')",
    ),
    (
        "fills the disk with files without names",
        "held = []\nfor i in range(40):\n    d = os.open(temp_output_dir, os.O_TMPFILE | os.O_RDWR)\n    os.write(d, bytes(1 << 20))\n    held.append(d)\nimport time\ntime.sleep(0.5)\nprint('BREACH')",
    ),
    (
        "fills the disk with removed mapped files",
        "import ctypes\nc = ctypes.CDLL(None)\nc.mmap.restype = ctypes.c_void_p\nfor i in range(40):\n    d = os.open(f'm{i}', os.O_CREAT | os.O_RDWR)\n    os.write(d, bytes(1 << 20))\n    c.mmap(None, ctypes.c_size_t(4096), 1, 1, d, ctypes.c_long(0))\n    os.close(d)\n    os.unlink(f'm{i}')\nimport time\ntime.sleep(0.5)\nprint('BREACH')",
    ),
    (
        "hides files in deep folders",
        "for i in range(3000):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\nfor i in range(20): open(f'f{i}', 'wb').write(bytes(1 << 20))\nimport time\ntime.sleep(0.5)\nprint('BREACH')",
    ),
    (
        "hides files in a folder that no one may list",
        "os.mkdir('hidden', 0o300)\nfor i in range(20): open(f'hidden/f{i}', 'wb').write(bytes(1 << 20))\nimport time\ntime.sleep(0.5)\nprint('BREACH')",
    ),
    (
        "holds memory in pipes",
        "import fcntl\ntotal = 0\ntry:\n    while True:\n        r, w = os.pipe()\n        total += fcntl.fcntl(w, 1031, 1 << 20)\nexcept OSError: pass\nif total: print('BREACH')",
    ),
    (
        "asks for huge pages",
        "import ctypes\nc = ctypes.CDLL(None)\nc.mmap.restype = ctypes.c_void_p\nif c.mmap(None, ctypes.c_size_t(2 << 20), 3, 0x40022, -1, ctypes.c_long(0)) not in (None, 2 ** 64 - 1): print('BREACH')",
    ),
    (
        "sends other sequences' pages away",
        "import mmap, ctypes\nd = os.open('{MODULE}', os.O_RDONLY)\nm = mmap.mmap(d, 0, prot=mmap.PROT_READ)\nfor advice in (9, 12, 20, 21, 100, 101):\n    try:\n        m.madvise(advice)\n        print('BREACH')\n    except OSError: pass",
    ),
    (
        "starts the loader",
        "import glob\nfor path in glob.glob('/lib*/ld-*') + glob.glob('/lib/*/ld-*') + ['/proc/self/exe']:\n    try: os.execv(path, [path, '--version'])\n    except OSError: pass\nos.execv('/bin/sh', ['sh'])",
    ),
];
