//! The call in a turn's text: which tag opens it, and the code without the fence and the words that models write around it.

use std::ops::Range;

/// Opens a call.
pub const CODE_OPEN: &str = "<code>";
/// Closes a call.
pub const CODE_CLOSE: &str = "</code>";

/// The strings that open a fence.
const FENCES: [&str; 2] = ["```", "~~~"];

/// A call in a turn's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundCall<'a> {
    /// Byte at which `<code>` starts.
    pub start: usize,
    /// The code, without fences; indentation is kept.
    pub code: &'a str,
}

/// The call in `text`: what stands between `<code>` and the first `</code>` behind it, tags in any case. Of several `<code>` the last opens
/// the call, for the others are only talked about, unless an earlier one has code behind it that holds the later ones. Of the code its fence
/// is taken away, with what is said before and behind; empty code is none.
pub fn find_call(text: &str) -> Option<FoundCall<'_>> {
    // ASCII folding keeps byte offsets.
    let lower = text.to_ascii_lowercase();
    let first = lower.find(CODE_OPEN)?;
    let end = first + lower[first..].find(CODE_CLOSE)?;
    let mut tags = lower[..end].match_indices(CODE_OPEN).map(|(at, _)| at).peekable();
    while let Some(start) = tags.next() {
        let inside = start + CODE_OPEN.len();
        if tags.peek().is_none_or(|later| holds(&text[inside..end], later - inside)) {
            let code = without_fence(&text[inside..end]);
            return (!code.trim().is_empty()).then_some(FoundCall { start, code });
        }
    }
    None
}

/// Whether `inside`, which stands behind an opening tag, is code that holds the opening tag at byte `tag`: in its fence, or in a string or a
/// comment of a line.
fn holds(inside: &str, tag: usize) -> bool {
    if begins_with_fence(inside) {
        return find_fence(inside).is_some_and(|fence| fence.contains(&tag));
    }
    let (before, behind) = (&inside[line_start(inside, tag)..tag], &inside[tag..line_end(inside, tag)]);
    let is_odd = |text: &str, quote| text.matches(quote).count() % 2 == 1;
    before.contains('#') || ['"', '\''].into_iter().any(|quote| is_odd(before, quote) && is_odd(behind, quote))
}

fn begins_with_fence(inside: &str) -> bool {
    FENCES.iter().any(|fence| inside.trim_start().starts_with(fence))
}

/// The fenced code in `inside`, or all of it where there is no fence. Blank lines before the code go; the first line's indentation stays.
fn without_fence(inside: &str) -> &str {
    let all = inside.trim_end();
    let mut code = match find_fence(inside) {
        Some(fence) => inside[fence].trim_end(),
        None if begins_with_fence(inside) => "",
        None => FENCES.iter().find_map(|fence| all.strip_suffix(fence)).unwrap_or(all).trim_end(),
    };
    while let Some((line, rest)) = code.split_once('\n') {
        if !line.trim().is_empty() && !names_python(line.trim()) {
            break;
        }
        code = rest;
    }
    code
}

/// The code of the first fence whose info word names Python, or else of the first fence: models put what they expect to come of the code
/// into others.
fn find_fence(inside: &str) -> Option<Range<usize>> {
    let (mut first, mut from) = (None, 0);
    while let Some((is_python, code)) = next_fence(inside, from) {
        from = line_end(inside, code.end);
        if inside[code.clone()].trim().is_empty() {
            continue;
        }
        if is_python {
            return Some(code);
        }
        first = first.or(Some(code));
    }
    first
}

/// The first fence that opens at byte `from` or behind it: whether its info word names Python, and its code. It opens where a line begins,
/// or, before an info word, behind a space or a colon.
fn next_fence(inside: &str, from: usize) -> Option<(bool, Range<usize>)> {
    let opens = |at: &usize| {
        let before = &inside[line_start(inside, *at)..*at];
        let info = inside[*at..line_end(inside, *at)].trim_start_matches(['`', '~']).trim();
        let is_opening = before.trim().is_empty() || (before.ends_with([' ', ':']) && is_info(info));
        is_opening && !ends_in_string(&inside[from..*at])
    };
    let places = |fence| inside[from..].match_indices(fence).map(|(at, _)| from + at).find(opens);
    let at = FENCES.into_iter().filter_map(places).min()?;
    let behind = inside[at..].trim_start_matches(&inside[at..=at]);
    let mark = &inside[at..inside.len() - behind.len()];
    let end_of_line = line_end(inside, at);
    let line = &inside[at + mark.len()..end_of_line];
    let close = line.find(mark);
    let info = line[..close.unwrap_or(line.len())].trim();
    let word = info.split_whitespace().next().unwrap_or("");
    let is_python = names_python(word.trim_matches(['{', '}', '.']));
    if close.is_none() && is_info(info) && end_of_line < inside.len() {
        return Some((is_python, end_of_line..closing(inside, end_of_line, mark)));
    }
    // Code on the line of the fence.
    let code =
        line.trim_start().strip_prefix(word).filter(|_| is_python).unwrap_or(line).trim_start_matches([' ', '\t']);
    let start = end_of_line - code.len();
    let end = close.map_or_else(|| closing(inside, start, mark), |close| at + mark.len() + close);
    Some((is_python, start.min(end)..end))
}

/// Where the code of a fence ends: before a line of nothing but its mark, or a mark at the end; else at the end.
fn closing(inside: &str, start: usize, mark: &str) -> usize {
    let mut at = start;
    for line in inside[start..].split_inclusive('\n') {
        let bare = line.trim();
        let is_mark = bare.len() >= mark.len() && bare.trim_start_matches(&mark[..1]).is_empty();
        if is_mark && !ends_in_string(&inside[start..at]) {
            return at;
        }
        at += line.len();
    }
    let rest = inside[start..].trim_end();
    start + rest.strip_suffix(mark).unwrap_or(rest).len()
}

/// Whether a text leaves a string of several lines open.
fn ends_in_string(text: &str) -> bool {
    ["\"\"\"", "'''"].iter().any(|quotes| text.matches(quotes).count() % 2 == 1)
}

/// The byte at which the line that `at` stands in begins.
fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

/// The byte behind the line that `at` stands in.
fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |end| at + end + 1)
}

/// Whether what stands behind a fence is about the code and none of it: nothing, one word, or something in braces.
fn is_info(info: &str) -> bool {
    let is_word = info.chars().all(|c| c.is_alphanumeric() || "+-_.#".contains(c));
    is_word || (info.starts_with('{') && info.ends_with('}'))
}

/// Whether a word names Python, as `python`, `py`, `Python3` and `ipython` do.
fn names_python(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let name = lower.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    ["python", "py", "ipython", "pycon"].contains(&name)
}
