//! Options of a multiple-choice question, in the forms in which models and data sets write them.

use super::question::Question;
use super::text::{trimmed, words};
use super::value::{Separators, split_list};
use super::{Verdict, same_text};

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
/// Words after an option's letter that say something of it other than its text.
const STATEMENTS: [&str; 16] = [
    "wrong",
    "incorrect",
    "not",
    "no",
    "or",
    "maybe",
    "is",
    "isn't",
    "are",
    "false",
    "but",
    "and",
    "never",
    "rejected",
    "answer",
    "excluded",
];
const NO_OPTIONS: &str = "the question lists no options to read it as one";
const NONE_OF_THEM: &str = "the answer is none of the options";

/// Chosen letters, and the text that follows a single one.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Choice {
    /// In the order in which they were written.
    letters: Vec<char>,
    /// What follows the letter.
    text: Option<String>,
    /// Whether the letters have signs between or around them, or are those of listed options, so that they are no word.
    is_marked: bool,
    /// Whether a full stop alone separates letter and text, as in an initial.
    is_initial: bool,
}

/// Compares two texts (canonical, without LaTeX's markup) if the solution or the answer chooses an option; `None` where neither does.
pub(super) fn compare(answer: &str, solution: &str, question: &Question) -> Option<Verdict> {
    if !question.numbered.is_empty() {
        let [chosen, correct] = [answer, solution].map(|text| numbered(text, question));
        return chosen.zip(correct).map(|(chosen, correct)| Verdict::of(chosen == correct));
    }
    let correct = Choice::read(solution, question);
    // The text of an option may have letters itself: `Both A and B`.
    if let Some(correct) = &correct
        && let &[letter] = correct.letters.as_slice()
        && trimmed(answer).chars().count() > 1
        && let Some(chosen) = option_of(answer, question)
    {
        return Some(Verdict::of(chosen == letter));
    }
    let chosen = Choice::read(answer, question);
    match (chosen, correct) {
        (Some(chosen), Some(correct)) => chosen.against(&correct, question),
        (None, Some(correct)) => correct.described(answer, question),
        (Some(chosen), None) => chosen.names(solution, question),
        (None, None) => None,
    }
}

/// The only option whose text is the same as `text`.
fn option_of(text: &str, question: &Question) -> Option<char> {
    let mut found = question.options.iter().filter(|(_, option)| same_text(text, option, question));
    let (letter, _) = found.next()?;
    found.next().is_none().then_some(*letter)
}

/// The place of a numbered option that a text names by its label, its text, or both.
fn numbered(text: &str, question: &Question) -> Option<usize> {
    let text = trimmed(text);
    let is_text = |text: &str, option: &str| same_text(text, option, question);
    let names = |(label, option): &(String, String)| {
        let bare = text.trim_start_matches('(').strip_prefix(label.as_str());
        let rest = bare.filter(|rest| rest.is_empty() || rest.starts_with(['.', ')', ':']));
        rest.is_some_and(|rest| {
            let rest = trimmed(rest.trim_start_matches(['.', ')', ':']));
            rest.is_empty() || is_text(rest, option)
        })
    };
    let by_label = question.numbered.iter().position(names);
    by_label.or_else(|| question.numbered.iter().position(|(_, option)| is_text(text, option)))
}

impl Choice {
    fn read(text: &str, question: &Question) -> Option<Self> {
        let text = trimmed(text);
        let stated = SAID_RIGHT.iter().find_map(|end| text.strip_suffix(end)).map(trimmed);
        if let Some(choice) = stated.and_then(|text| Self::letter(text, question)) {
            return choice.text.is_none().then_some(choice);
        }
        Self::letter(text, question).or_else(|| Self::behind(text, question)).or_else(|| Self::several(text, question))
    }

    fn one(letter: char, text: Option<String>, is_marked: bool, is_initial: bool) -> Self {
        Self { letters: vec![letter.to_ascii_uppercase()], text, is_marked, is_initial }
    }

