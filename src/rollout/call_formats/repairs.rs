//! The names of repairs.

/// A fence around the JSON was taken away.
pub(super) const FENCE: &str = "fence";
/// The arguments stood under another form's key.
pub(super) const ARGUMENTS_KEY: &str = "arguments_key";
/// The arguments stood in a string.
pub(super) const ARGUMENTS_IN_STRING: &str = "arguments_in_string";
/// There were no arguments; they became `{}`.
pub(super) const ARGUMENTS_MISSING: &str = "arguments_missing";
/// Braces after the end of the object were taken away.
pub(super) const EXTRA_BRACES: &str = "extra_braces";
/// One or two braces at the end of the object were added.
pub(super) const MISSING_BRACES: &str = "missing_braces";
/// A comma before a closing bracket was taken away.
pub(super) const TRAILING_COMMA: &str = "trailing_comma";
/// A line break or another control character in a string was escaped.
pub(super) const UNESCAPED_CONTROL: &str = "unescaped_control";
/// Single quotes around a string became double ones, or one within lost its backslash.
pub(super) const SINGLE_QUOTES: &str = "single_quotes";
/// Python's `True`, `False` and `None` became JSON's.
pub(super) const PYTHON_CONSTANTS: &str = "python_constants";
/// The opening tag was missing.
pub(super) const MISSING_OPENING_TAG: &str = "missing_opening_tag";
/// The closing tag was missing.
pub(super) const MISSING_CLOSING_TAG: &str = "missing_closing_tag";
/// A parameter was not closed.
pub(super) const MISSING_PARAMETER_END: &str = "missing_parameter_end";
/// The function was not closed.
pub(super) const MISSING_FUNCTION_END: &str = "missing_function_end";
/// Words between the tags beside the call were left out.
pub(super) const STRAY_TEXT: &str = "stray_text";

/// Repairs in the order in which they were first made.
#[derive(Clone, Debug, Default)]
pub(super) struct Repairs(Vec<&'static str>);

impl Repairs {
    /// Notes one, unless it is noted.
    pub(super) fn add(&mut self, name: &'static str) {
        if !self.0.contains(&name) {
            self.0.push(name);
        }
    }

    /// Notes all of another list.
    pub(super) fn extend(&mut self, others: Repairs) {
        others.0.into_iter().for_each(|name| self.add(name));
    }

    /// All of them.
    pub(super) fn into_names(self) -> Vec<&'static str> {
        self.0
    }
}
