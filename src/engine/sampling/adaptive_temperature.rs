//! Adaptive temperature (GRPO-ATS): a state machine over the model's own decoded bytes.

use crate::engine::request::AdaptiveTemperature;

/// Whether the model is inside the tags. The token that completes the opening tag was still sampled outside; the one that completes the
/// closing tag, inside.
#[derive(Clone, Debug)]
pub struct AdaptiveState {
    settings: AdaptiveTemperature,
    inside: bool,
    /// The last bytes, shorter than the longer tag.
    tail: Vec<u8>,
}

impl AdaptiveState {
    /// The state of a new sequence, outside the tags.
    pub fn new(settings: AdaptiveTemperature) -> AdaptiveState {
        AdaptiveState { settings, inside: false, tail: Vec::new() }
    }

    /// Whether the next token is sampled at [`AdaptiveState::temperature`].
    pub fn is_inside(&self) -> bool {
        self.inside
    }

    /// The temperature inside.
    pub fn temperature(&self) -> f32 {
        self.settings.temperature
    }

    /// Moves on by the bytes of a sampled token, in which tags may begin, end and follow one another.
    pub fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.tail.push(byte);
            let tag = if self.inside { &self.settings.close } else { &self.settings.open };
            if self.tail.ends_with(tag.as_bytes()) {
                self.inside = !self.inside;
                self.tail.clear();
            }
        }
        let longest = self.settings.open.len().max(self.settings.close.len());
        let surplus = self.tail.len().saturating_sub(longest.saturating_sub(1));
        self.tail.drain(..surplus);
    }

    /// A tag that an observation cuts in two is no tag; the state stays.
    pub fn interrupt(&mut self) {
        self.tail.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> AdaptiveState {
        AdaptiveState::new(AdaptiveTemperature { open: "<code>".into(), close: "</code>".into(), temperature: 0.0 })
    }

    fn inside_after(pieces: &[&str]) -> Vec<bool> {
        let mut state = state();
        let mut read = |piece: &&str| {
            state.read(piece.as_bytes());
            state.is_inside()
        };
        pieces.iter().map(&mut read).collect()
    }

    #[test]
    fn the_token_behind_the_opening_tag_is_the_first_inside() {
        assert_eq!(
            inside_after(&["a", "<co", "de", ">", "x", "</code>", "b"]),
            [false, false, false, true, true, false, false]
        );
    }

    #[test]
    fn tags_glued_to_other_text_count() {
        assert_eq!(inside_after(&["so:<code>\nx", " = 1</co", "de> done"]), [true, true, false]);
        assert_eq!(inside_after(&["<code>1</code><code>2"]), [true]);
        assert_eq!(inside_after(&["<code>1</code>", "</code>", "<code>"]), [false, false, true]);
    }

    #[test]
    fn an_observation_changes_nothing_and_joins_nothing() {
        let mut state = state();
        state.read(b"<co");
        state.interrupt();
        state.read(b"de>");
        assert!(!state.is_inside());
        state.read(b"<code>");
        state.interrupt();
        assert!(state.is_inside());
    }
}
