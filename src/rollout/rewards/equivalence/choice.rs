//! Options of a multiple-choice question, in the forms in which models and data sets write them.

use super::Verdict;
use super::question::Question;
use super::text::{trimmed, words};

/// Ends of a sentence that says that an option is right.
const SAID_RIGHT: [&str; 12] = [
    " is correct",
    " is right",
    " is the answer",
    " is the correct answer",
    " is the right answer",
    " is the best answer",
    " is the correct option",
    " is the right option",
    " is the best option",
    " is the correct choice",
    " is the right choice",
    " is the best choice",
];

/// Chosen letters, and the text that stands behind a single one.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Choice {
    /// In the order in which they were written.
    letters: Vec<char>,
    /// What stands behind the letter.
    text: Option<String>,
    /// Whether the letters have signs between or around them, so that they are no word.
    is_marked: bool,
    /// Whether a full stop alone separates letter and text, as in an initial.
    is_initial: bool,
}

/// Compares two texts (canonical, without LaTeX's dressing) if the solution or the answer chooses an option; `None` where neither does.
pub(super) fn compare(answer: &str, solution: &str, question: &Question) -> Option<Verdict> {
    let correct = Choice::read(solution, question);
    let chosen = Choice::read(answer, question);
    match (chosen, correct) {
        (Some(chosen), Some(correct)) => chosen.against(&correct, question),
        (None, Some(correct)) => correct.described(answer, question),
        (Some(chosen), None) => chosen.names(solution, question),
        (None, None) => None,
    }
}

impl Choice {
    fn read(text: &str, question: &Question) -> Option<Self> {
        let text = trimmed(text);
        let stated = SAID_RIGHT.iter().find_map(|end| text.strip_suffix(end)).map(trimmed);
        if let Some(choice) = stated.and_then(|text| Self::letter(text, question)) {
            return choice.text.is_none().then_some(choice);
        }
        Self::letter(text, question).or_else(|| Self::several(text, question))
    }

