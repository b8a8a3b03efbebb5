//! Does the thought conclude what the answer says? By rule: the conclusion, in the last part of the thought, must name the answer, by
//! itself or as the option that it is, and must not deny it.

use super::equivalence::{Question, Verdict, judge, words};
use crate::rollout::reward::{Reward, Score, View};

/// Characters at the end of the thought in which the conclusion is looked for, as in Thyme.
const LAST_CHARACTERS: usize = 500;
/// Words that announce a conclusion.
const ANNOUNCEMENTS: [&str; 9] = [
    "answer is",
    "answer:",
    "answer would be",
    "answer should be",
    "answer must be",
    "answer isn't",
    "option is",
    "choice is",
    "i conclude",
];
/// Words that deny what follows them in the same clause.
const DENIALS: [&str; 17] = [
    "not", "no", "never", "neither", "nor", "cannot", "can't", "isn't", "aren't", "wasn't", "weren't", "doesn't",
    "don't", "didn't", "won't", "without", "unlike",
];
/// Words that deny what stands before them in the same clause.
const REFUSALS: [&str; 10] =
    ["not", "isn't", "wrong", "incorrect", "impossible", "false", "excluded", "eliminated", "unlikely", "ruled"];
/// Words between the answer and a refusal.
const REFUSAL_WORDS: usize = 4;
/// Where a clause with another statement begins.
const CLAUSES: [&str; 9] =
    [";", " but ", ", not ", " rather than ", " instead of ", " whereas ", " while ", " however", ", so "];
/// Clauses that deny what they say.
const DENYING: [&str; 3] = [", not ", " rather than ", " instead of "];

/// 1 if the conclusion names the answer, 0 if not or if there is no answer. Counts only where the answer is right.
pub struct Consistency;

impl Reward for Consistency {
    fn name(&self) -> &'static str {
        "consistency"
    }

    fn default_weight(&self) -> f64 {
        0.5
    }

    fn gate(&self) -> Option<&'static str> {
        Some("answer")
    }

    fn score(&self, view: &View<'_>) -> Score {
        let Some(answer) = view.answer().filter(|answer| !answer.is_empty()) else { return Score::Value(0.0) };
        let thought = thought(&view.text);
        let question = Question::read(view.question);
        Score::of(conclusion(last_part(&thought)).is_some_and(|conclusion| concludes(conclusion, answer, &question)))
    }
}

/// The thought without code: what a program prints or computes is not a conclusion.
fn thought(text: &str) -> String {
    let text = text.split_once("<think>").map_or(text, |(_, rest)| rest);
    let text = text.split("</think>").next().unwrap_or(text);
    let text = text.rsplit_once("<answer>").map_or(text, |(before, _)| before);
    let mut prose = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<code>") {
        prose.push_str(before);
        prose.push('\n');
        rest = after.split_once("</code>").map_or("", |(_, after)| after);
    }
    prose.push_str(rest);
    prose
}

fn last_part(thought: &str) -> &str {
    let start = thought.char_indices().rev().nth(LAST_CHARACTERS - 1).map_or(0, |(offset, _)| offset);
    &thought[start..]
}

/// What the thought ends on: the sentence from the last words like "the answer is" on, else the last two sentences.
fn conclusion(text: &str) -> Option<&str> {
    let sentences = sentences(text);
    let lower = text.to_ascii_lowercase();
    let announced = ANNOUNCEMENTS.iter().filter_map(|words| lower.rfind(words).map(|at| at + words.len())).max();
    match announced {
        Some(at) => {
            let end = sentences.iter().map(|&(_, end)| end).find(|&end| end > at).unwrap_or(text.len());
            let begin = if lower[..at].ends_with("isn't") { at - "isn't".len() } else { at };
            Some(&text[begin..end])
        }
        None => {
            let (start, _) = sentences.get(sentences.len().saturating_sub(2))?;
            Some(&text[*start..])
        }
    }
}

/// The bounds of the sentences that are not blank: cut after `.`, `!`, `?` before a space, and at line ends.
fn sentences(text: &str) -> Vec<(usize, usize)> {
    let mut bounds = Vec::new();
    let mut start = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let end = at + character.len_utf8();
        let next_is_space = characters.peek().is_none_or(|(_, next)| next.is_whitespace());
        let is_initial = character == '.' && text[start..at].trim().chars().count() == 1;
        let is_full = matches!(character, '。' | '！' | '？');
        if character == '\n' || is_full || (matches!(character, '.' | '!' | '?') && next_is_space && !is_initial) {
            bounds.push((start, end));
            start = end;
        }
    }
    bounds.push((start, text.len()));
    bounds.retain(|&(start, end)| !text[start..end].trim().is_empty());
    bounds
}

