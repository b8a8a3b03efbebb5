//! Patterns that look ahead or back, as patterns of regular languages, where their meaning can be kept.

use crate::files::json::shorten;

/// How every pattern begins that pydantic makes for a `Decimal`: at least one digit.
const DECIMAL_START: &str = r"^(?!^[-+.]*$)[+-]?0*";
/// Letters at most of a word that a text must not begin with: a pattern without the look-ahead repeats it for each.
const WORD_LETTERS_MAX: usize = 64;

/// The one pattern without look-around that a pattern is.
pub(super) fn single_pattern(pattern: &str) -> Result<String, String> {
    match without_look_around(pattern)?.as_slice() {
        [single] => Ok(single.clone()),
        _ => Err(look_around(pattern)),
    }
}

fn look_around(pattern: &str) -> String {
    format!(
        "the pattern {:?} looks ahead or back, or refers back, which a grammar cannot; write it without (?=...), (?!...), (?<=...), (?<!...) \
         and \\1, or leave it out and check the answer",
        shorten(pattern)
    )
}

/// Patterns that a text fits together exactly if it fits one that may begin with look-aheads.
pub(super) fn without_look_around(pattern: &str) -> Result<Vec<String>, String> {
    if !looks_around(pattern) {
        return Ok(vec![pattern.to_owned()]);
    }
    if let Some(rest) = pattern.strip_prefix(DECIMAL_START)
        && let Some(decimal) = decimal(rest)
    {
        return Ok(vec![decimal]);
    }
    let (mut patterns, mut rest) = (Vec::new(), pattern.strip_prefix('^').ok_or_else(|| look_around(pattern))?);
    while let Some((is_negative, ahead, behind)) = leading_look_ahead(rest) {
        let ahead = ahead.strip_prefix('^').unwrap_or(ahead);
        patterns.push(match is_negative {
            false => format!("^(?:{ahead})"),
            true => never_ahead(ahead).ok_or_else(|| look_around(pattern))?,
        });
        rest = behind;
    }
    patterns.insert(0, format!("^{rest}"));
    match patterns.iter().any(|pattern| looks_around(pattern)) || has_choice(rest) {
        true => Err(look_around(pattern)),
        false => Ok(patterns),
    }
}

/// What pydantic writes after the start of a decimal's pattern, as a pattern of its own: digits with or without a point, so many of them.
fn decimal(rest: &str) -> Option<String> {
    let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number <= 64);
    if rest == r"\d*\.?\d*$" {
        return Some(r"^[+-]?(?:\d+\.?\d*|\.\d+)$".to_owned());
    }
    // Digits of a fraction: not none.
    let fraction = |most: usize| if most == 0 { "0+".to_owned() } else { format!(r"\d{{1,{most}}}0*") };
    if let Some(places) = rest.strip_prefix(r"\d*\.?\d{0,").and_then(|rest| rest.strip_suffix("}0*$")) {
        let places = number(places)?;
        return Some(format!(r"^[+-]?(?:\d+(?:\.\d{{0,{places}}}0*)?|\.{})$", fraction(places)));
    }
    // `(?:\d{0,I}|(?=[\d.]{1,M}0*$)\d{0,I}\.\d{0,P}0*$)`, or `\d*\.\d*0*$` at its end: at most M - 1 digits.
    let (whole, rest) = rest.strip_prefix(r"(?:\d{0,")?.split_once(r"}|(?=[\d.]{1,")?;
    let (digits, rest) = rest.split_once(r"}0*$)")?;
    let (whole, digits) = (number(whole)?, number(digits)?.checked_sub(1)?);
    let integer =
        |most: usize| if most == 0 { "0+".to_owned() } else { format!(r"(?:0+\d{{0,{most}}}|\d{{1,{most}}})") };
    if rest == r"\d*\.\d*0*$)" {
        let split = |before: usize| format!(r"{}\.\d{{0,{}}}0*", integer(before), digits - before);
        let splits: Vec<String> = (0..=digits).map(split).collect();
        return Some(format!(r"^[+-]?(?:{}|{}|\.{})$", integer(whole), splits.join("|"), fraction(digits)));
    }
    let places = rest.strip_prefix(&format!(r"\d{{0,{whole}}}\.\d{{0,"))?.strip_suffix("}0*$)")?;
    let places = number(places)?.min(digits);
    let integer = integer(whole);
    Some(format!(r"^[+-]?(?:{integer}(?:\.\d{{0,{places}}}0*)?|\.{})$", fraction(places)))
}

/// Whether a pattern has what no regular language has, or what takes an intersection.
fn looks_around(pattern: &str) -> bool {
    let (mut characters, mut in_class) = (pattern.char_indices(), false);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => {
                let refers = |(_, next): (usize, char)| !in_class && (('1'..='9').contains(&next) || next == 'k');
                if characters.next().is_some_and(refers) {
                    return true;
                }
            }
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class && ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|mark| pattern[at..].starts_with(mark)) => {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// Whether a pattern is a choice at its top: then its beginning is that of the first only.
fn has_choice(pattern: &str) -> bool {
    let (mut depth, mut in_class, mut is_escaped) = (0, false, false);
    for character in pattern.chars() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ']' => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

/// The look-ahead that a pattern begins with: whether it is negative, what it looks for, and what follows it.
fn leading_look_ahead(pattern: &str) -> Option<(bool, &str, &str)> {
    let (is_negative, rest) = match pattern.strip_prefix("(?!") {
        Some(rest) => (true, rest),
        None => (false, pattern.strip_prefix("(?=")?),
    };
    let (mut depth, mut in_class, mut is_escaped) = (1, false, false);
    for (at, character) in rest.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ']' => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if depth == 0 {
                    return Some((is_negative, &rest[..at], &rest[at + 1..]));
                }
            }
            _ => {}
        }
    }
    None
}

