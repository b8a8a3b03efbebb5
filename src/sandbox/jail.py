"""The walls, as system calls through ctypes: the zygote raises those of the whole jail once, every session raises its own.

Each wall is a function that raises OSError where the kernel does not offer it. `calls.rs` compiles the seccomp programs, `probe.py`
tries to break the walls, `jail.rs` judges what holds.
"""
import ctypes
import errno
import fcntl
import functools
import os
import resource
import stat
import struct

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE, MNT_DETACH = 16384, 1 << 18, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 4, 22, 24, 38, 47
# Landlock's rights.
WRITE_FILE, READ_FILE, READ_FOLDER = 1 << 1, 1 << 2, 1 << 3
NOBODY = 65534
# Where model code finds its files; Thyme's prompts and checkpoints use this place.
DATA = "/mnt/data"
# The folders at the top of every Linux: the jail's root has those of the host, in name only.
TOP_FOLDERS = "bin boot dev etc home lib lib32 lib64 libx32 media mnt opt proc root run sbin srv sys tmp usr var".split()
# The sessions of root are users of their own, from this number on. No one else has such a number.
SESSION_USERS = range(2_000_000_000, 2_100_000_000)
# Fewer than this are not enough for sessions side by side.
SESSION_USERS_MIN = 1000


def check(result, what):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def text(value):
    return None if value is None else os.fsencode(value)


def mount(source, target, kind, flags, data=None):
    check(libc.mount(text(source), text(target), text(kind), ctypes.c_ulong(flags), text(data)), f"mount {target}")


def unshare(flags):
    check(libc.unshare(ctypes.c_int(flags)), "unshare")


def prctl(option, *arguments):
    values = [ctypes.c_ulong(value) for value in arguments] + [ctypes.c_ulong(0)] * (4 - len(arguments))
    return check(libc.prctl(ctypes.c_int(option), *values), f"prctl {option}")


def possible(action):
    """Whether `action` succeeds, tried in a process that is thrown away."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            pass
        os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def enter_user_namespace():
    """Full rights over new namespaces, for one who has none: the caller's own user appears as nobody."""
    user, group = os.getuid(), os.getgid()
    prctl(PR_SET_DUMPABLE, 1)
    unshare(CLONE_NEWUSER)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {user} 1"), ("gid_map", f"{NOBODY} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def bind_read_only(source, target):
    mount(source, target, None, MS_BIND | MS_REC)
    try:
        # mount_setattr with AT_RECURSIVE: read-only, no set-user-id.
        attributes = struct.pack("=QQQQ", 1 | 2, 0, 0, 0)
        check(libc.syscall(442, -100, text(target), 0x8000, attributes, len(attributes)), "mount_setattr")
    except OSError:
        try:
            kept = os.statvfs(target).f_flag
            flags = kept & (MS_NOSUID | MS_NODEV | MS_NOEXEC | 1024 | 2048) | (1 << 21 if kept & 4096 else 0)
            mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | flags)
        except OSError:
            libc.umount2(text(target), MNT_DETACH)
            raise


def copy_shape(source, target):
    """An empty place of the same kind as `source`. All may pass through its parents, and none may list them."""
    missing = []
    parent = os.path.dirname(target)
    while not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    for parent in reversed(missing):
        os.mkdir(parent, 0o111)
    if os.path.isdir(source):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))


