"""The probe: what the trial session tries, once its walls stand, to break each of them. No attempt has a lasting effect, even if it succeeds.

An attempt is refused if it raises OSError or finds that it had no effect. `probe.rs` lays out what is tried upon, and looks from
outside at what can only be seen there.
"""
import ctypes
import fcntl
import mmap
import os
import resource
import socket
import struct

from jail import check, libc

CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_VFORK, CLONE_THREAD, CLONE_SYSVSEM = 0x100, 0x200, 0x400, 0x800, 0x4000, 0x10000, 0x40000
CLONE_NEWUSER, SIGCHLD = 0x10000000, 17
PTRACE_SEIZE, IPC_PRIVATE, IPC_RMID, F_SETSIG, F_SETPIPE_SZ, F_NOTIFY, F_OFD_SETLK = 0x4206, 0, 0, 10, 1031, 1026, 37
IO_URING_SETUP, PIDFD_OPEN = 425, 434
READS, NETWORK, PROCESSES, BOUNDS = "reads", "network", "processes", "bounds"


class Probe:
    """`places` says what lies outside; `stranger` is a process of the same user out there."""

    def __init__(self, walls, places):
        self.walls, self.places, self.options = walls, places, walls.options
        self.secret, self.outside, self.module = places["secret"], places["outside"], places["module"]
        self.file, self.own = os.path.join(self.outside, "file"), walls.outputs
        self.stranger, self.host = walls.stranger, places["host"]
        self.kept = []

    def attempts(self):
        """(guarantee, name, refused) of every attempt."""
        groups = [(READS, self.reading), (READS, self.changing), (NETWORK, self.network), (PROCESSES, self.processes), (BOUNDS, self.bounds)]
        return [(guarantee, name, is_refused(action)) for guarantee, group in groups for name, action in group().items()]

    def reading(self):
        places = self.places
        return {
            "read a file that everyone may read": lambda: self.secret in read(self.file),
            "open such a file through a link": lambda: self.secret in read(self.linked(self.file)),
            "list a folder that everyone may list": lambda: os.listdir(self.outside),
            "read /etc/passwd": lambda: read("/etc/passwd"),
            "list the root folder": lambda: os.listdir("/"),
            "list /home": lambda: os.listdir("/home"),
            "list /root": lambda: os.listdir("/root"),
            "list the folder of the engine's user": lambda: os.listdir(os.environ["HOME"]) if "HOME" in os.environ else False,
            "list the processes": lambda: os.listdir("/proc"),
            "read the command line of process 1": lambda: read("/proc/1/cmdline"),
            "read the command line of the engine": lambda: read(f"/proc/{self.host}/cmdline"),
            "read the environment of the engine": lambda: read(f"/proc/{self.host}/environ"),
            "read the environment of the engine's parent": lambda: read(f"/proc/{places['parent']}/environ"),
            "read the environment of another process of its user": lambda: read(f"/proc/{self.stranger}/environ"),
            "read the memory of another process of its user": lambda: os.close(os.open(f"/proc/{self.stranger}/mem", os.O_RDONLY)) is None,
            "read the environment of the interpreter": lambda: read("/proc/self/environ"),
            "list the shared memory of others": lambda: os.listdir("/dev/shm"),
            "read the shared memory of others": lambda: places["shared_memory"] and self.secret in read(places["shared_memory"]),
            "read the sandbox's log": lambda: read(places["log"]) is not None,
            "list the files of other sessions": lambda: os.listdir(self.options["scratch_root"]) is not None,
            "read an attribute of a file outside": lambda: os.getxattr(self.file, "user.canary"),
        }

    def changing(self):
        outside, own, file, module = self.outside, self.own, self.file, self.module
        return {
            "create a file outside": lambda: made(os.path.join(outside, "new"), os.O_CREAT | os.O_EXCL | os.O_WRONLY),
            "open a file outside for writing": lambda: opened(file, os.O_WRONLY),
            "append to a file outside": lambda: opened(file, os.O_WRONLY | os.O_APPEND),
            "shorten a file outside by its path": lambda: done(libc.truncate(os.fsencode(file), ctypes.c_long(os.stat(file).st_size))),
            "shorten a file outside by opening it for nothing": lambda: self.emptied(file, os.O_ACCMODE),
            "write to a module": lambda: opened(module, os.O_WRONLY),
            "shorten a module by its path": lambda: done(libc.truncate(os.fsencode(module), ctypes.c_long(os.stat(module).st_size))),
            "shorten a module by opening it for reading": lambda: self.emptied(module, os.O_RDONLY),
            "shorten a module by opening it for nothing": lambda: self.emptied(module, os.O_ACCMODE),
            "change the mode of a file outside": lambda: done(libc.chmod(os.fsencode(file), 0o666)),
            "change the mode of a module through a descriptor": lambda: through(module, lambda descriptor: libc.fchmod(descriptor, 0o666)),
            "change the times of a file outside": lambda: done(libc.utimensat(-100, os.fsencode(file), None, 0)),
            "change the times of a module through a descriptor": lambda: through(module, lambda descriptor: libc.futimens(descriptor, None)),
            "change the owner of a file outside": lambda: done(libc.chown(os.fsencode(file), os.getuid(), os.getgid())),
            "set an attribute of a file outside": lambda: done(libc.setxattr(os.fsencode(file), b"user.canary", b"1", ctypes.c_size_t(1), 0)),
            "rename a file outside": lambda: self.renames(file, file + ".new"),
            "rename a file outside into its own folder": lambda: self.renames(file, os.path.join(own, "taken")),
            "rename a file of its own to outside": lambda: self.renames(self.own_file("given"), os.path.join(outside, "given")),
            "remove a file outside": lambda: os.unlink(os.path.join(outside, "spare")) is None,
            "hard-link a file outside into its own folder": lambda: self.links(file, os.path.join(own, "hard")),
            "hard-link a file of its own to outside": lambda: self.links(self.own_file("given"), os.path.join(outside, "hard")),
            "make a symbolic link outside": lambda: os.symlink("x", os.path.join(outside, "link")) is None,
            "make a folder outside": lambda: os.mkdir(os.path.join(outside, "folder")) is None,
            "make a pipe outside": lambda: os.mkfifo(os.path.join(outside, "fifo")) is None,
            "make a device": lambda: os.mknod(os.path.join(own, "device"), 0o666 | 0o060000, os.makedev(254, 0)) is None,
            "mount": lambda: done(libc.mount(b"x", os.fsencode(own), b"tmpfs", ctypes.c_ulong(0), None)),
            "change its root": lambda: done(libc.chroot(os.fsencode(own))),
        }

    def network(self):
        places = self.places

        def connect(family, address):
            with socket.socket(family, socket.SOCK_STREAM) as stream:
                stream.settimeout(1)
                stream.connect(address)
            return True

        def send(family, address):
            with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
                return datagrams.sendto(b"x", address)

        def listen():
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
                stream.bind(("127.0.0.1", 0))
                stream.listen()
                return True

        def make(family, kind):
            socket.socket(family, kind).close()
            return True

        return {
            "connect to a server of this machine by TCP": lambda: connect(socket.AF_INET, ("127.0.0.1", places["tcp"])),
            "connect to a server of this machine by TCP and IPv6": lambda: places["tcp6"] and connect(socket.AF_INET6, ("::1", places["tcp6"])),
            "send to a server of this machine by UDP": lambda: send(socket.AF_INET, ("127.0.0.1", places["udp"])),
            "listen on a port": listen,
            "connect to a server by a Unix socket": lambda: connect(socket.AF_UNIX, places["socket"]),
            "connect to a server by an abstract Unix socket": lambda: connect(socket.AF_UNIX, "\0" + places["abstract"]),
            "make a netlink socket": lambda: make(socket.AF_NETLINK, socket.SOCK_RAW),
            "make a packet socket": lambda: make(socket.AF_PACKET, socket.SOCK_RAW),
            "make a socket to the hypervisor": lambda: make(getattr(socket, "AF_VSOCK", 40), socket.SOCK_STREAM),
            "make an io_uring": lambda: closes(libc.syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(120))),
        }

    def processes(self):
        stranger, host = self.stranger, self.host

        def fork():
            pid = check(libc.fork(), "fork")
            if pid == 0:
                os._exit(0)
            return os.waitpid(pid, 0) is not None

        def clone(flags):
            stack = mmap.mmap(-1, 1 << 16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.kept.append(stack)
            top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + (1 << 16)
            # It calls getpid, and ends.
            return check(libc.clone(libc.getpid, ctypes.c_void_p(top), flags, None), "clone")

        def owns(number):
            reading, writing = os.pipe()
            try:
                fcntl.fcntl(reading, fcntl.F_SETOWN, number)
                fcntl.fcntl(reading, F_SETSIG, 0)
                return True
            finally:
                os.close(reading)
                os.close(writing)

        def reads_memory(pid):
            # The address of None is the same in every process that was forked from one interpreter.
            buffer = ctypes.create_string_buffer(8)
            ours, theirs = ((ctypes.c_void_p * 2)(address, 8) for address in (ctypes.addressof(buffer), id(None)))
            return check(libc.process_vm_readv(pid, ours, ctypes.c_ulong(1), theirs, ctypes.c_ulong(1), ctypes.c_ulong(0)), "process_vm_readv")

        def notices():
            descriptor = os.open(self.own, os.O_RDONLY)
            try:
                return done(fcntl.fcntl(descriptor, F_NOTIFY, 1))
            finally:
                os.close(descriptor)

        old = ctypes.create_string_buffer(128)
        return {
            "fork": fork,
            "clone as vfork does": lambda: clone(CLONE_VM | CLONE_VFORK | SIGCHLD),
            "start a thread": lambda: clone(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM),
            "make a user namespace": lambda: done(libc.unshare(CLONE_NEWUSER)),
            "signal another process of its user": lambda: done(libc.kill(stranger, 0)),
            "signal the engine": lambda: done(libc.kill(host, 0)),
            "signal its parent": lambda: os.getppid() > 0 and done(libc.kill(os.getppid(), 0)),
            "signal every process": lambda: done(libc.kill(-1, 0)),
            "signal a thread of another process": lambda: done(libc.tgkill(stranger, stranger, 0)),
            "queue a signal to another process": lambda: done(libc.sigqueue(stranger, 0, None)),
            "open another process by a pidfd": lambda: closes(libc.syscall(PIDFD_OPEN, stranger, 0)),
            "have a pipe signal another process": lambda: owns(stranger),
            "have a pipe signal itself": lambda: owns(os.getpid()),
            "have changes of a folder signalled": notices,
            "trace another process": lambda: done(libc.ptrace(PTRACE_SEIZE, stranger, None, None)),
            "read another process's memory": lambda: reads_memory(stranger),
            "set another process's priority": lambda: done(libc.setpriority(0, stranger, 0)),
            "set another process's processors": lambda: done(libc.sched_setaffinity(stranger, ctypes.c_size_t(128), b"\xff" * 128)),
            "read another process's limits": lambda: done(libc.prlimit(stranger, resource.RLIMIT_CORE, None, old)),
            "read another process's clock": lambda: done(libc.clock_gettime(~stranger << 3 | 2, old)),
            "become root": lambda: done(libc.setresuid(0, 0, 0)),
        }

    def bounds(self):
        memory, disk = self.walls.own_bytes + 2 * self.options["memory_bytes"], self.options["disk_bytes"]

        def maps():
            libc.mmap.restype = ctypes.c_void_p
            address = libc.mmap(None, ctypes.c_size_t(memory), 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, ctypes.c_long(0))
            if address in (None, ctypes.c_void_p(-1).value):
                return False
            libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(memory))
            return True

        def raises(limit):
            soft, hard = resource.getrlimit(limit)
            try:
                resource.setrlimit(limit, (soft, hard + 1))
            except ValueError:
                # What Python makes of EPERM.
                return False
            return True

        def opens():
            descriptors = []
            try:
                while len(descriptors) < 1024:
                    descriptors.append(os.open(self.own, os.O_RDONLY))
                return True
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

        def writes_far():
            descriptor = os.open(os.path.join(self.own, "far"), os.O_CREAT | os.O_RDWR, 0o600)
            try:
                return os.pwrite(descriptor, b"x", disk)
            finally:
                os.close(descriptor)

        def fills():
            names = [os.path.join(self.own, f"part{part}") for part in range(4)]
            try:
                for name in names:
                    with open(name, "wb", buffering=0) as file:
                        for _ in range(4):
                            file.write(bytes(disk // 8))
                return True
            finally:
                for name in names:
                    if os.path.exists(name):
                        os.unlink(name)

        def keeps(get, remove):
            number = check(get(), "get")
            remove(number)
            return True

        def widens():
            reading, writing = os.pipe()
            try:
                return done(0 if fcntl.fcntl(writing, F_SETPIPE_SZ, 1 << 20) > 0 else -1)
            finally:
                os.close(reading)
                os.close(writing)

        attempts = {
            "map more memory than allowed": maps,
            "raise its limit of memory": lambda: raises(resource.RLIMIT_AS),
            "raise its limit of files": lambda: raises(resource.RLIMIT_FSIZE),
            "open more descriptors than allowed": opens,
            "write a file longer than allowed": writes_far,
            "lock memory": lambda: done(libc.mlock(ctypes.create_string_buffer(8), ctypes.c_size_t(8))),
            "hold memory in a file without a name": lambda: closes(libc.memfd_create(b"x", 0)),
            "hold System V memory": lambda: keeps(lambda: libc.shmget(IPC_PRIVATE, ctypes.c_size_t(4096), 0o600), lambda number: libc.shmctl(number, IPC_RMID, None)),
            "hold System V messages": lambda: keeps(lambda: libc.msgget(IPC_PRIVATE, 0o600), lambda number: libc.msgctl(number, IPC_RMID, None)),
            "hold System V semaphores": lambda: keeps(lambda: libc.semget(IPC_PRIVATE, 1, 0o600), lambda number: libc.semctl(number, 0, IPC_RMID)),
            "widen a pipe": widens,
        }
        if self.walls.has_mounts:
            attempts["fill more disk than allowed with several files"] = fills
        return attempts

    def hold_for_the_host(self):
        """Takes what only the host can see: locks on a module, a removed open file and a removed mapped one. They last as long as the process."""
        for action in [self.lock] + ([] if self.walls.has_mounts else [self.hold_removed]):
            try:
                action()
            except OSError:
                pass

    def lock(self):
        descriptor = os.open(self.module, os.O_RDONLY)
        self.kept.append(descriptor)
        libc.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # struct flock: a read lock of the whole file.
        whole = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0)
        for command in (fcntl.F_SETLK, F_OFD_SETLK):
            try:
                fcntl.fcntl(descriptor, command, whole)
            except OSError:
                pass

    def hold_removed(self):
        for name in ("removed", "mapped"):
            path = os.path.join(self.own, name)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            os.ftruncate(descriptor, self.options["disk_bytes"])
            os.unlink(path)
            if name == "mapped":
                libc.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0))
                os.close(descriptor)

    def own_file(self, name):
        path = os.path.join(self.own, name)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        return path

    def linked(self, target):
        path = os.path.join(self.own, "link")
        os.symlink(target, path)
        return path

    def renames(self, source, target):
        os.rename(source, target)
        os.rename(target, source)
        return True

    def links(self, source, target):
        os.link(source, target)
        os.unlink(target)
        return True

    def emptied(self, path, mode):
        """Whether the file is empty after an opening of this mode with O_TRUNC."""
        os.close(os.open(path, mode | os.O_TRUNC))
        return os.stat(path).st_size == 0


def execute(program):
    """Starts another program in place of this one; returns only if that is refused."""
    path = os.fsencode(program)
    arguments = (ctypes.c_char_p * 3)(path, b"--version", None)
    libc.execve(path, arguments, (ctypes.c_char_p * 1)(None))


def loader():
    """The loader of shared libraries, which can be started and lies among the readable libraries."""
    with open("/proc/self/maps") as file:
        paths = [line.split(maxsplit=5)[-1].strip() for line in file]
    return next((path for path in paths if os.path.basename(path).startswith("ld-")), "/bin/true")


def is_refused(action):
    try:
        return not action()
    except OSError:
        return True


def read(path):
    with open(path, "rb") as file:
        return file.read(1 << 16).decode("utf-8", "replace")


def done(result):
    return check(result, "attempt") >= 0


def opened(path, flags):
    os.close(os.open(path, flags))
    return True


def made(path, flags):
    os.close(os.open(path, flags, 0o600))
    return True


def closes(descriptor):
    os.close(check(descriptor, "attempt"))
    return True


def through(path, action):
    """Acts on a descriptor that was opened for reading."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return done(action(descriptor))
    finally:
        os.close(descriptor)
