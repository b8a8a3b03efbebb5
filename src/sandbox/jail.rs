//! The walls: the mechanisms that stand for each guarantee, and what the probe found of them. `jail.py` raises the walls inside the
//! interpreter, `probe.py` tries to break them; this file decides what is enough.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::error::SandboxError;
use super::guarantee::{Attempt, Guarantee};

/// The walls that the kernel offers, as far as the sandbox may use them: to see what it does where there are fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Offered {
    /// The highest version of Landlock; 0 is none.
    pub landlock: u32,
    /// Namespaces that a user without privileges makes.
    pub user_namespaces: bool,
    /// Namespaces that root makes without a user namespace.
    pub namespaces_of_root: bool,
    /// Filters of system calls.
    pub seccomp: bool,
}

impl Default for Offered {
    fn default() -> Offered {
        Offered { landlock: u32::MAX, user_namespaces: true, namespaces_of_root: true, seccomp: true }
    }
}

/// What holds each guarantee on this machine: the mechanisms that were raised, and what the probe found. The probe runs at the
/// start, in a trial session that has raised all walls of a session, and tries to break each wall by real system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walls {
    standing: BTreeMap<Guarantee, Vec<String>>,
    attempts: Vec<Attempt>,
}

impl Walls {
    /// From (guarantee, mechanism) pairs, of which unknown guarantees are left out, and the attempts of the probe. The watchdog
    /// stands always: it is ours.
    pub(super) fn new<'a>(raised: impl IntoIterator<Item = (&'a str, &'a str)>, attempts: Vec<Attempt>) -> Walls {
        let mut walls = Walls { standing: BTreeMap::new(), attempts };
        for (key, mechanism) in raised {
            if let Some(guarantee) = Guarantee::ALL.into_iter().find(|guarantee| guarantee.key() == key) {
                walls.standing.entry(guarantee).or_default().push(mechanism.to_owned());
            }
        }
        walls.standing.entry(Guarantee::Bounds).or_default().push("watchdog".to_owned());
        walls
    }

    /// The mechanisms that were raised for a guarantee. Whether they hold it, the attempts say.
    pub fn of(&self, guarantee: Guarantee) -> &[String] {
        self.standing.get(&guarantee).map_or(&[], Vec::as_slice)
    }

    /// What the probe tried against a guarantee.
    pub fn attempts(&self, guarantee: Guarantee) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(move |attempt| attempt.guarantee == guarantee)
    }

    /// The names of the attempts against a guarantee that succeeded.
    pub fn breaches(&self, guarantee: Guarantee) -> Vec<String> {
        self.attempts(guarantee).filter(|attempt| !attempt.refused).map(|attempt| attempt.name.clone()).collect()
    }

    /// The guarantees that do not hold here: an attempt succeeded, or none was made.
    pub fn fallen(&self) -> Vec<Guarantee> {
        let holds = |guarantee| {
            self.attempts(guarantee).next().is_some() && self.attempts(guarantee).all(|attempt| attempt.refused)
        };
        Guarantee::ALL.into_iter().filter(|&guarantee| !holds(guarantee)).collect()
    }

    /// Refuses where a guarantee does not hold and nobody consented to its absence.
    pub(super) fn judge(&self, consent: &[Guarantee]) -> Result<(), SandboxError> {
        match self.fallen().into_iter().find(|guarantee| !consent.contains(guarantee)) {
            Some(guarantee) => Err(SandboxError::NoWall { guarantee, breaches: self.breaches(guarantee) }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Walls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (row, guarantee) in Guarantee::ALL.into_iter().enumerate() {
            let breaches = self.breaches(guarantee);
            let held = match breaches[..] {
                [_, ..] => format!("NOT HELD: it can {}", breaches.join(", ")),
                [] if self.fallen().contains(&guarantee) => "NOT HELD: the probe could not try to break it".to_owned(),
                [] => self.of(guarantee).join(", "),
            };
            let end = if row + 1 < Guarantee::ALL.len() { "\n" } else { "" };
            write!(formatter, "{:<10} {held}{end}", guarantee.key())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(guarantee: Guarantee, name: &str, refused: bool) -> Attempt {
        Attempt { guarantee, name: name.to_owned(), refused }
    }

    #[test]
    fn a_guarantee_holds_only_if_every_attempt_was_refused() {
        let attempts = vec![
            attempt(Guarantee::Reads, "read /etc/passwd", true),
            attempt(Guarantee::Network, "connect by TCP", true),
            attempt(Guarantee::Network, "connect by UDP", false),
            attempt(Guarantee::Processes, "fork", true),
        ];
        let walls = Walls::new([("reads", "Landlock"), ("bounds", "rlimits"), ("nonsense", "x")], attempts);
        // The bounds have mechanisms, but nobody tried to break them.
        assert_eq!(walls.fallen(), [Guarantee::Network, Guarantee::Bounds]);
        let refusal = walls.judge(&[Guarantee::Reads]).unwrap_err().to_string();
        for part in ["model code has no network", "could connect by UDP.", r#"consent = ["network"]"#] {
            assert!(refusal.contains(part), "{refusal}");
        }
        assert!(walls.judge(&[Guarantee::Network, Guarantee::Bounds]).is_ok());
        assert!(walls.to_string().contains("network    NOT HELD: it can connect by UDP"));
        assert!(walls.to_string().ends_with("bounds     NOT HELD: the probe could not try to break it"), "{walls}");
    }
}
