//! What bounds model code, and what a sandbox may use and do without.

use std::path::PathBuf;
use std::time::Duration;

use super::guarantee::Guarantee;
use super::jail::Offered;

/// What bounds the code, and which missing guarantees are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxOptions {
    /// Wall time of one run.
    pub timeout: Duration,
    /// Address space that a session may add to the interpreter's own.
    pub memory_bytes: u64,
    /// Bytes of all files that a session holds at once.
    pub disk_bytes: u64,
    /// Characters of printed text kept per run; the rest is counted and cut.
    pub output_characters: usize,
    /// Images that one run may give back.
    pub images: usize,
    /// Bytes of pixels (three each) of the images that one run may give back, in all.
    pub image_bytes: u64,
    /// Further folders that may be read, by their real paths; modules in them can be imported.
    pub read: Vec<PathBuf>,
    /// Guarantees whose absence is accepted.
    pub consent: Vec<Guarantee>,
    /// As root, become this user before any wall is raised: the sandbox then has the rights of an ordinary user.
    pub as_user: Option<u32>,
    /// The walls as if the kernel offered no more than these.
    pub offered: Offered,
}

impl Default for SandboxOptions {
    fn default() -> SandboxOptions {
        SandboxOptions {
            timeout: Duration::from_secs(10),
            memory_bytes: 1 << 30,
            disk_bytes: 64 << 20,
            output_characters: 64 << 10,
            images: 16,
            image_bytes: 256 << 20,
            read: Vec::new(),
            consent: Vec::new(),
            as_user: None,
            offered: Offered::default(),
        }
    }
}
