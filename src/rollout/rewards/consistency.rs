//! Does the thought conclude what the answer says? By rule: the conclusion, in the last part of the thought, must name the answer, by
//! itself or as the option that it is, and must not deny it. Or by the judge, as in Thyme's `cst_orm`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::equivalence::{Question, Separators, Verdict, is_ideograph, judge, numbers, split_list, words};
use super::judge_reply::ask_for_scores;
use crate::rollout::judge::Judge;
use crate::rollout::reward::{Reward, Score, View};

/// What the judge is told.
const JUDGE_SYSTEM: &str = "You compare how a model reasoned with its final answer to the same question. Does the reasoning come to the same \
    conclusion as the final answer? Reply with a JSON object and nothing else: {\"Consistency\": 1} if it does, {\"Consistency\": 0} if it does \
    not.";
/// The key of its verdict.
const JUDGE_KEY: &str = "Consistency";

/// Bytes of a character at most.
const CHARACTER_BYTES_MAX: usize = 4;
/// Words that announce a conclusion.
const ANNOUNCEMENTS: [&str; 12] = [
    "answer is",
    "answer:",
    "answer would be",
    "answer should be",
    "answer must be",
    "answer seems",
    "option is",
    "choice is",
    "i conclude",
    "答案是",
    "答案为",
    "答案:",
];
/// Words that deny or leave open what follows them in the same clause.
const DENIALS: &str = "not no never neither nor cannot can't isn't aren't wasn't weren't doesn't don't didn't won't without unlike \
    exclude excludes eliminate eliminates reject rejects rule rules ruling doubt unlikely if whether wonder maybe perhaps thought \
    resembles than least most between over under up instead anything initially almost nearly";
/// Words that deny what stands before them in the same clause.
const REFUSALS: &str =
    "not isn't aren't doesn't wrong incorrect impossible false excluded eliminated rejected unlikely ruled too fails";
/// Words between the answer and a refusal.
const REFUSAL_WORDS: usize = 4;
/// Words after a number that make it part of another statement.
const CONTINUED: &str = "to or percent if squared cubed minus plus times";
/// Words before a number that say that it results.
const RESULTS: &str =
    "is are was were gives give makes make equals = becomes leaves get gets be shows reads says so total";
/// Where a clause with another statement begins.
const CLAUSES: [&str; 12] =
    [";", ",", ":", "，", "。", " but ", " yet ", " whereas ", " while ", " however ", " and not ", " rather than "];
/// Clauses that deny what they say.
const DENYING_CLAUSES: [&str; 2] = [" and not ", " rather than "];

/// Settings of the reward `consistency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsistencySettings {
    /// Who compares the thought with the answer.
    pub by: ConsistencyBy,
    /// Characters at the end of the thought in which the conclusion is looked for; 500 as in Thyme.
    pub last_characters: usize,
}

impl Default for ConsistencySettings {
    fn default() -> Self {
        Self { by: ConsistencyBy::Rule, last_characters: 500 }
    }
}

/// Who compares the thought with the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsistencyBy {
    /// The rule.
    #[default]
    Rule,
    /// The judge, which needs `[reward.judge]`.
    Judge,
}

/// 1 if the conclusion names the answer, 0 if not or if there is no answer. Counts only where the answer is right.
pub struct Consistency {
    /// Where the conclusion is looked for, and by whom.
    pub settings: ConsistencySettings,
    /// Asked where the settings say so.
    pub judge: Option<Arc<dyn Judge>>,
}

impl Reward for Consistency {
    fn gate(&self) -> Option<&'static str> {
        Some("answer")
    }

    fn asks_judge(&self) -> bool {
        self.settings.by == ConsistencyBy::Judge
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| self.score(view)).collect()
    }
}

impl Consistency {
    fn score(&self, view: &View<'_>) -> Score {
        let Some(answer) = view.answer.as_deref().filter(|answer| !answer.is_empty()) else { return Score::Value(0.0) };
        let thought = last_part(between_think_tags(&view.thought), self.settings.last_characters);
        match self.settings.by {
            ConsistencyBy::Judge => self.judged(thought, answer),
            // The last part of the thought is shorter, so it cannot name it.
            ConsistencyBy::Rule if answer.len() > CHARACTER_BYTES_MAX * self.settings.last_characters => {
                Score::Value(0.0)
            }
            ConsistencyBy::Rule => Score::of(concludes(conclusion(thought), answer, &Question::read(view.question))),
        }
    }

    fn judged(&self, thought: &str, answer: &str) -> Score {
        let user = format!("Reasoning:\n{thought}\n\nFinal answer: {answer}");
        match ask_for_scores(self.judge.as_ref(), (JUDGE_SYSTEM, &user), [JUDGE_KEY], 0..=1) {
            Ok([verdict]) => Score::of(verdict == 1),
            Err(reason) => Score::Unscored(reason),
        }
    }
}

