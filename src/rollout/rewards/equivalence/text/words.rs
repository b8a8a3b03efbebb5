//! The words of a text as they are compared: one spelling, no accents, no articles, no punctuation but what belongs to a number or a name.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::latex::GREEK;

/// Spellings of the same word in British and American English, and of eras.
const SPELLINGS: [(&str, &str); 15] = [
    ("grey", "gray"),
    ("greyish", "grayish"),
    ("tyre", "tire"),
    ("tyres", "tires"),
    ("jewellery", "jewelry"),
    ("moustache", "mustache"),
    ("pyjamas", "pajamas"),
    ("aeroplane", "airplane"),
    ("aluminium", "aluminum"),
    ("doughnut", "donut"),
    ("doughnuts", "donuts"),
    ("licence", "license"),
    ("kerb", "curb"),
    ("ok", "okay"),
    ("bce", "bc"),
];
/// Parts of words that are spelled in two ways.
const SPELLED_PARTS: [(&str, &str); 7] = [
    ("colour", "color"),
    ("favour", "favor"),
    ("harbour", "harbor"),
    ("neighbour", "neighbor"),
    ("metre", "meter"),
    ("litre", "liter"),
    ("theatre", "theater"),
];
/// Ends of long words that are spelled in two ways.
const SPELLED_ENDS: [(&str, &str); 6] = [
    ("ise", "ize"),
    ("ised", "ized"),
    ("ising", "izing"),
    ("isation", "ization"),
    ("centre", "center"),
    ("ogue", "og"),
];

/// Without what stands around an answer: spaces, quotes, backticks, single stars, a full stop at the end.
pub fn trimmed(text: &str) -> &str {
    let mut text = text.trim();
    loop {
        let mut inner = text.trim_matches(['`', ' ', '\n', '\t']);
        for quote in ['"', '\'', '*', '_'] {
            let pair = inner.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
            inner = pair.unwrap_or(inner);
        }
        inner = inner.strip_suffix([',', ';']).unwrap_or(inner);
        // `...` says that something is missing; one full stop ends a sentence.
        if !inner.ends_with("..") {
            inner = inner.strip_suffix('.').unwrap_or(inner);
        }
        if inner.len() == text.len() {
            return inner;
        }
        text = inner;
    }
}

/// Whether a character is Chinese, Japanese or Korean.
pub fn is_ideograph(character: char) -> bool {
    u32::from(character) >= 0x2E80
}

/// A word in one spelling.
fn spelled(word: &str) -> String {
    if let Some((_, name)) = GREEK.iter().find(|(letter, _)| *letter == word) {
        return (*name).to_owned();
    }
    if let Some((_, american)) = SPELLINGS.iter().find(|(british, _)| *british == word) {
        return (*american).to_owned();
    }
    let mut word =
        SPELLED_PARTS.iter().fold(word.to_owned(), |word, (british, american)| word.replace(british, american));
    for (british, american) in SPELLED_ENDS {
        if word.len() >= 6 && word.ends_with(british) {
            word.truncate(word.len() - british.len());
            word.push_str(american);
        }
    }
    word
}

/// The words of a text in the form in which they are compared: lower case, one spelling, no accents on Latin letters, no punctuation but
/// what belongs to a number or makes another name (`C++`, `#7`, `-5`), no article in front, single spaces.
pub fn words(text: &str) -> String {
    let lower = without_accents(trimmed(text));
    let characters: Vec<char> = lower.to_lowercase().chars().collect();
    let has_letters = characters.iter().any(|c| c.is_alphabetic());
    let mut folded = String::with_capacity(lower.len());
    for (at, &character) in characters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| characters.get(before)).copied().unwrap_or(' ');
        let after = characters.get(at + 1).copied().unwrap_or(' ');
        let is_between = |is: fn(char) -> bool| is(before) && is(after);
        match character {
            '\'' | '"' | '`' => {}
            // An index is part of its letter: `H_2O`, `x_{1}`.
            '_' if before.is_alphabetic() && (after.is_alphanumeric() || after == '{') => {}
            '{' if before == '_' => {}
            '}' if is_index(&characters[..at]) => {}
            '.' if after.is_ascii_digit() => folded.push('.'),
            // `u.s.a.` is one word, `b.cat` are two.
            '.' if is_between(char::is_alphabetic) && characters.get(at + 2).is_some_and(|c| c.is_alphabetic()) => {
                folded.push(' ');
            }
            '.' if !before.is_alphanumeric() && !after.is_whitespace() => folded.push('.'),
            '.' => {}
            ',' if is_between(|c| c.is_ascii_digit()) => folded.push(','),
            // A list of numbers is none of digits with spaces between them.
            ',' if before.is_ascii_digit() && characters.get(at + 2).is_some_and(char::is_ascii_digit) => {
                folded.push(',')
            }
            ':' if is_between(|c| c.is_ascii_digit()) => folded.push(':'),
            ',' | ';' | ':' => folded.push(' '),
            '-' | '–' if is_between(char::is_alphabetic) => folded.push(' '),
            '!' | '?' if has_letters => {}
            '&' => folded.push_str(" and "),
            _ => folded.push(character),
        }
    }
    let words: Vec<String> = folded.split_whitespace().map(spelled).collect();
    // `A. B`, `A B` and `A 7` name a letter where `a cat` has an article.
    let is_article = |word: &str| matches!(word, "the" | "a" | "an");
    let is_word = |word: &str| word.chars().count() > 1 && word.starts_with(char::is_alphabetic) && !is_article(word);
    let is_marked = lower.chars().find(|c| !c.is_alphabetic()).is_some_and(|mark| !mark.is_whitespace());
    match words.as_slice() {
        [first, second, ..]
            if is_article(first) && !is_marked && (is_word(second) || (first == "the" && !is_article(second))) =>
        {
            words[1..].join(" ")
        }
        _ => words.join(" "),
    }
}

/// Whether a brace that closes here was opened as an index.
fn is_index(before: &[char]) -> bool {
    let open = before.iter().rposition(|c| *c == '{');
    open.is_some_and(|open| open > 0 && before[open - 1] == '_')
}

/// Without accents on Latin letters: `café` as `cafe`. Other marks (`≠`, Devanagari's vowels) stay.
fn without_accents(text: &str) -> String {
    let mut base = ' ';
    let is_kept = |character: &char| {
        if is_combining_mark(*character) {
            return !base.is_ascii_alphabetic();
        }
        base = *character;
        true
    };
    text.nfd().filter(is_kept).nfc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_compared_without_case_articles_and_punctuation() {
        for (text, expected) in [
            ("The Red Car.", "red car"),
            ("Mr. Smith", "mr smith"),
            ("U.S.A.", "usa"),
            ("B.cat", "b cat"),
            ("T-shirt", "t shirt"),
            ("grey", "gray"),
            ("café", "cafe"),
            ("3.5", "3.5"),
            ("-5", "-5"),
            ("C++", "c++"),
            ("salt & pepper", "salt and pepper"),
            ("H_{2}O", "h2o"),
            ("A. dog", "a dog"),
            ("A 7", "a 7"),
            ("x ≠ 3", "x ≠ 3"),
            ("multicoloured", "multicolored"),
        ] {
            assert_eq!(words(text), expected);
        }
    }
}
