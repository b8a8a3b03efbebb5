//! The tags of an answer. A turn's answer is found once, by the environment that reads the turn; rewards get it from there.

use std::ops::Range;

/// Opens an answer.
pub const ANSWER_OPEN: &str = "<answer>";
/// Closes an answer.
pub const ANSWER_CLOSE: &str = "</answer>";

const BOXED_OPEN: &str = "\\boxed{";

/// Where an answer stands in a text, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerRange {
    /// What stands between its tags, or whatever marks it.
    pub inside: Range<usize>,
    /// The same with them.
    pub with_tags: Range<usize>,
}

impl AnswerRange {
    /// The range in a text that begins `bytes` bytes before.
    pub(super) fn behind(self, bytes: usize) -> AnswerRange {
        let moved = |range: Range<usize>| range.start + bytes..range.end + bytes;
        AnswerRange { inside: moved(self.inside), with_tags: moved(self.with_tags) }
    }
}

/// The answer between the first `</answer>` and the last `<answer>` before it: the model may have spoken of the tag before it answered.
/// `None` without the pair.
pub fn find_answer(text: &str) -> Option<AnswerRange> {
    let end = text.find(ANSWER_CLOSE)?;
    let start = text[..end].rfind(ANSWER_OPEN)?;
    Some(AnswerRange { inside: start + ANSWER_OPEN.len()..end, with_tags: start..end + ANSWER_CLOSE.len() })
}

/// The answer within the last `\boxed{…}` of a text, its braces balanced, as mathematics is answered. `None` without one.
pub fn find_boxed(text: &str) -> Option<AnswerRange> {
    let start = text.rfind(BOXED_OPEN)?;
    let inside = start + BOXED_OPEN.len();
    let mut depth = 1;
    for (at, byte) in text.bytes().enumerate().skip(inside) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(AnswerRange { inside: inside..at, with_tags: start..at + 1 });
        }
    }
    None
}