    /// A single letter: `B`, `(B)`, `[B]`, `B.`, `B) cat`, `B: cat`, `B - cat`, `(b) cat`, `B cat`. A bare letter must be a capital, so that a
    /// variable or an article is none. What names a second option chooses none.
    fn letter(text: &str, question: &Question) -> Option<Self> {
        let pairs = [('(', ')'), ('[', ']'), ('{', '}'), ('<', '>')];
        let open = pairs.iter().find(|(open, _)| text.starts_with(*open));
        let mut characters = text.chars();
        if open.is_some() {
            characters.next();
        }
        let letter = characters.next().filter(char::is_ascii_alphabetic)?;
        let rest = characters.as_str();
        let is_capital = letter.is_ascii_uppercase();
        let (after, is_initial) = match open {
            Some((_, close)) => (rest.strip_prefix(*close)?, false),
            None if rest.is_empty() && is_capital => ("", false),
            None => Self::marked(rest, letter, question)?,
        };
        let after = trimmed(after.trim_start_matches(['.', ':', ' ', ')', '-', '–', ',']));
        let after = after.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).unwrap_or(after);
        let choice = Self {
            letters: vec![letter.to_ascii_uppercase()],
            text: (!after.is_empty()).then(|| after.to_owned()),
            is_marked: open.is_some(),
            is_initial,
        };
        (!names_an_option(after)).then_some(choice)
    }

    /// What follows an option's letter, and whether only a full stop separates them; `None` where the letter begins a word, a sentence or a
    /// list.
    fn marked<'a>(rest: &'a str, letter: char, question: &Question) -> Option<(&'a str, bool)> {
        let is_capital = letter.is_ascii_uppercase();
        let own = |text: &str| {
            let option = question.option(letter.to_ascii_uppercase());
            option.is_some_and(|option| words(option) == words(text))
        };
        if let Some(after) = rest.strip_prefix([')', ':', ']']) {
            return Some((after, false));
        }
        if let Some(after) = rest.strip_prefix('.') {
            let is_apart = after.is_empty() || after.starts_with([' ', '\n']);
            return (is_apart || own(after)).then_some((after, true));
        }
        if !is_capital {
            return None;
        }
        let after = [" - ", " – ", " -> ", " = ", " ("].iter().find(|mark| rest.starts_with(**mark));
        if after.is_some() {
            return Some((rest.trim_start_matches([' ', '-', '–', '>', '=']), false));
        }
        // Behind a comma, a line end or a space alone only the option's own text may stand.
        let after = rest.strip_prefix([',', '\n', ' ', '、'])?;
        own(after).then_some((after, false))
    }

    /// Several letters: `B, C`, `B and C`, `BC`, `(A)(C)`.
    fn several(text: &str, question: &Question) -> Option<Self> {
        let text = text.strip_prefix("both ").or_else(|| text.strip_prefix("Both ")).unwrap_or(text);
        let spaced = text.replace(" and ", ",").replace(['&', ';', '/', '、', '+'], ",");
        let is_separator = |c: char| ",()[]{} .".contains(c);
        let parts: Vec<&str> = spaced.split(is_separator).filter(|part| !part.is_empty()).collect();
        let is_letter = |part: &&str| part.len() == 1 && part.starts_with(|c: char| c.is_ascii_uppercase());
        let is_listed = |letter: char| question.options.is_empty() || question.option(letter).is_some();
        let letters: Vec<char> = match parts.as_slice() {
            [run] if (2..=8).contains(&run.len()) && run.chars().all(|c| c.is_ascii_uppercase()) => {
                run.chars().collect()
            }
            parts if parts.len() > 1 && parts.iter().all(is_letter) => parts.concat().chars().collect(),
            _ => return None,
        };
        let mut sorted = letters.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let is_marked = parts.len() > 1 || !question.options.is_empty();
        (sorted.len() == letters.len() && letters.iter().all(|letter| is_listed(*letter))).then_some(Self {
            letters,
            text: None,
            is_marked,
            is_initial: false,
        })
    }

    fn against(&self, correct: &Self, question: &Question) -> Option<Verdict> {
        let lengths = (self.letters.len(), correct.letters.len());
        if lengths == (1, 1) {
            // Without listed options, `J. Smith` may be a name.
            let is_unsure = |choice: &Self| choice.is_initial && choice.text.is_some() && question.options.is_empty();
            if is_unsure(correct) && self.text.is_none() {
                return Some(Verdict::unknown("the question lists no options to read the reference as one"));
            }
            if self.letters != correct.letters {
                return Some(Verdict::Different);
            }
            return Some(match (self.text.as_deref(), correct.text.as_deref()) {
                (Some(said), Some(right)) if words(said) == words(right) => Verdict::Same,
                (Some(_), Some(_)) if question.options.is_empty() => Verdict::Different,
                (Some(said), _) => Verdict::of(!names_another(said, self.letters[0], question)),
                (None, _) => Verdict::Same,
            });
        }
        if !self.is_marked && !correct.is_marked {
            return None; // Two words in capitals.
        }
        let sorted = |letters: &[char]| {
            let mut letters = letters.to_vec();
            if !question.asks_order {
                letters.sort_unstable();
            }
            letters
        };
        Some(Verdict::of(sorted(&self.letters) == sorted(&correct.letters)))
    }

    /// Whether `text`, which chooses no letter, is this option: its letter in lower case, or its text.
    fn described(&self, text: &str, question: &Question) -> Option<Verdict> {
        let &[letter] = self.letters.as_slice() else {
            return self.is_marked.then_some(Verdict::unknown("the answer names no options"));
        };
        let said = words(text);
        let is_own_letter = said.len() == 1 && said.eq_ignore_ascii_case(&letter.to_string());
        let own = self.text.as_deref().filter(|_| !self.is_initial || !question.options.is_empty());
        let own = own.or_else(|| question.option(letter)).map(words);
        if is_own_letter || own.as_deref() == Some(said.as_str()) {
            return Some(Verdict::Same);
        }
        if names_another(text, letter, question) {
            return Some(Verdict::Different);
        }
        let listed = question.options.iter().any(|(listed, _)| *listed == letter);
        listed.then_some(Verdict::unknown("the answer is none of the options"))
    }

    /// Whether this choice is the option whose text is `solution`.
    fn names(&self, solution: &str, question: &Question) -> Option<Verdict> {
        let &[letter] = self.letters.as_slice() else { return None };
        let right = words(solution);
        match question.options.iter().find(|(_, text)| words(text) == right) {
            Some((correct, _)) => Some(Verdict::of(*correct == letter)),
            None => (self.text.as_deref().map(words) == Some(right)).then_some(Verdict::Same),
        }
    }
}

/// Whether a text is that of another option than `letter`'s.
fn names_another(text: &str, letter: char, question: &Question) -> bool {
    let said = words(text);
    question.option(letter).map(words) != Some(said.clone())
        && question.options.iter().any(|(listed, option)| *listed != letter && words(option) == said)
}

/// Whether the text of an option is or lists options itself: `B`, `cat (B) dog`, `cat B. dog`.
fn names_an_option(text: &str) -> bool {
    let is_letter = |word: &str| word.len() == 1 && word.starts_with(|c: char| c.is_ascii_uppercase());
    let words: Vec<&str> = text.split_whitespace().collect();
    let marked = |word: &&str| {
        let bare = word.strip_suffix(['.', ')', ':', ',']).map(|word| word.strip_prefix('(').unwrap_or(word));
        bare.is_some_and(is_letter)
    };
    let before_last = &words[..words.len().saturating_sub(1)];
    let begins =
        words.first().is_some_and(|word| is_letter(word) && words.len() > 1 && matches!(words[1], "or" | "and"));
    (words.len() == 1 && is_letter(words[0]))
        || begins
        || before_last.iter().any(marked)
        || words.last().is_some_and(|word| word.starts_with('(') && marked(word))
}