/// A pattern for the texts that do not begin with `ahead`, where that is a class, `.*` and a class, or a word.
fn never_ahead(ahead: &str) -> Option<String> {
    if let Some(other) = ahead.strip_suffix("*$").and_then(other_class) {
        return Some(other);
    }
    if let Some(class) = ahead.strip_prefix(".*") {
        return Some(format!("^{}*$", other_class(class)?));
    }
    if let Some(other) = other_class(ahead) {
        return Some(format!("^(?:{other}|$)"));
    }
    let (word, is_whole) = ahead.strip_suffix('$').map_or((ahead, false), |word| (word, true));
    if !(1..=WORD_LETTERS_MAX).contains(&word.chars().count())
        || !word.chars().all(|c| c.is_alphanumeric() || " _-".contains(c))
    {
        return None;
    }
    let differs = |(at, character): (usize, char)| {
        let before = &word[..at];
        if is_whole { format!(r"{before}(?:[^{character}].*)?") } else { format!("{before}(?:$|[^{character}].*)") }
    };
    let mut texts: Vec<String> = word.char_indices().map(differs).collect();
    if is_whole {
        texts.push(format!("{word}.+"));
    }
    Some(format!("^(?:{})$", texts.join("|")))
}

/// The class of all other characters.
fn other_class(class: &str) -> Option<String> {
    match class {
        r"\d" => Some("[^0-9]".to_owned()),
        r"\s" => Some(r"[^ \t\r\n\x0B\x0C]".to_owned()),
        r"\w" => Some("[^a-zA-Z0-9_]".to_owned()),
        _ => {
            let inner = class.strip_prefix('[')?.strip_suffix(']')?;
            let is_one = !inner.is_empty() && !inner.contains(['[', ']']) && !inner.ends_with('\\');
            is_one.then(|| match inner.strip_prefix('^') {
                Some(other) => format!("[{other}]"),
                None => format!("[^{inner}]"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    /// Each text fits all of a pattern's parts exactly if it fits the whole in the eyes of a reader that can look ahead.
    #[track_caller]
    fn expect_alike(pattern: &str, whole: &str, characters: &str, length: usize) {
        let parts = without_look_around(pattern).unwrap();
        let parts: Vec<Regex> = parts.iter().map(|part| Regex::new(part).unwrap()).collect();
        let whole = fancy_regex::Regex::new(whole).unwrap();
        for text in texts(characters, length) {
            let fits = parts.iter().all(|part| part.is_match(&text));
            assert_eq!(fits, whole.is_match(&text).unwrap(), "{pattern} {text:?}");
        }
    }

    /// All texts of up to `length` of some characters.
    fn texts(characters: &str, length: usize) -> Vec<String> {
        let mut texts = vec![String::new()];
        let mut from = 0;
        for _ in 0..length {
            let longer: Vec<String> =
                texts[from..].iter().flat_map(|text| characters.chars().map(move |c| format!("{text}{c}"))).collect();
            from = texts.len();
            texts.extend(longer);
        }
        texts
    }

    #[test]
    fn look_aheads_are_taken_where_their_meaning_can_be_kept() {
        for (pattern, characters, length) in [
            (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", "01+-.", 6),
            (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d{0,2}0*$", "01+-.", 6),
            (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d{0,0}0*$", "01+-.", 6),
            (r"^(?=.*[A-Z])(?=.*\d).{3,4}$", "aB1", 5),
            (r"^(?!\d)\w+$", "a1_", 4),
            (r"^(?!ab)[abc]*$", "abc", 4),
            (r"^(?!ab$)[abc]*$", "abc", 4),
            (r"^(?!.*[x])[axy]{2,}$", "axy", 4),
            (r"^(?![^a])[ab]+$", "ab", 4),
        ] {
            expect_alike(pattern, pattern, characters, length);
        }
    }

    /// The first choice of these patterns has no end; only texts that are decimals as a whole are kept.
    #[test]
    fn decimals_of_so_many_digits_are_taken() {
        for pattern in [
            r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,1}|(?=[\d.]{1,4}0*$)\d{0,1}\.\d{0,2}0*$)",
            r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,0}|(?=[\d.]{1,3}0*$)\d{0,0}\.\d{0,3}0*$)",
            r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,2}|(?=[\d.]{1,3}0*$)\d*\.\d*0*$)",
        ] {
            expect_alike(pattern, &pattern.replacen('|', "$|", 1), "01+.", 7);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        for pattern in
            [r"a(?=b)", r"^a(?!b)$", r"(?<=a)b", r"(a)\1", r"^(?!(a|b)+c)x$", r"^(?!a)b|c$", r"(?P<x>a)\k<x>"]
        {
            let error = without_look_around(pattern).unwrap_err();
            assert!(error.contains("write it without"), "{pattern}: {error}");
        }
        for pattern in [r"\(?=a", r"[(?=]", r"\\d", r"^a|b$"] {
            assert_eq!(without_look_around(pattern).unwrap(), [pattern]);
        }
    }
}
