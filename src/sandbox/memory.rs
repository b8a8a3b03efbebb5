//! Sealed memory, whose descriptor crosses the connection to a process of the jail: how it gets its file. Nobody can change it, wherever it is open.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// New memory of this name, empty, to be written as a file.
pub(super) fn unsealed(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// The memory with what was written, which stays as it is.
pub(super) fn sealed(memory: File) -> io::Result<OwnedFd> {
    fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory.into())
}
