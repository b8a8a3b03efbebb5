//! The four guarantees: what the sandbox promises about model code, and the tries to break it that tell whether each holds.

use serde::{Deserialize, Serialize};

/// What the sandbox promises about model code. Each is held by several mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guarantee {
    /// It reads only its own images and the Python modules, and changes only its own folder.
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
            Guarantee::Reads => "model code reads only its own images and the modules, and changes only its own folder",
            Guarantee::Network => "model code has no network",
            Guarantee::Processes => "model code makes no processes and signals none",
            Guarantee::Bounds => "the time, memory, disk and output of model code are bounded",
        }
    }
}

/// One try to break a wall from inside, when the sandbox started.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Attempt {
    /// The guarantee that the try would have broken.
    pub guarantee: Guarantee,
    /// What was tried: a verb and its object.
    pub name: String,
    /// Whether it had no effect.
    pub refused: bool,
}
