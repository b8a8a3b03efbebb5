//! Digits that are no mathematics: dates, times, pairs of numbers (ranges, scores, sizes, ratios) and codes (phone numbers, versions,
//! serial numbers). They are compared part by part and never computed.

mod code;
mod comparison;
mod date;
mod kinds;
mod pair;
mod time;
mod token;

use super::question::{DigitForm, Question};
use super::text::is_latex;
use super::value::{Separators, split_list};
use super::verdict::Verdict;
use code::{code, is_code, is_phone};
use date::date;
pub(super) use date::weekday;
use kinds::Literal;
use pair::pair;
use time::{time, with_digits};
use token::{Token, tokens};

/// Compares two texts (canonical, without LaTeX's markup; `are_latex` says whether they had some) if one of them reads as a literal; `None`
/// where neither does, or where they are mathematics.
pub(super) fn compare(answer: &str, solution: &str, are_latex: bool, question: &Question) -> Option<Verdict> {
    let reads = [answer, solution].map(|text| Literal::read(text, are_latex, question));
    match reads {
        [Some(answer), Some(solution)] => Some(answer.compare(&solution, question)),
        [None, None] => None,
        // A code may be written without signs, and a number is no date, range or size.
        [Some(read), None] => read.against(solution, question),
        [None, Some(read)] => read.against(answer, question),
    }
}

impl Literal {
    fn read(text: &str, is_latex: bool, question: &Question) -> Option<Self> {
        let lower = with_digits(&text.trim().to_lowercase());
        if lower.len() > 64
            || !(lower.contains(|c: char| c.is_ascii_digit()) || lower.contains("past") || lower.contains("to"))
        {
            return None;
        }
        let tokens = tokens(&lower);
        let date = || date(&lower, &tokens);
        let time = || time(&tokens, question);
        if question.digits == DigitForm::Code {
            return date().or_else(|| code(&tokens));
        }
        if is_phone(&tokens) {
            return date().or_else(|| code(&tokens));
        }
        date().or_else(time).or_else(|| pair(&lower, &tokens, is_latex, question)).or_else(|| {
            let is_version = matches!(tokens.as_slice(), [Token::Word("v" | "version"), Token::Digits(_), ..])
                || (tokens.iter().filter_map(Token::digits).count() >= 3
                    && tokens.iter().all(|token| matches!(token, Token::Digits(_) | Token::Sign('.'))));
            (is_version || is_code(&tokens)).then(|| code(&tokens)).flatten()
        })
    }
}

/// Whether a text is a list of which some element is a pair, a date or another literal: `6-4, 6-3`.
pub(super) fn is_list(text: &str, question: &Question) -> bool {
    let parts = split_list(text, Separators::Words);
    parts.len() > 1 && parts.iter().any(|part| Literal::read(part, false, question).is_some())
}

/// Whether a text had LaTeX's commands or delimiters, which make digits mathematics.
pub(super) fn are_latex(answer: &str, solution: &str) -> bool {
    is_latex(answer) || is_latex(solution)
}