def enter_mount_namespace(new_root, readable):
    """A root that holds the modules, read-only, and `/mnt/data`; every other usual folder is there in name only, mode 0."""
    unshare(CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("thyme-jail", new_root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in readable + ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]:
        if os.path.exists(path):
            try:
                copy_shape(path, new_root + path)
                bind_read_only(path, new_root + path)
            except OSError:
                pass
    os.makedirs(new_root + DATA, 0o755, exist_ok=True)
    for name in TOP_FOLDERS:
        place = os.path.join(new_root, name)
        if os.path.islink("/" + name):
            if not os.path.lexists(place):
                os.symlink(os.readlink("/" + name), place)
        elif os.path.isdir("/" + name) and not os.path.exists(place):
            os.mkdir(place, 0)
    os.chmod(new_root, 0o111)
    mount(None, new_root, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(new_root)
    if libc.pivot_root(b".", b".") == 0:
        check(libc.umount2(b".", MNT_DETACH), "umount the old root")
    else:
        # The capability that leaves a chroot is dropped in every session.
        os.chroot(".")
    os.chdir("/")


def users_of_sessions():
    """The ids that sessions take as users and groups: far above those of people, or, in a user namespace with fewer, the upper half of its
    largest range. None where there are too few."""
    ranges = []
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}") as file:
            mapped = [[int(number) for number in line.split()] for line in file]
        ranges.append([range(first, first + count) for first, _, count in mapped])
    users, groups = ranges
    if all(any(SESSION_USERS[0] in mapped and SESSION_USERS[-1] in mapped for mapped in both) for both in ranges):
        return SESSION_USERS
    shared = [range(max(user.start, group.start), min(user.stop, group.stop)) for user in users for group in groups]
    largest = max(shared, key=len, default=range(0))
    upper = largest[len(largest) // 2:]
    return upper if len(upper) >= SESSION_USERS_MIN else None


class Jail:
    """What this process and its sessions do to shut themselves in; `raised` lists (guarantee, mechanism)."""

    def __init__(self, options, readable):
        self.options = options
        self.readable = [path for path in readable if os.path.exists(path)]
        self.seccomp = {name: bytes.fromhex(program) for name, program in options["seccomp"].items()}
        self.has_mounts = self.has_pid_namespace = False
        self.is_parent = True
        self.pid_namespace = None
        self.raised = []
        self.landlock_version = min(max(0, libc.syscall(444, None, 0, 1)), options["offered"]["landlock"])
        with open("/proc/self/statm") as file:
            self.own_bytes = int(file.read().split()[0]) * resource.getpagesize()

    def enter(self):
        """The walls around the zygote and all sessions. Returns in a new process, which is pid 1 of its own namespace if it can be."""
        as_user = self.options["as_user"]
        if as_user is not None and os.getuid() == 0:
            os.setgroups([])
            os.setresgid(as_user, as_user, as_user)
            os.setresuid(as_user, as_user, as_user)
        self.users = users_of_sessions()
        # Root of a namespace with hardly any users cannot give each session its own: it is shut in like anybody else.
        self.is_root = os.geteuid() == 0 and self.users is not None
        new_root, readable, offered = self.options["new_root"], self.readable, self.options["offered"]
        direct = self.is_root and offered["namespaces_of_root"] and possible(lambda: unshare(CLONE_NEWNS))
        mount_as_nobody = lambda: (enter_user_namespace(), unshare(CLONE_NEWNS), mount("x", new_root, "tmpfs", 0))
        as_nobody = not direct and offered["user_namespaces"] and possible(mount_as_nobody)
        self.is_root = self.is_root and not as_nobody
        self.start_stranger()
        if as_nobody:
            enter_user_namespace()
            self.raised.append(("processes", "user namespace"))
        elif not direct:
            return
        if possible(lambda: unshare(CLONE_NEWNET)):
            unshare(CLONE_NEWNET)
            self.raised.append(("network", "network namespace"))
        for flag in (CLONE_NEWIPC, CLONE_NEWUTS):
            if possible(lambda: unshare(flag)):
                unshare(flag)
        # The host looks at a session that has no mounts of its own, so it must know its process by the number that it has there.
        has_mounts = possible(lambda: enter_mount_namespace(new_root, readable))
        if has_mounts and possible(lambda: unshare(CLONE_NEWPID)):
            unshare(CLONE_NEWPID)
            self.become_first_process()
            # Opened before the root changes: /proc is not in the jail.
            try:
                self.pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                pass
            self.has_pid_namespace = self.pid_namespace is not None and possible(self.renew_pid_namespace)
            self.raised.append(("processes", "pid namespace"))
        if has_mounts:
            enter_mount_namespace(new_root, readable)
            self.has_mounts = True
            self.raised += [("reads", "mount namespace"), ("bounds", "tmpfs of fixed size")]

    def start_stranger(self):
        """A process outside all walls, of the user that the trial session is: it waits until `stranger_wire` is closed."""
        reading, self.stranger_wire = os.pipe()
        self.stranger = os.fork()
        if self.stranger == 0:
            os.closerange(0, reading)
            os.closerange(reading + 1, 256)
            if self.is_root:
                take_user(self.users[0])
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)

    def end_stranger(self):
        os.close(self.stranger_wire)
        if self.is_parent:
            os.waitpid(self.stranger, 0)

    def become_first_process(self):
        """Goes on in the first process of the new pid namespace; the one left behind only waits, and dies with it."""
        pid = os.fork()
        if pid == 0:
            prctl(PR_SET_PDEATHSIG, 9)
            self.is_parent = False
            return
        os.closerange(0, 256)
        while os.waitpid(-1, 0)[0] != pid:
            pass
        self.remove_folder()
        os._exit(0)

    def remove_folder(self):
        """The folder on the host, for a host that ended without removing it. Links in it are not followed."""
        remove_tree(os.path.dirname(self.options["new_root"]))

    def hide(self, path):
        """Takes a file that was readable for the trial from the sessions to come."""
        self.readable.remove(path)
        if self.has_mounts and os.path.ismount(path):
            check(libc.umount2(text(path), MNT_DETACH), "umount")

    def renew_pid_namespace(self):
        """The next fork is pid 1 of a namespace of its own."""
        check(libc.setns(self.pid_namespace, CLONE_NEWPID), "setns")
        unshare(CLONE_NEWPID)

    def fork(self):
        if self.has_pid_namespace:
            self.renew_pid_namespace()
        return os.fork()

    def part_from_others(self, number):
        """All of a session's own that can be had before its input is known: mounts, the names of its folders, Landlock's rules for the modules."""
        if self.has_mounts:
            unshare(CLONE_NEWNS)
        self.data = DATA if self.has_mounts else os.path.join(self.options["scratch_root"], str(number))
        self.inputs, self.outputs = os.path.join(self.data, "input"), os.path.join(self.data, "temp_processed_images")
        if self.landlock_version > 0:
            self.ruleset = self.landlock_of_modules()

    def make_scratch(self, number, name, memory, length):
        """Makes the session's own folders and gives the path of the input image, whose file is the start of `memory`, a descriptor. The image
        is read-only where a mount can hold it so."""
        user = self.session_user(number)
        if self.has_mounts:
            size = self.options["disk_bytes"] + length + (1 << 16)
            mount("scratch", self.data, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"size={size},nr_inodes=4096,mode=755")
        else:
            os.mkdir(self.data, 0o755)
        os.mkdir(self.inputs, 0o755)
        os.mkdir(self.outputs, 0o700)
        image_path = os.path.join(self.inputs, name)
        with open(image_path, "xb", buffering=0) as file:
            copy_start(memory, file.fileno(), length)
        os.chmod(image_path, 0o444)
        if self.has_mounts:
            bind_read_only(self.inputs, self.inputs)
        if user is not None:
            os.chown(self.outputs, user, user)
        if not self.has_mounts:
            spare_own_files(self.outputs)
        return image_path

    def session_user(self, number):
        """As root, every session is a user of its own."""
        return self.users[number % len(self.users)] if self.is_root else None

    def shut(self, number):
        """The walls around one session, after which nothing but model code runs. Returns what was raised."""
        raised = []
        options = self.options
        limits = [
            (resource.RLIMIT_AS, self.own_bytes + options["memory_bytes"]),
            (resource.RLIMIT_FSIZE, options["disk_bytes"]),
            (resource.RLIMIT_CPU, options["cpu_seconds"]),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NPROC, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
        ]
        for limit, value in limits:
            hard = resource.getrlimit(limit)[1]
            value = value if hard < 0 else min(value, hard)
            resource.setrlimit(limit, (value, value))
        raised.append(("bounds", "rlimits"))
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        if self.is_root:
            raised += self.leave_root(number)
        self.drop_capabilities()
        # A change of user clears it, so it comes after.
        prctl(PR_SET_PDEATHSIG, 9)
        # The host reads the open files of a session whose disk no tmpfs bounds; other sessions have no call to read them with.
        prctl(PR_SET_DUMPABLE, 0 if self.has_mounts else 1)
        if self.landlock_version > 0:
            raised += self.raise_landlock()
        raised += self.raise_seccomp()
        return raised

    def leave_root(self, number):
        for user in (self.session_user(number), NOBODY):
            if take_user(user):
                return [("reads", "own user id"), ("processes", "own user id")]
        return []

    def drop_capabilities(self):
        for capability in range(64):
            if libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
                break
        try:
            prctl(PR_CAP_AMBIENT, 4)
        except OSError:
            pass
        header, data = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", 0, 0, 0, 0, 0, 0)
        check(libc.capset(header, data), "capset")

    def landlock_files(self):
        """The rights over files and folders that this version of Landlock knows."""
        version, files = self.landlock_version, (1 << 13) - 1
        return files | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0) | (1 << 15 if version >= 5 else 0)

    def landlock_of_modules(self):
        """A ruleset that lets the modules and four devices be read."""
        version = self.landlock_version
        attributes = struct.pack("=QQQ", self.landlock_files(), 3 if version >= 4 else 0, 3 if version >= 6 else 0)
        size = 8 if version < 4 else 16 if version < 6 else 24
        ruleset = libc.syscall(444, attributes[:size], ctypes.c_size_t(size), 0)
        check(ruleset, "landlock_create_ruleset")
        places = [(path, READ_FILE | READ_FOLDER) for path in self.readable]
        places += [(path, READ_FILE | WRITE_FILE) for path in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")]
        add_rules(ruleset, places)
        return ruleset

    def raise_landlock(self):
        version = self.landlock_version
        # All but execute, devices and sockets.
        write = self.landlock_files() & ~(1 | 1 << 6 | 1 << 9 | 1 << 11 | 1 << 15)
        add_rules(self.ruleset, [(self.inputs, READ_FILE | READ_FOLDER), (self.outputs, write)])
        # From version 7 on the kernel would log each refusal: hostile code must not fill the log.
        check(libc.syscall(446, self.ruleset, 1 if version >= 7 else 0), "landlock_restrict_self")
        os.close(self.ruleset)
        raised = [("reads", f"Landlock (version {version})")]
        if version >= 4:
            raised.append(("network", "Landlock"))
        if version >= 6:
            raised.append(("processes", "Landlock scopes"))
        return raised

    def raise_seccomp(self):
        # The first program forbids to raise another, so it comes last.
        for name in ["locks"] + ([] if self.has_mounts else ["attributes"]) + ["allowed"]:
            if not self.seccomp[name]:
                return []
            program = ctypes.create_string_buffer(self.seccomp[name])
            header = struct.pack("HxxxxxxP", len(self.seccomp[name]) // 8, ctypes.addressof(program))
            if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), header, 0, 0) < 0:
                return []
        raised = [("network", "seccomp"), ("processes", "seccomp"), ("bounds", "seccomp")]
        return raised + ([] if self.has_mounts else [("reads", "seccomp")])


