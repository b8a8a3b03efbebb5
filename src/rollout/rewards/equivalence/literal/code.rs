//! Codes: phone numbers, versions, serial numbers.

use super::kinds::Literal;
use super::token::Token;

/// Digits from which on groups with signs between them are a phone number or an ISBN.
const CODE_DIGITS: usize = 7;

/// Whether a text has the form of a phone number or an ISBN: many digits in groups with hyphens, spaces or brackets between them, of which
/// two alone are no years (`555-1234`, `0800 123 456`).
pub(super) fn is_phone(tokens: &[Token<'_>]) -> bool {
    let groups: Vec<usize> = tokens.iter().filter_map(Token::digits).map(str::len).collect();
    let signs = tokens.iter().filter(|token| matches!(token, Token::Sign('-' | '–' | '(' | ')' | '+'))).count();
    let begins_with_zero = tokens.iter().find_map(Token::digits).is_some_and(|first| first.starts_with('0'));
    let is_apart = signs > 0 || begins_with_zero;
    tokens.iter().all(Token::is_of_phone)
        && groups.iter().sum::<usize>() >= CODE_DIGITS
        && is_apart
        && (groups.len() >= 3 || groups == [3, 4])
}

/// Whether letters and digits stand in groups with hyphens between them, as in `A12-34`.
pub(super) fn is_code(tokens: &[Token<'_>]) -> bool {
    let has_letter_before_digit = tokens.windows(2).any(|pair| matches!(pair, [Token::Word(_), Token::Digits(_)]));
    let is_plain =
        tokens.iter().all(|token| matches!(token, Token::Word(_) | Token::Digits(_) | Token::Sign('-' | '/' | '.')));
    has_letter_before_digit && is_plain && tokens.iter().any(|token| matches!(token, Token::Sign('-')))
}

/// The groups of a code: what stands between spaces, hyphens and brackets; a dot belongs to its group.
pub(super) fn code(tokens: &[Token<'_>]) -> Option<Literal> {
    let tokens = match tokens {
        [Token::Word("v" | "ver" | "version"), Token::Sign('.'), rest @ ..]
        | [Token::Word("v" | "ver" | "version"), rest @ ..]
            if !rest.is_empty() =>
        {
            rest
        }
        rest => rest,
    };
    let digits: usize = tokens.iter().filter_map(Token::digits).map(str::len).sum();
    let are_long = tokens.iter().filter_map(Token::digits).all(|digits| digits.len() >= 3);
    let has_dots_apart = digits >= CODE_DIGITS && are_long && tokens.iter().all(Token::is_of_phone);
    let mut groups = vec![String::new()];
    for token in tokens {
        let group = groups.last_mut().expect("there is a group");
        match token {
            Token::Digits(text) | Token::Word(text) => group.push_str(text),
            Token::Sign('.') if has_dots_apart => groups.push(String::new()),
            Token::Sign(sign @ ('.' | '/' | ':' | '#' | '_')) => group.push(*sign),
            Token::Sign('+') => {}
            Token::Space | Token::Sign('-' | '–' | '(' | ')') => groups.push(String::new()),
            Token::Sign(_) => return None,
        }
    }
    groups.retain(|group| !group.is_empty());
    (!groups.is_empty()).then_some(Literal::Code(groups))
}
