//! The options that a question lists, with letters or numbers.

use std::ops::RangeInclusive;

use super::super::text::without_latex;

/// What is before and after the letters of listed options.
pub(super) const STYLES: [(&str, &str); 9] =
    [("(", ")"), ("[", "]"), ("", ")"), ("", "."), ("", ":"), ("", ","), ("", " -"), ("", " –"), ("<", ">")];

/// The options that a text lists with these letters, a line each or in a row: `A. cat`, `(B) dog`, `[C] cow`, `D: fox`; letters are given as
/// capitals. Empty for fewer than two.
pub(super) fn options(text: &str, letters: RangeInclusive<char>, styles: &[(&str, &str)]) -> Vec<(char, String)> {
    let listed = styles.iter().map(|(open, close)| listed(text, letters.clone(), open, close));
    let best = listed.rev().max_by_key(Vec::len).unwrap_or_default();
    if best.len() < 2 { Vec::new() } else { best }
}

/// The options whose letters stand between `open` and `close`, from the first letter on without a gap.
fn listed(text: &str, letters: RangeInclusive<char>, open: &str, close: &str) -> Vec<(char, String)> {
    let mut marks: Vec<(char, usize, usize)> = Vec::new();
    let mut from = 0;
    for letter in letters {
        let mark = format!("{open}{letter}{close}");
        let begins = |at: usize| {
            let before = text[..at].chars().next_back();
            before.is_none_or(|c| c.is_whitespace() || ",;:?".contains(c))
        };
        let Some(at) = text[from..].match_indices(&mark).map(|(at, _)| from + at).find(|&at| begins(at)) else { break };
        marks.push((letter.to_ascii_uppercase(), at, at + mark.len()));
        from = at + mark.len();
    }
    let ends = marks.iter().skip(1).map(|(_, at, _)| *at).chain([text.len()]);
    let option = |(&(letter, _, start), end): (&(char, usize, usize), usize)| {
        // The last option of a row may be followed by other lines.
        let line = text[start..end].trim_start_matches(['.', ':', ')', ' ']).split('\n').next().unwrap_or_default();
        (letter, without_latex(line.trim().trim_end_matches([',', ';', '-', ' '])).trim().to_owned())
    };
    let options: Vec<(char, String)> = marks.iter().zip(ends).map(option).collect();
    // `Answer with A, B, C or D` lists letters alone.
    let is_bare = |text: &str| text.len() <= 1 || text.starts_with("and ") || text.starts_with("or ");
    if close == "," && options.iter().filter(|(_, text)| !is_bare(text)).count() < 2 { Vec::new() } else { options }
}

/// The options that a text lists with numbers from 1 on, or small Roman ones, a line each. Empty for fewer than two.
pub(super) fn numbered(text: &str) -> Vec<(String, String)> {
    const ROMAN: [&str; 10] = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"];
    let arabic: Vec<String> = (1..=20).map(|number| number.to_string()).collect();
    let roman: Vec<String> = ROMAN.iter().map(|number| (*number).to_owned()).collect();
    for labels in [arabic, roman] {
        let mut found: Vec<(String, String)> = Vec::new();
        for line in text.lines().map(str::trim) {
            let Some(label) = labels.get(found.len()) else { break };
            let marked = [format!("({label})"), format!("{label}."), format!("{label})"), format!("[{label}]")];
            if let Some(rest) = marked.iter().find_map(|mark| line.strip_prefix(mark.as_str())) {
                found.push((label.clone(), rest.trim().to_owned()));
            }
        }
        if found.len() >= 2 {
            return found;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::super::Question;

    #[test]
    fn options_are_found_in_the_forms_that_data_sets_write() {
        for text in [
            "Which?\nA. dog\nB. red fox\nC. cow",
            "Which? (A) dog (B) red fox (C) cow",
            "Which? A) dog, B) red fox, C) cow",
            "Which?\n(A) dog\n(B) red fox\n(C) cow\nAnswer with the letter.",
            "Which?\nA: dog\nB: red fox\nC: cow",
            "Which? Options: A. dog; B. red fox; C. cow",
            "哪个？\nA、dog\nB、red fox\nC、cow",
            "Which?\na) dog\nb) red fox\nc) cow",
            "Choose. - A: dog - B: red fox - C: cow",
        ] {
            let read = Question::read(text).options;
            let expected =
                [('A', "dog"), ('B', "red fox"), ('C', "cow")].map(|(letter, text)| (letter, text.to_owned()));
            assert_eq!(read, expected, "{text}");
        }
        assert_eq!(Question::read("Which?\n1. dog\n2. cat").numbered.len(), 2);
        assert!(Question::read("Who is J. Smith, and what is Vitamin C?").options.is_empty());
    }
}
