//! What is remembered of a check, in the user's cache folder, and who may trust it: a record is one device's, with one driver and one build
//! of the kernels. What cannot be read counts as no record.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Report;
use crate::files::open::{SETTINGS_BYTES_MAX, append_own, read_text, replace};

/// What a record is about; it holds for nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The device in words.
    pub device: String,
    /// Its UUID.
    pub uuid: String,
    /// The driver's version.
    pub driver: String,
    /// A hash of the kernels.
    pub kernels: String,
    /// The program's version.
    pub program: String,
}

/// A record of a check.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Record {
    identity: Identity,
    /// Seconds since 1970.
    checked_at: u64,
    seconds: f64,
    checks: usize,
    not_run: usize,
    /// A line for each check that failed.
    faults: Vec<String>,
}

/// What is known of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing.
    Unchecked,
    /// It did all that it was asked.
    Passed,
    /// It did not; the first fault.
    Failed(String),
}

impl Identity {
    /// The file of its record.
    pub fn path(&self, cache: &Path) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.device, &self.uuid, &self.driver, &self.kernels, &self.program] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        cache.join("doctor").join(format!("{}.json", &hasher.finalize().to_hex()[..32]))
    }

    /// What its record says.
    pub fn verdict(&self, cache: &Path) -> Verdict {
        let record = read_text(&self.path(cache), SETTINGS_BYTES_MAX).ok();
        let record: Option<Record> = record.and_then(|text| serde_json::from_str(&text).ok());
        match record {
            Some(record) if record.identity == *self => match record.faults.into_iter().next() {
                None if record.not_run == 0 && record.checks > 0 => Verdict::Passed,
                None => Verdict::Unchecked,
                Some(fault) => Verdict::Failed(fault),
            },
            _ => Verdict::Unchecked,
        }
    }

    /// Remembers what came of a check; gives the file.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn remember(&self, cache: &Path, report: &Report) -> io::Result<PathBuf> {
        let path = self.path(cache);
        std::fs::create_dir_all(path.parent().unwrap_or(cache))?;
        let record = Record {
            identity: self.clone(),
            checked_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            seconds: report.seconds,
            checks: report.outcomes.len(),
            not_run: report.not_run,
            faults: report.faults().map(ToString::to_string).collect(),
        };
        replace(&path, serde_json::to_string_pretty(&record)?.as_bytes())?;
        Ok(path)
    }

    /// Waits for whoever checks the same device now; others wait until what this returns is dropped.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn wait(&self, cache: &Path) -> io::Result<File> {
        let path = self.path(cache).with_extension("lock");
        std::fs::create_dir_all(path.parent().unwrap_or(cache))?;
        let file = append_own(&path)?;
        file.lock()?;
        Ok(file)
    }
}

/// What `--device auto` does about a device that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// It takes the device.
    Take,
    /// It has it checked first.
    Check,
    /// It takes the CPU, for this reason.
    Refuse(String),
}

impl Identity {
    /// What the device is worth with a verdict.
    pub fn choose(&self, verdict: &Verdict) -> Choice {
        match verdict {
            Verdict::Passed => Choice::Take,
            Verdict::Unchecked => Choice::Check,
            Verdict::Failed(fault) => Choice::Refuse(format!(
                "--device auto takes the CPU: {} failed its check ({fault}); `thyme-engine doctor --device cuda` says more",
                self.device
            )),
        }
    }
}

/// Whether `--device auto` takes a device: if it has passed its check. `check` does it where there is no record, once for all processes that
/// wait for it; `say` gets what a user should know, a line each.
pub fn take_if_proven(
    identity: &Identity,
    cache: Option<&Path>,
    check: impl FnOnce() -> Verdict,
    mut say: impl FnMut(&str),
) -> bool {
    let known = || identity.choose(&cache.map_or(Verdict::Unchecked, |cache| identity.verdict(cache)));
    let mut choice = known();
    if choice == Choice::Check {
        // Without a place to wait at, each process checks for itself.
        let _turn = cache.and_then(|cache| identity.wait(cache).ok());
        choice = known();
        if choice == Choice::Check {
            let device = &identity.device;
            say(&format!("{device} has not been checked yet with this driver and these kernels: checking it now"));
            choice = identity.choose(&check());
        }
    }
    match choice {
        Choice::Take => true,
        Choice::Refuse(reason) => {
            say(&reason);
            false
        }
        Choice::Check => {
            say("--device auto takes the CPU: the check came to no end; `thyme-engine doctor --device cuda` says more");
            false
        }
    }
}
