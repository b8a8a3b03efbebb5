//! What the rules of equivalence say.

/// What the rules say of two answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// They are the same.
    Same,
    /// They are not.
    Different,
    /// No rule can tell, and why.
    Unknown(String),
}

impl Verdict {
    /// The same, or different.
    pub fn of(is_same: bool) -> Self {
        if is_same { Self::Same } else { Self::Different }
    }

    /// No rule can tell.
    pub fn unknown(reason: &str) -> Self {
        Self::Unknown(reason.to_owned())
    }
}