/// The thought without its tags, and without what stands outside them.
pub(super) fn between_think_tags(thought: &str) -> &str {
    let thought = thought.split_once("<think>").map_or(thought, |(_, rest)| rest);
    thought.split_once("</think>").map_or(thought, |(inside, _)| inside)
}

fn last_part(thought: &str, characters: usize) -> &str {
    let Some(before) = characters.checked_sub(1) else { return "" };
    let start = thought.char_indices().rev().nth(before).map_or(0, |(offset, _)| offset);
    &thought[start..]
}

/// What the thought ends on: what follows the last words like "the answer is", else the last two sentences.
fn conclusion(text: &str) -> &str {
    let lower = text.to_ascii_lowercase();
    // `answer isn't` announces nothing.
    let is_whole = |end: &usize| !lower[*end..].starts_with(|c: char| c.is_ascii_alphabetic());
    let places = ANNOUNCEMENTS.iter().flat_map(|words| lower.match_indices(words).map(|(at, words)| at + words.len()));
    let announced = places.filter(is_whole).max();
    let sentences = sentences(text);
    let last_two = sentences.get(sentences.len().saturating_sub(2)).map_or(0, |(start, _)| *start);
    &text[announced.unwrap_or(last_two)..]
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

/// Whether a conclusion says that `answer` holds: of all that it states and does not deny, the last is the answer. Where the answer has
/// several parts, it states each of them.
fn concludes(conclusion: &str, answer: &str, question: &Question) -> bool {
    let first = sentences(conclusion).first().map_or("", |&(start, end)| &conclusion[start..end]);
    let is_alone = sentences(conclusion).len() <= 1 && !first.trim_end().ends_with(['?', '？']);
    if is_alone && judge(first.trim().trim_start_matches([':', ' ']), answer, question) == Verdict::Same {
        return true;
    }
    let parts = split_list(answer, Separators::Words);
    if parts.len() > 1 && !parts.iter().any(|part| words(part).is_empty()) {
        return parts.iter().all(|part| AnswerForms::of(part, question).last_stated(conclusion, question, true).0);
    }
    AnswerForms::of(answer, question).last_stated(conclusion, question, false).1
}

/// The clauses of a text, and whether each says what does not hold.
fn clauses(text: &str) -> Vec<(&str, bool)> {
    let mut clauses = Vec::new();
    for (start, end) in sentences(text) {
        let (mut rest, mut is_denied) = (&text[start..end], false);
        let is_question = rest.trim_end().ends_with(['?', '？']);
        loop {
            let cut = CLAUSES.iter().filter_map(|mark| find_cut(rest, mark).map(|at| (at, *mark)));
            let Some((at, mark)) = cut.min_by_key(|(at, mark)| (*at, usize::MAX - mark.len())) else { break };
            clauses.push((&rest[..at], is_denied || is_question));
            is_denied = DENYING_CLAUSES.contains(&mark);
            rest = &rest[at + mark.len()..];
        }
        clauses.push((rest, is_denied || is_question));
    }
    clauses
}

/// The first place of a clause's mark; a comma or colon between digits belongs to a number.
fn find_cut(text: &str, mark: &str) -> Option<usize> {
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let is_inside = |at: usize| {
        mark.len() == 1 && is_digit(text[..at].chars().next_back()) && is_digit(text[at + mark.len()..].chars().next())
    };
    text.match_indices(mark).map(|(at, _)| at).find(|&at| !is_inside(at))
}

/// The ways in which a sentence may name an answer.
struct AnswerForms {
    /// The answer, and the text of the option that it is.
    texts: Vec<String>,
    /// The letter of the option that it is.
    letter: Option<char>,
    /// Whether it is a number, which other numbers contradict.
    is_number: bool,
}

/// Something that a clause names: its words, and whether it is the answer.
struct Mention {
    at: usize,
    count: usize,
    is_own: bool,
    is_number: bool,
}

impl AnswerForms {
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
        Self { texts, letter, is_number: letter.is_none() && !numbers(answer).is_empty() }
    }

    /// Whether the answer is stated anywhere in a text, and whether it is the last that is stated. With `is_part`, other parts of the answer
    /// may stand beside it.
    fn last_stated(&self, text: &str, question: &Question, is_part: bool) -> (bool, bool) {
        let (mut ever, mut last) = (false, false);
        for (clause, is_denied) in clauses(text) {
            let spaced = spaced(clause);
            let apart = |c: char| c.is_whitespace() || "!?;\"“”*`()[]".contains(c);
            let said: Vec<&str> = spaced.split(apart).filter(|word| !bare(word).is_empty()).collect();
            for mention in self.mentions(&said, question) {
                if !is_denied && is_stated(&said, &mention, is_part) {
                    ever |= mention.is_own;
                    last = mention.is_own;
                }
            }
        }
        (ever, last)
    }

    /// What a clause names, in order: the answer, other options, other numbers. What is part of a longer name is left out.
    fn mentions(&self, said: &[&str], question: &Question) -> Vec<Mention> {
        let mut found: Vec<Mention> = Vec::new();
        for at in 0..said.len() {
            let word = bare(said[at]);
            let is_letter =
                word.len() == 1 && word.starts_with(|c: char| c.is_ascii_uppercase()) && !is_article(said, at);
            if is_letter && let Some(own) = self.letter {
                found.push(Mention { at, count: 1, is_own: word.starts_with(own), is_number: false });
            }
            for (text, is_own) in self.texts(question) {
                let count = text.split_whitespace().count();
                if count > 0 && at + count <= said.len() && are_words_of(&said[at..at + count], text, is_own, question)
                {
                    found.push(Mention { at, count, is_own, is_number: self.is_number });
                }
            }
            let is_other = self.is_number && !found.iter().any(|mention| mention.at + mention.count > at);
            if is_other && !numbers(word).is_empty() {
                found.push(Mention { at, count: 1, is_own: false, is_number: true });
            }
        }
        let is_inside = |mention: &Mention, other: &Mention| {
            other.count > mention.count
                && other.at <= mention.at
                && mention.at + mention.count <= other.at + other.count
        };
        let kept: Vec<bool> =
            found.iter().map(|mention| !found.iter().any(|other| is_inside(mention, other))).collect();
        found.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(mention, _)| mention).collect()
    }

    /// The texts that are looked for, and whether each is the answer.
    fn texts<'a>(&'a self, question: &'a Question) -> impl Iterator<Item = (&'a str, bool)> {
        let own = self.texts.iter().map(|text| (text.as_str(), true));
        let others = question.options.iter().filter(|(letter, _)| self.letter.is_some_and(|own| own != *letter));
        own.chain(others.map(|(_, text)| (text.as_str(), false)))
    }
}

