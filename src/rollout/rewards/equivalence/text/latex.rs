//! LaTeX: its markup taken off a text, its commands as the signs that they stand for.

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
pub(super) const GREEK: [(&str, &str); 22] = [
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
