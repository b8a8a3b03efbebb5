//! Stop strings, matched on decoded bytes as they come.

/// The bytes of a turn so far.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    bytes: Vec<u8>,
}

impl StopMatcher {
    /// Adds a token's bytes; the index of the string that they complete, of several the one that ends first (then the first listed).
    pub fn read(&mut self, bytes: &[u8], strings: &[String]) -> Option<usize> {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let ends = strings.iter().enumerate().filter_map(|(index, string)| {
            let start = (before + 1).saturating_sub(string.len().max(1));
            let found = find(&self.bytes[start..], string.as_bytes())?;
            Some((start + found + string.len(), index))
        });
        ends.min().map(|(_, index)| index)
    }

    /// A new turn begins.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// Where `part` first stands in `bytes`.
fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len().max(1)).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_may_span_tokens() {
        let strings = ["</code>".to_owned(), "</answer>".to_owned()];
        let mut matcher = StopMatcher::default();
        assert_eq!(matcher.read(b"x</co", &strings), None);
        assert_eq!(matcher.read(b"de>", &strings), Some(0));
    }

    #[test]
    fn the_string_that_ends_first_wins() {
        let strings = ["cd".to_owned(), "bc".to_owned()];
        assert_eq!(StopMatcher::default().read(b"abcd", &strings), Some(1));
    }

    #[test]
    fn a_string_of_an_earlier_token_does_not_fire_again() {
        let strings = ["a".to_owned()];
        let mut matcher = StopMatcher::default();
        assert_eq!(matcher.read(b"a", &strings), Some(0));
        assert_eq!(matcher.read(b"b", &strings), None);
    }
}
