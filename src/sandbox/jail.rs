//! The walls: the four guarantees, the mechanisms that stand for each, and the system calls that model code may make.
//! `jail.py` raises the walls inside the interpreter; this file decides what is enough.

use std::collections::BTreeMap;
use std::fmt;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

use super::SandboxError;

/// What the sandbox promises about model code. Each is held by several mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guarantee {
    /// It reads only its own images and the Python modules.
    Reads,
    /// It has no network.
    Network,
    /// It makes no processes and signals none.
    Processes,
    /// Time, memory, disk and output are bounded.
    Bounds,
}

impl Guarantee {
    /// All four, in the order of reports.
    pub const ALL: [Guarantee; 4] = [Guarantee::Reads, Guarantee::Network, Guarantee::Processes, Guarantee::Bounds];

    /// The word that names the guarantee in recipes and reports.
    pub fn key(self) -> &'static str {
        match self {
            Guarantee::Reads => "reads",
            Guarantee::Network => "network",
            Guarantee::Processes => "processes",
            Guarantee::Bounds => "bounds",
        }
    }

    /// The promise as a sentence.
    pub fn promise(self) -> &'static str {
        match self {
            Guarantee::Reads => "model code reads only its own images and the modules",
            Guarantee::Network => "model code has no network",
            Guarantee::Processes => "model code makes no processes and signals none",
            Guarantee::Bounds => "the time, memory, disk and output of model code are bounded",
        }
    }
}

/// Which mechanisms stand for which guarantee on this machine, as a trial session found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walls {
    standing: BTreeMap<Guarantee, Vec<String>>,
}

impl Walls {
    /// From (guarantee, mechanism) pairs; unknown guarantees are left out. The watchdog stands always: it is ours.
    pub(super) fn new<'a>(raised: impl IntoIterator<Item = (&'a str, &'a str)>) -> Walls {
        let mut walls = Walls::default();
        for (key, mechanism) in raised {
            if let Some(guarantee) = Guarantee::ALL.into_iter().find(|guarantee| guarantee.key() == key) {
                walls.standing.entry(guarantee).or_default().push(mechanism.to_owned());
            }
        }
        walls.standing.entry(Guarantee::Bounds).or_default().push("watchdog".to_owned());
        walls
    }

    /// The mechanisms that hold a guarantee; empty where nothing does.
    pub fn of(&self, guarantee: Guarantee) -> &[String] {
        self.standing.get(&guarantee).map_or(&[], Vec::as_slice)
    }

    /// The guarantees that nothing holds here.
    pub fn fallen(&self) -> Vec<Guarantee> {
        Guarantee::ALL.into_iter().filter(|&guarantee| self.of(guarantee).is_empty()).collect()
    }

    /// Refuses where a guarantee has no mechanism left and nobody consented to its absence.
    pub(super) fn judge(&self, consent: &[Guarantee]) -> Result<(), SandboxError> {
        match self.fallen().into_iter().find(|guarantee| !consent.contains(guarantee)) {
            Some(guarantee) => Err(SandboxError::NoWall { guarantee }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Walls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (row, guarantee) in Guarantee::ALL.into_iter().enumerate() {
            let mechanisms = self.of(guarantee);
            let held = if mechanisms.is_empty() { "NOTHING".to_owned() } else { mechanisms.join(", ") };
            let end = if row + 1 < Guarantee::ALL.len() { "\n" } else { "" };
            write!(formatter, "{:<10} {held}{end}", guarantee.key())?;
        }
        Ok(())
    }
}

/// The seccomp program as the bytes of `struct sock_filter[]`: the calls below are allowed, all others give EPERM. Empty on
/// an architecture that the compiler of filters does not know.
pub(super) fn seccomp_program() -> Result<Vec<u8>, SandboxError> {
    let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(Vec::new()) };
    let failed = |error: &dyn fmt::Display| SandboxError::Seccomp { reason: error.to_string() };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED_CALLS.iter().map(|&call| (call, Vec::new())).collect();
    rules.extend(ALLOWED_CALLS_OF_X86.iter().map(|&call| (call, Vec::new())));
    // Limits may be read, not changed: the new limit (third argument) must be null.
    let null =
        SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0).map_err(|error| failed(&error))?;
    let read_only = SeccompRule::new(vec![null]).map_err(|error| failed(&error))?;
    rules.insert(libc::SYS_prlimit64, vec![read_only]);
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let filter =
        SeccompFilter::new(rules, refusal, SeccompAction::Allow, architecture).map_err(|error| failed(&error))?;
    let program: BpfProgram = filter.try_into().map_err(|error: seccompiler::BackendError| failed(&error))?;
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
        bytes.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    Ok(bytes)
}

/// What numpy, OpenCV, Pillow and plain Python need. Absent on purpose: sockets, processes and threads, signals to others,
/// ptrace, mounts, namespaces, keys, io_uring, memfd (memory that no limit counts), changes of limits.
const ALLOWED_CALLS: &[i64] = &[
    // Files and folders.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_openat,
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
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
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
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_membarrier,
    // Itself.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_getrusage,
    libc::SYS_getpriority,
    libc::SYS_times,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_futex,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Its own signal handlers and time.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
];

/// The older spellings of calls above, which only x86-64 has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_CALLS_OF_X86: &[i64] = &[
    libc::SYS_open,
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
    fn a_guarantee_without_a_mechanism_needs_consent() {
        let walls = Walls::new([("reads", "Landlock"), ("processes", "seccomp"), ("nonsense", "x")]);
        assert_eq!(walls.fallen(), [Guarantee::Network]);
        let refusal = walls.judge(&[Guarantee::Reads]).unwrap_err().to_string();
        assert!(
            refusal.contains("model code has no network") && refusal.contains(r#"consent = ["network"]"#),
            "{refusal}"
        );
        assert!(walls.judge(&[Guarantee::Network]).is_ok());
        assert!(walls.to_string().contains("network    NOTHING"));
    }

    #[test]
    fn the_seccomp_program_fits_the_kernel() {
        let bytes = seccomp_program().unwrap();
        assert!(bytes.len().is_multiple_of(8) && bytes.len() / 8 <= 4096, "{} bytes", bytes.len());
    }
}
