//! What a process of the sandbox is set up with, before any code.

use std::os::fd::BorrowedFd;

use serde_json::Value;

use super::zygote::Kind;

/// The set-up of a process.
pub(super) struct SetUp<'a> {
    /// What it is for.
    pub(super) kind: Kind,
    /// At least the `name` under which it finds its file, and the file's length, `file_bytes`.
    pub(super) header: Value,
    /// The file is its start.
    pub(super) memory: BorrowedFd<'a>,
}
