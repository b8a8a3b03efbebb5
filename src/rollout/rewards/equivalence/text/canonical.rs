//! One code for each sign: Unicode's many ways to write the same, and Markdown's and HTML's marks that only set text in another type.

use unicode_normalization::UnicodeNormalization;

/// Superscript digits and signs with what they raise to.
const SUPERSCRIPTS: [(char, char); 13] = [
    ('⁰', '0'),
    ('¹', '1'),
    ('²', '2'),
    ('³', '3'),
    ('⁴', '4'),
    ('⁵', '5'),
    ('⁶', '6'),
    ('⁷', '7'),
    ('⁸', '8'),
    ('⁹', '9'),
    ('⁺', '+'),
    ('⁻', '-'),
    ('ⁿ', 'n'),
];
/// The zeros of other scripts' decimal digits, each followed by its nine.
const ZEROS: [u32; 6] = [0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50, 0x0AE6];
/// Signs that Unicode's compatibility forms leave apart, and units whose forms lose their exponent.
const SIGNS: [(char, &str); 54] = [
    ('′', "'"),
    ('″', "\""),
    ('٫', "."),
    ('٬', ","),
    ('“', "\""),
    ('”', "\""),
    ('„', "\""),
    ('«', "\""),
    ('»', "\""),
    ('「', "\""),
    ('」', "\""),
    ('『', "\""),
    ('』', "\""),
    ('‘', "'"),
    ('’', "'"),
    ('‚', "'"),
    ('‹', "'"),
    ('›', "'"),
    ('´', "'"),
    ('。', "."),
    ('｡', "."),
    ('、', ","),
    ('،', ","),
    ('【', "["),
    ('】', "]"),
    ('〔', "["),
    ('〕', "]"),
    ('《', "\""),
    ('》', "\""),
    ('−', "-"),
    ('‐', "-"),
    ('‑', "-"),
    ('‒', "–"),
    ('—', "–"),
    ('―', "–"),
    ('〜', "~"),
    ('∼', "~"),
    ('⁄', "/"),
    ('∕', "/"),
    ('⋅', "·"),
    ('∙', "·"),
    ('•', "·"),
    ('∗', "*"),
    ('✕', "×"),
    ('✖', "×"),
    ('⨯', "×"),
    ('∶', ":"),
    ('⩽', "≤"),
    ('⩾', "≥"),
    ('º', "°"),
    ('˚', "°"),
    ('㎡', "m^2"),
    ('㎥', "m^3"),
    ('㎢', "km^2"),
];
/// Tags of HTML that only set text in another type.
const TAGS: [&str; 12] =
    ["<sub>", "</sub>", "<b>", "</b>", "<i>", "</i>", "<em>", "</em>", "<strong>", "</strong>", "<u>", "</u>"];

/// The text with one code for each sign: full-width and other compatibility forms folded (NFKC), superscripts as `^`, vulgar fractions as
/// `a/b`, curly quotes straight, every script's decimal digits as ASCII, invisible characters and Markdown's bold marks taken out.
pub fn canonical(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if is_invisible(character) {
            continue;
        }
        if let Some(raised) = superscript(character) {
            let mut exponent = String::from(raised);
            while let Some(more) = characters.peek().copied().and_then(superscript) {
                exponent.push(more);
                characters.next();
            }
            written.push('^');
            written.push_str(&if exponent.len() > 1 { format!("{{{exponent}}}") } else { exponent });
        } else if let Some(digit) = decimal_digit(character) {
            written.push(digit);
        } else if let Some((_, sign)) = SIGNS.iter().find(|(sign, _)| *sign == character) {
            written.push_str(sign);
        } else {
            let folded: String = std::iter::once(character).nfkc().collect();
            // A vulgar fraction after an integer is added to it.
            let is_fraction = folded.contains('⁄');
            if is_fraction && written.ends_with(|c: char| c.is_ascii_digit()) {
                written.push(' ');
            }
            written.push_str(&folded.replace('⁄', "/"));
        }
    }
    bare_exponents(&without_markup(&written.nfc().collect::<String>()))
}

/// `x^{2}` as `x^2`: the braces of a single sign say nothing.
fn bare_exponents(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("^{") {
        let inner = &rest[at + 2..];
        written.push_str(&rest[..=at]);
        let mut signs = inner.chars();
        let is_one = signs.next().is_some_and(|sign| sign != '}') && signs.next() == Some('}');
        if is_one {
            let end = inner.find('}').unwrap_or(0);
            written.push_str(&inner[..end]);
            rest = &inner[end + 1..];
        } else {
            rest = &rest[at + 1..];
        }
    }
    written + rest
}

fn superscript(character: char) -> Option<char> {
    SUPERSCRIPTS.iter().find(|(sign, _)| *sign == character).map(|(_, raised)| *raised)
}

fn decimal_digit(character: char) -> Option<char> {
    let code = u32::from(character);
    let zero = ZEROS.iter().find(|&&zero| (zero..zero + 10).contains(&code))?;
    char::from_digit(code - zero, 10)
}

/// Zero-width characters, marks of direction, soft hyphens, variation selectors, byte order marks.
fn is_invisible(character: char) -> bool {
    matches!(u32::from(character), 0xAD | 0x61C | 0x180E | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x2064 | 0x2066..=0x2069
        | 0xFE00..=0xFE0F | 0xFEFF)
}

/// Without `**`, `__` and tags that set text in another type, but for a power between two operands (`2**3`).
fn without_markup(text: &str) -> String {
    let text = TAGS.iter().fold(text.to_owned(), |text, tag| text.replace(tag, ""));
    let is_operand = |c: char| c.is_ascii_alphanumeric() || c == '(' || c == ')';
    let mut kept = String::with_capacity(text.len());
    let mut rest = &text[..];
    while let Some(at) = rest.find(['*', '_']) {
        let (before, marks) = rest.split_at(at);
        kept.push_str(before);
        let is_pair = marks.starts_with("**") || marks.starts_with("__");
        let length = if is_pair { 2 } else { 1 };
        let is_power = marks.starts_with("**") && kept.ends_with(is_operand) && marks[2..].starts_with(is_operand);
        if !is_pair || is_power {
            kept.push_str(&marks[..length]);
        }
        rest = &marks[length..];
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sign_has_one_code() {
        for (text, expected) in [
            ("７", "7"),
            ("（Ｂ）", "(B)"),
            ("x²", "x^2"),
            ("10⁻³", "10^{-3}"),
            ("3½", "3 1/2"),
            ("½", "1/2"),
            ("25 ℃", "25 °C"),
            ("“a”", "\"a\""),
            ("7\u{200b}", "7"),
            ("**B**. cat", "B. cat"),
            ("2**3", "2**3"),
            ("٣", "3"),
            ("na\u{69}\u{308}ve", "naïve"),
        ] {
            assert_eq!(canonical(text), expected);
        }
    }
}