/// Whether words name a text: the same words, or for a single word the same value.
fn are_words_of(said: &[&str], text: &str, is_own: bool, question: &Question) -> bool {
    let joined = said.join(" ");
    let joined = bare(&joined);
    let is_single_letter = joined.len() == 1 && joined.starts_with(|c: char| c.is_ascii_alphabetic());
    words(joined) == words(text)
        || (said.len() == 1 && is_own && !is_single_letter && judge(joined, text, question) == Verdict::Same)
}

/// Whether the article `A` or the pronoun `I` stands there rather than an option's letter.
fn is_article(said: &[&str], at: usize) -> bool {
    let next = said.get(at + 1);
    matches!(said[at], "A" | "I")
        && next
            .is_some_and(|next| next.starts_with(|c: char| c.is_lowercase()) && !matches!(*next, "is" | "and" | "are"))
}

/// Whether a clause says that what it names holds: no word before or after it denies it or leaves it open.
fn is_stated(said: &[&str], mention: &Mention, is_part: bool) -> bool {
    let among = |list: &str, word: &str| list.split_whitespace().any(|listed| listed.eq_ignore_ascii_case(word));
    let (before, behind) = (&said[..mention.at], &said[mention.at + mention.count..]);
    let denies = |word: &str| among(DENIALS, word) || word.ends_with("不是") || word.ends_with("并非");
    let is_denied = before.iter().any(|word| denies(bare(word)));
    let refusals = behind.iter().take(REFUSAL_WORDS).take_while(|word| **word != "and");
    let is_refused = refusals.into_iter().any(|word| among(REFUSALS, bare(word)));
    let noun = before.iter().rev().map(|word| bare(word)).find(|word| !among("a an the", word));
    let is_or = |word: Option<&str>| word.is_some_and(|word| word.eq_ignore_ascii_case("or") || word == "或");
    let is_open = !is_part && (is_or(behind.first().map(|word| bare(word))) || is_or(noun));
    let is_continued = mention.is_number && !is_part && behind.first().is_some_and(|word| among(CONTINUED, bare(word)));
    // Another number contradicts where it is said to result, or stands alone.
    let results = noun.is_none_or(|word| among(RESULTS, word)) || said.len() == 1;
    let counts = mention.is_own || !mention.is_number || results;
    !is_denied && !is_refused && !is_open && !is_continued && counts
}

fn bare(word: &str) -> &str {
    word.trim_matches(['.', ',', ':', '\'', '。', '，', '?', '!'])
}

/// A text with spaces between ideographs and Latin letters or digits: `答案是B` names `B`.
fn spaced(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    let mut last = ' ';
    for character in text.chars() {
        let is_border = (is_ideograph(last) && character.is_ascii_alphanumeric())
            || (last.is_ascii_alphanumeric() && is_ideograph(character))
            || character == '='
            || last == '=';
        if is_border {
            spaced.push(' ');
        }
        spaced.push(character);
        last = character;
    }
    spaced
}
