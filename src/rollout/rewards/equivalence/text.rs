//! Text in one form: Unicode's many ways to write the same sign, what Markdown and LaTeX put around an answer, and the words of a text as
//! they are compared.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

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

/// Tags of HTML that only set text in another type.
const TAGS: [&str; 12] =
    ["<sub>", "</sub>", "<b>", "</b>", "<i>", "</i>", "<em>", "</em>", "<strong>", "</strong>", "<u>", "</u>"];

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

/// Commands that only set their argument in another type.
const TYPES: [&str; 14] = [
    "boxed",
    "text",
    "textbf",
    "textit",
    "textrm",
    "textsf",
    "texttt",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mbox",
    "fbox",
    "operatorname",
];
/// LaTeX written as the sign it stands for. Longer names stand before those that they begin with.
const COMMANDS: [(&str, &str); 46] = [
    ("{,}", ","),
    ("\\displaystyle", ""),
    ("\\leqslant", "≤"),
    ("\\geqslant", "≥"),
    ("\\left\\{", "\\{"),
    ("\\right\\}", "\\}"),
    ("\\left", ""),
    ("\\right", ""),
    ("\\bigl", ""),
    ("\\bigr", ""),
    ("\\Bigl", ""),
    ("\\Bigr", ""),
    ("\\{", "⦃"),
    ("\\}", "⦄"),
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("^{\\circ}", "°"),
    ("^\\circ", "°"),
    ("\\circ", "°"),
    ("\\degree", "°"),
    ("\\%", "%"),
    ("\\$", "$"),
    ("\\euro", "€"),
    ("\\pounds", "£"),
    ("\\(", ""),
    ("\\)", ""),
    ("\\[", ""),
    ("\\]", ""),
    ("\\,", " "),
    ("\\!", ""),
    ("\\;", " "),
    ("\\:", " "),
    ("\\ ", " "),
    ("\\quad", " "),
    ("\\times", "×"),
    ("\\cdot", "·"),
    ("\\div", "÷"),
    ("\\approx", "≈"),
    ("\\infty", "∞"),
    ("\\pm", "±"),
    ("\\cup", "∪"),
    ("\\angle", "∠"),
    ("\\emptyset", "∅"),
    ("\\varnothing", "∅"),
    ("\\pi", "π"),
];
/// Greek letters and their names.
const GREEK: [(&str, &str); 22] = [
    ("α", "alpha"),
    ("β", "beta"),
    ("γ", "gamma"),
    ("δ", "delta"),
    ("ε", "epsilon"),
    ("ζ", "zeta"),
    ("η", "eta"),
    ("θ", "theta"),
    ("κ", "kappa"),
    ("λ", "lambda"),
    ("μ", "mu"),
    ("ν", "nu"),
    ("ξ", "xi"),
    ("ρ", "rho"),
    ("σ", "sigma"),
    ("τ", "tau"),
    ("φ", "phi"),
    ("χ", "chi"),
    ("ψ", "psi"),
    ("ω", "omega"),
    ("Δ", "Delta"),
    ("Ω", "Omega"),
];
/// Commands whose names begin like longer ones, so that only the whole name is meant.
const WHOLE: [(&str, &str); 12] = [
    ("\\le", "≤"),
    ("\\leq", "≤"),
    ("\\ge", "≥"),
    ("\\geq", "≥"),
    ("\\lt", "<"),
    ("\\gt", ">"),
    ("\\neq", "≠"),
    ("\\ne", "≠"),
    ("\\sim", "~"),
    ("\\in", "∈"),
    ("\\mid", "|"),
    ("\\vert", "|"),
];

