//! The tags of an answer. A turn's answer is found once, by the environment that reads the turn; rewards get it from there.

use std::ops::Range;

/// Opens an answer.
pub const ANSWER_OPEN: &str = "<answer>";
/// Closes an answer.
pub const ANSWER_CLOSE: &str = "</answer>";

/// The bytes between the first `</answer>` and the last `<answer>` before it: the model may have spoken of the tag before it answered.
/// `None` without the pair.
pub fn find_answer(text: &str) -> Option<Range<usize>> {
    let end = text.find(ANSWER_CLOSE)?;
    let start = text[..end].rfind(ANSWER_OPEN)? + ANSWER_OPEN.len();
    Some(start..end)
}