def add_rules(ruleset, places):
    """Adds to a ruleset of Landlock what is allowed at these paths, each with what lies below it. Those that are not there are left out."""
    for path, access in places:
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            access &= 1 | WRITE_FILE | READ_FILE | 1 << 14
        check(libc.syscall(445, ruleset, 1, struct.pack("=Qi", access, folder), 0), "landlock_add_rule")
        os.close(folder)


def copy_start(source, target, length):
    """Copies the first bytes of a file into another."""
    done = 0
    while done < length:
        copied = os.sendfile(target, source, done, length - done)
        if copied == 0:
            raise OSError(errno.EIO, "the picture's memory is shorter than it was said to be")
        done += copied


def remove_tree(folder):
    """Removes a folder in which nobody changes anything any more; links in it are not followed. What a folder inside it holds is first
    moved up, so that neither a path nor the stack grows with the depth. Ends where something cannot be removed."""
    moved, deeper = 0, True
    is_folder = lambda path: stat.S_ISDIR(os.lstat(path).st_mode)
    try:
        while deeper:
            deeper = False
            for path in [os.path.join(folder, name) for name in os.listdir(folder)]:
                if not is_folder(path):
                    os.unlink(path)
                    continue
                deeper = True
                os.chmod(path, 0o700)
                for inner in [os.path.join(path, name) for name in os.listdir(path)]:
                    if not is_folder(inner):
                        os.unlink(inner)
                        continue
                    # A folder that moves gets a new parent, which its own mode must permit.
                    os.chmod(inner, 0o700)
                    while os.path.lexists(target := os.path.join(folder, f"moved-{moved}")):
                        moved += 1
                    os.rename(inner, target)
                os.rmdir(path)
        os.rmdir(folder)
    except OSError:
        pass