/// Whether a conclusion says that `answer` holds.
fn concludes(conclusion: &str, answer: &str, question: &Question) -> bool {
    if judge(conclusion.trim().trim_start_matches([':', ' ']), answer, question) == Verdict::Same {
        return true;
    }
    let names = Names::of(answer, question);
    sentences(conclusion).iter().any(|&(start, end)| {
        clauses(&conclusion[start..end]).iter().any(|(clause, is_denied)| !is_denied && names.are_in(clause, question))
    })
}

/// The clauses of a sentence, and whether each says what does not hold.
fn clauses(sentence: &str) -> Vec<(&str, bool)> {
    let mut clauses = Vec::new();
    let (mut rest, mut is_denied) = (sentence, false);
    loop {
        let cut = CLAUSES.iter().filter_map(|mark| rest.find(mark).map(|at| (at, *mark))).min_by_key(|(at, _)| *at);
        let Some((at, mark)) = cut else { break };
        clauses.push((&rest[..at], is_denied));
        is_denied = DENYING.contains(&mark);
        rest = &rest[at + mark.len()..];
    }
    clauses.push((rest, is_denied));
    clauses
}

/// The ways in which a sentence may name an answer.
struct Names {
    /// The answer, and the text of the option that it is.
    texts: Vec<String>,
    /// The letter of the option that it is.
    letter: Option<char>,
}

impl Names {
    fn of(answer: &str, question: &Question) -> Self {
        let is_option = |(letter, text): &&(char, String)| {
            judge(answer, &letter.to_string(), question) == Verdict::Same || words(answer) == words(text)
        };
        let option = question.options.iter().find(is_option);
        let mut letters = answer.trim_matches(|c: char| !c.is_alphanumeric()).chars();
        let alone = letters.next().filter(|letter| letter.is_ascii_uppercase() && letters.next().is_none());
        let letter = option.map(|(letter, _)| *letter).or(alone);
        let mut texts: Vec<String> = option.map(|(_, text)| text.clone()).into_iter().collect();
        if letter.is_none() || words(answer).chars().count() > 1 {
            texts.push(answer.to_owned());
        }
        Self { texts, letter }
    }

    fn are_in(&self, clause: &str, question: &Question) -> bool {
        let apart = |c: char| c.is_whitespace() || "!?;\"“”*`()[]".contains(c);
        let trim = |word: &'_ str| word.trim_matches(['.', ',', ':', '\'']).len();
        let said: Vec<&str> = clause.split(apart).filter(|word| trim(word) > 0).collect();
        let bare: Vec<&str> = said.iter().map(|word| word.trim_matches(['.', ',', ':', '\''])).collect();
        let is_stated = |at: usize, count: usize| {
            let lower = |word: &&str| word.to_lowercase();
            let denied = bare[..at].iter().map(lower).any(|word| DENIALS.contains(&word.as_str()));
            let behind = bare[at + count..].iter().take(REFUSAL_WORDS).map(lower);
            let refused = behind.into_iter().any(|word| REFUSALS.contains(&word.as_str()));
            let is_or = |word: Option<&&str>| word.is_some_and(|word| word.eq_ignore_ascii_case("or"));
            let is_article = |word: &&&str| ["a", "an", "the"].contains(&word.to_lowercase().as_str());
            let is_open = is_or(bare.get(at + count)) || is_or(bare[..at].iter().rev().find(|word| !is_article(word)));
            !denied && !refused && !is_open
        };
        let letter = self.letter.map(|letter| letter.to_string());
        let is_letter = |at: usize| {
            let is_it = Some(bare[at]) == letter.as_deref();
            // The article `A` stands before a word in lower case.
            let is_article = bare[at] == "A"
                && said[at] == "A"
                && bare.get(at + 1).is_some_and(|next| next.starts_with(|c: char| c.is_lowercase()) && *next != "is");
            is_it && !is_article
        };
        if (0..bare.len()).any(|at| is_letter(at) && is_stated(at, 1)) {
            return true;
        }
        // A single letter is an option's or an article, which is looked at above.
        let is_single_letter = |word: &str| word.len() == 1 && word.starts_with(|c: char| c.is_ascii_alphabetic());
        self.texts.iter().any(|text| {
            let wanted: Vec<&str> = text.split_whitespace().collect();
            let count = wanted.len();
            let equal = |window: &[&str]| {
                let joined = window.join(" ");
                words(&joined) == words(text)
                    || (count == 1 && !is_single_letter(&joined) && judge(&joined, text, question) == Verdict::Same)
                    || window.iter().zip(&wanted).all(|(a, b)| words(a) == words(b))
            };
            count > 0 && bare.windows(count).enumerate().any(|(at, window)| equal(window) && is_stated(at, count))
        })
    }
}