/// LaTeX's markup taken off a canonical text: signs as characters, `\text{…}` and its like as their argument, delimiters of mathematics
/// gone. Set braces `\{ \}` become `⦃ ⦄`, so that grouping braces stay apart from them. `\frac`, `\sqrt` and functions stay.
pub fn without_latex(text: &str) -> String {
    if !text.contains(['\\', '$', '~']) && !text.contains("{,}") {
        return text.to_owned();
    }
    let mut text = text.to_owned();
    // LaTeX's space; in plain text `~` stands before a number that is not exact, or between two as a range.
    let is_space = |(at, _): &(usize, &str)| {
        let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphabetic() || c == '\\');
        letter(text[at + 1..].chars().next()) && text[..*at].ends_with(char::is_alphanumeric)
    };
    let spaces: Vec<usize> = text.match_indices('~').filter(is_space).map(|(at, _)| at).collect();
    for at in spaces {
        text.replace_range(at..=at, " ");
    }
    for (from, to) in COMMANDS {
        if text.contains(from) {
            text = text.replace(from, to);
        }
    }
    for (from, to) in WHOLE {
        text = replaced_whole(&text, from, to);
    }
    for (letter, name) in GREEK {
        let command = format!("\\{name}");
        if text.contains(&command) {
            text = replaced_whole(&text, &command, letter);
        }
    }
    for name in TYPES {
        let command = format!("\\{name}{{");
        while let Some(start) = text.find(&command) {
            let inner = start + command.len();
            let Some(end) = closing_brace(&text[inner..]).map(|end| inner + end) else { break };
            text = format!("{}{}{}", &text[..start], &text[inner..end], &text[end + 1..]);
        }
    }
    without_delimiters(&text)
}

/// `from` replaced where no letter follows.
fn replaced_whole(text: &str, from: &str, to: &str) -> String {
    let mut written = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let after = &rest[at + from.len()..];
        written.push_str(&rest[..at]);
        written.push_str(if after.starts_with(|c: char| c.is_ascii_alphabetic()) { from } else { to });
        rest = after;
    }
    written + rest
}

/// Without `$ … $` and `$$ … $$` around formulas. A lone `$` is a currency.
fn without_delimiters(text: &str) -> String {
    let text = text.replace("$$", "$");
    if text.matches('$').count() % 2 == 1 || is_price(&text) { text } else { text.replace('$', "") }
}

/// Whether each `$` stands before a digit and not after one, as in `$5-$10`.
fn is_price(text: &str) -> bool {
    text.match_indices('$').all(|(at, _)| {
        text[at + 1..].trim_start().starts_with(|c: char| c.is_ascii_digit())
            && !text[..at].ends_with(|c: char| c.is_alphanumeric() || "})]".contains(c))
    }) && !text.ends_with('$')
}

/// Whether a canonical text is written as LaTeX mathematics.
pub fn is_latex(text: &str) -> bool {
    let is_command = |(at, _): (usize, &str)| text[at + 1..].starts_with(|c: char| c.is_ascii_alphabetic());
    let is_markup = |(at, _): (usize, &str)| TYPES.iter().any(|name| text[at + 1..].starts_with(&format!("{name}{{")));
    let has_command = text.match_indices('\\').any(|command| is_command(command) && !is_markup(command));
    has_command
        || text.contains("\\(")
        || (text.matches('$').count().is_multiple_of(2) && text.contains('$') && !is_price(text))
}

/// The offset of the brace that closes one opened just before `text`.
pub fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 1;
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => continue,
        }
        if open == 0 {
            return Some(offset);
        }
    }
    None
}

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

    #[test]
    fn latex_markup_is_taken_off_and_prices_keep_their_sign() {
        for (text, expected) in [
            ("$\\text{5 cm}$", "5 cm"),
            ("\\boxed{\\text{B}}", "B"),
            ("$\\dfrac{1}{2}$", "\\frac{1}{2}"),
            ("\\left(1, 2\\right)", "(1, 2)"),
            ("$5", "$5"),
            ("$5-$10", "$5-$10"),
            ("\\$5", "$5"),
            ("x \\le 3", "x ≤ 3"),
            ("\\{1\\}", "⦃1⦄"),
        ] {
            assert_eq!(without_latex(text), expected);
        }
        assert!(is_latex("$x$") && is_latex("\\frac12") && !is_latex("\\text{cat}") && !is_latex("$5-$10"));
    }

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
