//! The call in a turn's text: which tag opens it, and the code without the fence and the words that models write around it.

use std::ops::Range;

/// Opens a call.
pub const CODE_OPEN: &str = "<code>";
/// Closes a call.
pub const CODE_CLOSE: &str = "</code>";

/// The strings that open a fence.
const FENCES: [&str; 2] = ["```", "~~~"];
/// Opening tags that are looked at from the first on, and as many at the end: a text may consist of them.
const TAGS_MAX: usize = 16;

/// A call in a turn's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundCall<'a> {
    /// Byte at which `<code>` starts.
    pub start: usize,
    /// The code, without fences; indentation is kept.
    pub code: &'a str,
}

/// The call in `text`: the code between `<code>` and the first `</code>` after it, tags in any case. Of several `<code>` the last opens the
/// call, for the others are only talked about, unless code after an earlier one holds the later ones. The code's fence is taken away, with
/// what is said before and after it; empty code is none.
pub fn find_call(text: &str) -> Option<FoundCall<'_>> {
    // ASCII folding keeps byte offsets.
    let lower = text.to_ascii_lowercase();
    let first = lower.find(CODE_OPEN)?;
    let end = first + lower[first..].find(CODE_CLOSE)?;
    let mut tags: Vec<usize> = lower[..end].match_indices(CODE_OPEN).map(|(at, _)| at).collect();
    if tags.len() > 2 * TAGS_MAX {
        tags.drain(TAGS_MAX..tags.len() - TAGS_MAX);
    }
    let mut tags = tags.into_iter().peekable();
    while let Some(start) = tags.next() {
        let inside = start + CODE_OPEN.len();
        if tags.peek().is_none_or(|later| holds(&text[inside..end], later - inside)) {
            let code = without_fence(&text[inside..end]);
            return (!code.trim().is_empty()).then_some(FoundCall { start, code });
        }
    }
    None
}

/// Whether `inside`, the text after an opening tag, is code that holds the opening tag at byte `tag`: in its fence, or in a string or a
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
    let mut strings = OpenStrings::new(inside);
    while let Some((is_python, code)) = next_fence(inside, from, &mut strings) {
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

/// The first fence that opens at byte `from`, where a line begins, or after it: whether its info word names Python, and its code.
fn next_fence(inside: &str, from: usize, strings: &mut OpenStrings<'_>) -> Option<(bool, Range<usize>)> {
    let at = next_opening(inside, from, strings)?;
    let behind = inside[at..].trim_start_matches(&inside[at..=at]);
    let mark = &inside[at..inside.len() - behind.len()];
    let end_of_line = line_end(inside, at);
    let line = &inside[at + mark.len()..end_of_line];
    let close = line.find(mark);
    let info = line[..close.unwrap_or(line.len())].trim();
    let word = info.split_whitespace().next().unwrap_or("");
    let is_python = names_python(word.trim_matches(['{', '}', '.']));
    if close.is_none() && is_info(info) && end_of_line < inside.len() {
        return Some((is_python, end_of_line..closing(inside, end_of_line, mark, strings)));
    }
    // Code on the line of the fence.
    let code =
        line.trim_start().strip_prefix(word).filter(|_| is_python).unwrap_or(line).trim_start_matches([' ', '\t']);
    let start = end_of_line - code.len();
    let end = close.map_or_else(|| closing(inside, start, mark, strings), |close| at + mark.len() + close);
    Some((is_python, start.min(end)..end))
}

/// Where the first fence opens at byte `from`, where a line begins, or after it: where a line begins, or, before an info word, after a
/// space or a colon. Every byte is looked at a bounded number of times, however many marks there are.
fn next_opening(inside: &str, from: usize, strings: &mut OpenStrings<'_>) -> Option<usize> {
    strings.restart(from);
    let (mut at, mut end_of_line) = (from, from);
    // The text of the line without white space around it, and where it begins.
    let (mut first, mut line) = (from, "");
    loop {
        at += inside[at..].find(['`', '~'])?;
        if at >= end_of_line {
            let start = inside[end_of_line..at].rfind('\n').map_or(end_of_line, |end| end_of_line + end + 1);
            end_of_line = line_end(inside, at);
            let whole = &inside[start..end_of_line];
            line = whole.trim();
            first = start + whole.len() - whole.trim_start().len();
        }
        let rest = &line[at - first..];
        let run = rest.len() - rest.trim_start_matches(&inside[at..=at]).len();
        let is_opening = FENCES.iter().any(|fence| rest.starts_with(fence)) && {
            let info = || is_info(rest.trim_start_matches(['`', '~']).trim_start());
            at == first || (inside[..at].ends_with([' ', ':']) && info())
        };
        if is_opening && !strings.are_open_at(at) {
            return Some(at);
        }
        at += run;
    }
}

/// Where the code of a fence ends: before a line of nothing but its mark, or a mark at the end; else at the end.
fn closing(inside: &str, start: usize, mark: &str, strings: &mut OpenStrings<'_>) -> usize {
    strings.restart(start);
    let mut at = start;
    for line in inside[start..].split_inclusive('\n') {
        let bare = line.trim();
        let is_mark = bare.len() >= mark.len() && bare.trim_start_matches(&mark[..1]).is_empty();
        if is_mark && !strings.are_open_at(at) {
            return at;
        }
        at += line.len();
    }
    let rest = inside[start..].trim_end();
    start + rest.strip_suffix(mark).unwrap_or(rest).len()
}

/// Whether strings of several lines are open in a text that is read forwards.
struct OpenStrings<'a> {
    text: &'a str,
    /// For each kind of quotes: where the next ones stand, and whether a string of the kind is open before them.
    quotes: [(&'static str, Option<usize>, bool); 2],
}

impl<'a> OpenStrings<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, quotes: ["\"\"\"", "'''"].map(|quotes| (quotes, text.find(quotes), false)) }
    }

    /// Begins at byte `from`, with no string open.
    fn restart(&mut self, from: usize) {
        for (quotes, next, is_open) in &mut self.quotes {
            *is_open = false;
            if next.is_some_and(|next| next < from) {
                *next = self.text[from..].find(*quotes).map(|at| from + at);
            }
        }
    }

    /// Whether a string that opened since the beginning is open at byte `at`.
    fn are_open_at(&mut self, at: usize) -> bool {
        for (quotes, next, is_open) in &mut self.quotes {
            while let Some(found) = next.map(|next| next + quotes.len()).filter(|found| *found <= at) {
                *is_open = !*is_open;
                *next = self.text[found..].find(*quotes).map(|at| found + at);
            }
        }
        self.quotes.iter().any(|(_, _, is_open)| *is_open)
    }
}

/// The byte at which the line that `at` is in begins.
fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

/// The byte after the line that `at` is in.
fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |end| at + end + 1)
}

/// Whether what follows a fence's mark is about the code and not part of it: nothing, one word, or something in braces.
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
