//! An entry of the tables of keys.

/// Keys that share an effect and its reason.
#[derive(Debug)]
pub struct Entry {
    /// As the file spells them.
    pub names: &'static [&'static str],
    /// What becomes of them.
    pub effect: Effect,
    /// What they mean here, why, and the remedy.
    pub note: &'static str,
}

/// What becomes of a key. A key that is null counts as absent, but for a few switches that are off then.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    /// It is read; a value that cannot be used is an error.
    Used,
    /// It changes nothing, whatever its value.
    Unused,
    /// Other values than these, as JSON, are refused.
    Only(&'static [&'static str]),
    /// Other values than these, as JSON, are warned of: they change nothing here, but would elsewhere.
    Ignored(&'static [&'static str]),
}