    /// A single letter: `B`, `(B)`, `[B]`, `B.`, `B) cat`, `B: cat`, `B - cat`, `(b) cat`, `B cat`. A bare letter must be a capital, so that a
    /// variable or an article is none, unless the question lists small ones. What says something else after the letter chooses none.
    fn letter(text: &str, question: &Question) -> Option<Self> {
        let pairs = [('(', ')'), ('[', ']'), ('{', '}'), ('<', '>')];
        let open = pairs.iter().find(|(open, _)| text.starts_with(*open));
        let mut characters = text.chars();
        if open.is_some() {
            characters.next();
        }
        let letter = characters.next().filter(char::is_ascii_alphabetic)?;
        let rest = characters.as_str();
        let is_bare = letter.is_ascii_uppercase() || question.has_small_letters;
        let (after, is_initial) = match open {
            Some((_, close)) => (rest.strip_prefix(*close)?, false),
            None if rest.is_empty() => is_bare.then_some(("", false))?,
            None => Self::marked(rest, letter, question)?,
        };
        let after = after.trim_start_matches(['.', ':', ' ', ')', '–', ',', '\n']);
        let after = trimmed(after.strip_prefix("- ").unwrap_or(after));
        let after = after.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).unwrap_or(after);
        let choice = Self::one(letter, (!after.is_empty()).then(|| after.to_owned()), open.is_some(), is_initial);
        choice.is_plain(question).then_some(choice)
    }

    /// What follows an option's letter, and whether only a full stop separates them; `None` where the letter begins a word, a sentence or a
    /// list.
    fn marked<'a>(rest: &'a str, letter: char, question: &Question) -> Option<(&'a str, bool)> {
        let own = |text: &str| {
            let option = question.option(letter.to_ascii_uppercase());
            option.is_some_and(|option| same_text(text, option, question))
        };
        if let Some(after) = rest.strip_prefix([')', ':', ']']) {
            return Some((after, false));
        }
        if let Some(after) = rest.strip_prefix('.') {
            let is_apart = after.is_empty() || after.starts_with([' ', '\n']);
            return (is_apart || own(after)).then_some((after, true));
        }
        if !letter.is_ascii_uppercase() {
            return None;
        }
        if [" - ", " – ", " -> ", " = ", " ("].iter().any(|mark| rest.starts_with(mark)) {
            return Some((rest.trim_start_matches([' ', '-', '–', '>', '=']), false));
        }
        // After a comma, a line end or a space alone only the option's own text may stand.
        let after = rest.strip_prefix([',', '\n', ' '])?;
        own(after).then_some((after, false))
    }

    /// Whether what follows the letter is the text of an option, as far as one can tell: with listed options it holds the option's own
    /// text, or is another's.
    fn is_plain(&self, question: &Question) -> bool {
        let Some(text) = &self.text else { return true };
        let letter = self.letters[0];
        let own = question.option(letter);
        if own.is_some_and(|own| same_text(text, own, question)) || names_another(text, letter, question) {
            return true;
        }
        let says_more = words(text).split(' ').any(|word| STATEMENTS.contains(&word)) || names_letters(text);
        match own {
            Some(own) => !says_more && format!(" {} ", words(text)).contains(&format!(" {} ", words(own))),
            None => !says_more,
        }
    }

    /// A letter after its option's text: `dark blue (B)`.
    fn behind(text: &str, question: &Question) -> Option<Self> {
        let (before, letter) = text.strip_suffix(')')?.rsplit_once('(')?;
        let mut letters = letter.chars();
        let letter = letters.next().filter(|letter| letter.is_ascii_uppercase() && letters.next().is_none())?;
        let own = question.option(letter)?;
        same_text(before, own, question).then(|| Self::one(letter, Some(own.to_owned()), true, false))
    }

    /// Several letters: `B, C`, `B and C`, `BC`, `(A)(C)`, `A. apple, C. pear`, or the texts of several options.
    fn several(text: &str, question: &Question) -> Option<Self> {
        let text = ["both ", "Both ", "options ", "Options ", "answers ", "Answers "]
            .iter()
            .find_map(|word| text.strip_prefix(word))
            .unwrap_or(text);
        let spaced = text.replace(" and ", ",").replace("->", ",").replace(['&', ';', '/', '+', '→', '和', '与'], ",");
        let is_separator = |c: char| ",()[]{}'\" .".contains(c);
        let parts: Vec<&str> = spaced.split(is_separator).filter(|part| !part.is_empty()).collect();
        let is_letter = |part: &&str| part.len() == 1 && part.starts_with(|c: char| c.is_ascii_uppercase());
        let is_listed = |letter: char| question.options.is_empty() || question.option(letter).is_some();
        let described = || -> Option<Vec<char>> {
            let elements = split_list(text, Separators::Words);
            let letter = |element: &&str| match Self::letter(element, question) {
                Some(choice) => {
                    let letter = choice.letters[0];
                    let is_other = choice.text.is_some_and(|text| names_another(&text, letter, question));
                    (!is_other).then_some(letter)
                }
                None => option_of(element, question),
            };
            if elements.len() > 1 && !question.options.is_empty() {
                elements.iter().map(letter).collect()
            } else {
                None
            }
        };
        let letters: Vec<char> = match parts.as_slice() {
            [run] if (2..=8).contains(&run.len()) && run.chars().all(|c| c.is_ascii_uppercase()) => {
                run.chars().collect()
            }
            parts if parts.len() > 1 && parts.iter().all(is_letter) => parts.concat().chars().collect(),
            _ => described()?,
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

    /// Whether letter and text may be an initial and a name: `J. Smith`, where the question does not speak of options.
    fn may_be_a_name(&self, question: &Question) -> bool {
        self.is_initial && self.text.is_some() && question.options.is_empty() && !question.speaks_of_options
    }

    fn against(&self, correct: &Self, question: &Question) -> Option<Verdict> {
        if (self.letters.len(), correct.letters.len()) == (1, 1) {
            let is_one_bare = self.text.is_none() != correct.text.is_none();
            if is_one_bare && (correct.may_be_a_name(question) || self.may_be_a_name(question)) {
                return Some(Verdict::unknown(NO_OPTIONS));
            }
            if self.letters != correct.letters {
                return Some(Verdict::Different);
            }
            return Some(match (self.text.as_deref(), correct.text.as_deref()) {
                (Some(said), Some(right)) if same_text(said, right, question) => Verdict::Same,
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
        if self.may_be_a_name(question) {
            return Some(Verdict::unknown(NO_OPTIONS));
        }
        let own = self.text.as_deref().or_else(|| question.option(letter));
        let is_own_letter = trimmed(text).eq_ignore_ascii_case(&letter.to_string());
        if is_own_letter || own.is_some_and(|own| same_text(text, own, question)) {
            return Some(Verdict::Same);
        }
        match option_of(text, question) {
            Some(other) => Some(Verdict::of(other == letter)),
            None => question.option(letter).map(|_| Verdict::unknown(NONE_OF_THEM)),
        }
    }

    /// Whether this choice is the option whose text is `solution`.
    fn names(&self, solution: &str, question: &Question) -> Option<Verdict> {
        let &[letter] = self.letters.as_slice() else { return None };
        if self.text.as_deref().is_some_and(|text| names_another(text, letter, question)) {
            return Some(Verdict::Different);
        }
        match option_of(solution, question) {
            Some(correct) => Some(Verdict::of(correct == letter)),
            None => {
                self.text.as_deref().is_some_and(|text| same_text(text, solution, question)).then_some(Verdict::Same)
            }
        }
    }
}

/// Whether a text is that of another option than `letter`'s.
fn names_another(text: &str, letter: char, question: &Question) -> bool {
    option_of(text, question).is_some_and(|option| option != letter)
}

/// Whether a text is or marks letters of options: `B`, `cat (B) dog`, `cat B. dog`, but not `Vitamin A`.
fn names_letters(text: &str) -> bool {
    let is_letter = |word: &str| word.len() == 1 && word.starts_with(|c: char| c.is_ascii_uppercase());
    let characters: Vec<char> = text.chars().collect();
    let in_brackets = characters.windows(3).any(|three| matches!(three, ['(', 'A'..='Z', ')']));
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_marked = |word: &&str| word.strip_suffix(['.', ')', ':', ',']).is_some_and(is_letter);
    let before_last = &words[..words.len().saturating_sub(1)];
    in_brackets || matches!(words.as_slice(), [only] if is_letter(only)) || before_last.iter().any(is_marked)
}
