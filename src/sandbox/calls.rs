//! The system calls that model code may make, and with which arguments, as seccomp programs. `jail.py` raises them.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::error::SandboxError;

/// The programs, each as the bytes of `struct sock_filter[]`. All are empty on an architecture that the compiler of filters
/// does not know.
pub(super) struct Programs {
    /// What is allowed; every other call gives EPERM.
    pub(super) allowed: Vec<u8>,
    /// Locks succeed without effect: a session is alone with its files, and others share the modules' files with it.
    pub(super) locks: Vec<u8>,
    /// What changes or reads the attributes of any file of the same user gives EPERM: for sessions that see the host's folders.
    pub(super) attributes: Vec<u8>,
}

/// Rules of a filter, by the number of the call; a call without rules matches whatever its arguments are.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Compiles the programs for this machine; empty ones where seccomp is not offered.
pub(super) fn programs(offered: bool) -> Result<Programs, SandboxError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).ok().filter(|_| offered);
    let Some(architecture) = architecture else {
        return Ok(Programs { allowed: Vec::new(), locks: Vec::new(), attributes: Vec::new() });
    };
    let compile = |rules: Result<Rules, seccompiler::BackendError>, on_match, otherwise| {
        let filter = rules.and_then(|rules| SeccompFilter::new(rules, otherwise, on_match, architecture));
        let program = filter.and_then(BpfProgram::try_from);
        program.map(bytes_of).map_err(|error| SandboxError::Seccomp { reason: error.to_string() })
    };
    let (allow, refuse) = (SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32));
    Ok(Programs {
        allowed: compile(allowed(), allow.clone(), refuse.clone())?,
        locks: compile(locks(), SeccompAction::Errno(0), allow.clone())?,
        attributes: compile(attributes(), refuse, allow)?,
    })
}

fn bytes_of(program: BpfProgram) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
        bytes.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    bytes
}

/// The argument is this 32-bit value.
fn is(argument: u8, value: i64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value as u32 as u64)
}

/// The argument's bits under the mask are these.
fn masked(argument: u8, mask: i64, value: i64) -> Result<SeccompCondition, seccompiler::BackendError> {
    let mask = SeccompCmpOp::MaskedEq(mask as u32 as u64);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, mask, value as u32 as u64)
}

/// One rule for each value that the argument may have.
fn one_of(argument: u8, values: &[i64]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values.iter().map(|&value| SeccompRule::new(vec![is(argument, value)?])).collect()
}

/// What a futex may be used for: waiting and waking within the process.
const FUTEX_OPERATIONS: [i32; 7] = [
    libc::FUTEX_WAIT,
    libc::FUTEX_WAKE,
    libc::FUTEX_REQUEUE,
    libc::FUTEX_CMP_REQUEUE,
    libc::FUTEX_WAKE_OP,
    libc::FUTEX_WAIT_BITSET,
    libc::FUTEX_WAKE_BITSET,
];