def take_user(user):
    """Becomes this user for good; whether it could, and is not root."""
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError:
        return False
    return os.geteuid() != 0


def spare_own_files(folder):
    """Lets code that sets modes, times or lengths of its own files go on where seccomp refuses those calls for all files: modes and times
    stay as they are, a length is set through a descriptor. Files outside are refused as before."""
    real_folder = os.path.realpath(folder) + "/"

    def is_own(path):
        if isinstance(path, int):
            # Only files of its own can be open for writing.
            return fcntl.fcntl(path, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        return (os.path.realpath(os.fsdecode(path)) + "/").startswith(real_folder)

    def spare(call):
        @functools.wraps(call)
        def spared(path, *arguments, **named):
            try:
                return call(path, *arguments, **named)
            except PermissionError:
                if not is_own(path):
                    raise
                os.stat(path)
                return None

        return spared

    def truncate(path, length):
        if isinstance(path, int):
            return os.ftruncate(path, length)
        descriptor = os.open(path, os.O_WRONLY)
        try:
            return os.ftruncate(descriptor, length)
        finally:
            os.close(descriptor)

    for name in ("chmod", "fchmod", "utime"):
        setattr(os, name, spare(getattr(os, name)))
    os.truncate = truncate
    os.listxattr = lambda path=None, *, follow_symlinks=True: []
