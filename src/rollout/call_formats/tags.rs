//! Calls between an opening and a closing tag, whatever stands between them.

use serde_json::{Map, Value};

use super::repairs::{MISSING_CLOSING_TAG, Repairs};
use super::written::{CallProblem, FoundCall, MalformedCall, WrittenCall};

/// A form whose calls stand between tags.
pub(super) trait Tagged {
    /// The opening and the closing tag.
    fn tags(&self) -> [&'static str; 2];

    /// The byte up to which tags are text of the call which begins at byte `inside`, behind an opening tag: the end of a sound call, or
    /// `inside`.
    fn reach(&self, text: &str, inside: usize) -> usize;

    /// Whether what follows an opening tag is meant as a call where no closing one follows.
    fn is_begun(&self, inside: &str) -> bool;

    /// Reads what stands between the tags, or behind the opening one up to the end of the text.
    fn read(&self, inside: &str, is_closed: bool) -> Result<Read, CallProblem>;
}

/// A call that was read.
pub(super) struct Read {
    pub(super) tool: String,
    pub(super) arguments: Map<String, Value>,
    pub(super) repairs: Repairs,
    /// Bytes that it takes of what stands between the tags.
    pub(super) end: usize,
}

/// The calls of `text`. A tag that opens none, because another follows before a closing one, is passed over.
pub(super) fn find_calls(text: &str, form: &impl Tagged) -> Vec<FoundCall> {
    let [open, close] = form.tags();
    let (opens, closes) = (positions(text, open), positions(text, close));
    let (mut found, mut from) = (Vec::new(), 0);
    while let Some(start) = first_from(&opens, from) {
        let inside = start + open.len();
        let reach = form.reach(text, inside);
        let closed_at = first_from(&closes, reach);
        let end = closed_at.unwrap_or(text.len());
        from = inside;
        if first_from(&opens, reach).is_some_and(|next| next < end) {
            continue;
        }
        let body = &text[inside..end];
        if closed_at.is_none() && !form.is_begun(body) {
            continue;
        }
        let call = form.read(body, closed_at.is_some());
        from = match (closed_at, &call) {
            (Some(at), _) => at + close.len(),
            (None, Ok(call)) => inside + call.end,
            (None, Err(_)) => text.len(),
        };
        let span = start..from;
        found.push(match call {
            Ok(Read { tool, arguments, mut repairs, .. }) => {
                if closed_at.is_none() {
                    repairs.add(MISSING_CLOSING_TAG);
                }
                Ok(WrittenCall { span, tool, arguments, repairs: repairs.into_names() })
            }
            Err(problem) => Err(MalformedCall { span, problem }),
        });
    }
    found
}

fn positions(text: &str, tag: &str) -> Vec<usize> {
    text.match_indices(tag).map(|(at, _)| at).collect()
}

/// The first of ascending positions that is not before `from`.
fn first_from(positions: &[usize], from: usize) -> Option<usize> {
    positions.get(positions.partition_point(|at| *at < from)).copied()
}