fn allowed() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ALLOWED_CALLS.iter().chain(ALLOWED_CALLS_OF_X86).map(|&call| (call, Vec::new())).collect();
    let mut add = |call: i64, call_rules: Vec<SeccompRule>| drop(rules.insert(call, call_rules));
    let rule = SeccompRule::new;

    // Opening for neither reading nor writing (3) is no access to Landlock, and truncates all the same; a read-only opening that
    // truncates is reading to Landlock before version 3.
    let opening = |flags: u8| {
        let (mode, truncate) = (i64::from(libc::O_ACCMODE), i64::from(libc::O_TRUNC));
        Ok(vec![
            rule(vec![masked(flags, mode | truncate, i64::from(libc::O_RDONLY))?])?,
            rule(vec![masked(flags, mode, i64::from(libc::O_WRONLY))?])?,
            rule(vec![masked(flags, mode, i64::from(libc::O_RDWR))?])?,
        ])
    };
    add(libc::SYS_openat, opening(2)?);
    #[cfg(target_arch = "x86_64")]
    add(libc::SYS_open, opening(1)?);

    // No signals of files to others (F_SETOWN, F_SETSIG, O_ASYNC), no leases, no notices, no larger pipes. Locks are in `locks`.
    let mut control = one_of(
        1,
        &[
            libc::F_DUPFD,
            libc::F_DUPFD_CLOEXEC,
            libc::F_GETFD,
            libc::F_SETFD,
            libc::F_GETFL,
            libc::F_SETLK,
            libc::F_SETLKW,
            libc::F_OFD_SETLK,
            libc::F_OFD_SETLKW,
        ]
        .map(i64::from),
    )?;
    control.push(rule(vec![is(1, libc::F_SETFL.into())?, masked(2, libc::O_ASYNC.into(), 0)?])?);
    add(libc::SYS_fcntl, control);
    let requests =
        [libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX, libc::FIONCLEX, libc::FICLONE];
    add(libc::SYS_ioctl, one_of(1, &requests.map(|request| request as i64))?);
    add(libc::SYS_pipe2, vec![rule(vec![masked(1, !i64::from(libc::O_CLOEXEC | libc::O_NONBLOCK), 0)?])?]);

    // No huge pages of the pool that the whole machine shares, no advice that acts on pages of others.
    add(libc::SYS_mmap, vec![rule(vec![masked(3, libc::MAP_HUGETLB.into(), 0)?])?]);
    let advice = [
        libc::MADV_NORMAL,
        libc::MADV_RANDOM,
        libc::MADV_SEQUENTIAL,
        libc::MADV_WILLNEED,
        libc::MADV_DONTNEED,
        libc::MADV_FREE,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_DONTDUMP,
        libc::MADV_DODUMP,
    ];
    add(libc::SYS_madvise, one_of(2, &advice.map(i64::from))?);
    let waits = FUTEX_OPERATIONS.map(|operation| rule(vec![masked(1, 0x7f, operation.into())?]));
    add(libc::SYS_futex, waits.into_iter().collect::<Result<_, _>>()?);

    // Of itself only: limits are read, never set (the new limit is null); clocks below 0 are those of other processes.
    let null = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    add(libc::SYS_prlimit64, vec![rule(vec![is(0, 0)?, null])?]);
    for call in [libc::SYS_getpgid, libc::SYS_getsid, libc::SYS_sched_getaffinity] {
        add(call, one_of(0, &[0])?);
    }
    add(libc::SYS_getpriority, vec![rule(vec![is(0, libc::PRIO_PROCESS.into())?, is(1, 0)?])?]);
    for call in [libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep] {
        add(call, vec![rule(vec![masked(0, 1 << 31, 0)?])?]);
    }
    Ok(rules)
}

fn locks() -> Result<Rules, seccompiler::BackendError> {
    let commands = [libc::F_SETLK, libc::F_SETLKW, libc::F_OFD_SETLK, libc::F_OFD_SETLKW].map(i64::from);
    Ok(Rules::from([(libc::SYS_flock, Vec::new()), (libc::SYS_fcntl, one_of(1, &commands)?)]))
}

fn attributes() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ATTRIBUTE_CALLS.iter().map(|&call| (call, Vec::new())).collect();
    // A file without a name; Python makes one with a name instead.
    let temporary = |flags: u8| masked(flags, libc::O_TMPFILE.into(), libc::O_TMPFILE.into());
    rules.insert(libc::SYS_openat, vec![SeccompRule::new(vec![temporary(2)?])?]);
    #[cfg(target_arch = "x86_64")]
    {
        rules.extend([libc::SYS_chmod, libc::SYS_utimes].map(|call| (call, Vec::new())));
        rules.insert(libc::SYS_open, vec![SeccompRule::new(vec![temporary(1)?])?]);
    }
    Ok(rules)
}

/// The calls above that act on a file by its name, or by a descriptor that was opened for reading.
const ATTRIBUTE_CALLS: &[i64] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_truncate,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
];

/// What numpy, OpenCV, Pillow and plain Python need, whatever the arguments; `allowed` adds those that depend on them. Absent on
/// purpose: sockets, processes and threads, signals to others, ptrace, mounts, namespaces, keys, io_uring, memfd and System V
/// memory (which no limit counts), owners and attributes of files, changes of limits.
const ALLOWED_CALLS: &[i64] = &[
    // Files and folders.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_umask,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_sendfile,
    libc::SYS_copy_file_range,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_msync,
    // Itself.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Its own signal handlers and time.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
];

/// The older spellings of calls above, which only x86-64 has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_CALLS_OF_X86: &[i64] = &[
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_readlink,
    libc::SYS_chmod,
    libc::SYS_utimes,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_time,
    libc::SYS_getpgrp,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_CALLS_OF_X86: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seccomp_programs_fit_the_kernel() {
        let Programs { allowed, locks, attributes } = programs(true).unwrap();
        for program in [&allowed, &locks, &attributes] {
            assert!(program.len().is_multiple_of(8) && program.len() / 8 <= 4096, "{} bytes", program.len());
        }
        assert!(allowed.len() > locks.len());
    }
}
