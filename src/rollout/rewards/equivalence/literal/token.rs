//! The pieces of a text: digits, words, signs and spaces.

/// A piece of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    Digits(&'a str),
    Word(&'a str),
    Sign(char),
    Space,
}

impl<'a> Token<'a> {
    /// Its digits, where it has some.
    pub(super) fn digits(&self) -> Option<&'a str> {
        match self {
            Token::Digits(digits) => Some(digits),
            _ => None,
        }
    }

    /// Whether it may stand in a phone number.
    pub(super) fn is_of_phone(&self) -> bool {
        matches!(self, Token::Digits(_) | Token::Space | Token::Sign('-' | '+' | '(' | ')' | '.' | '–'))
    }
}

/// The pieces of a text in order.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = |is: fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let (token, length) = if first.is_ascii_digit() {
            let length = run(|c| c.is_ascii_digit());
            (Token::Digits(&rest[..length]), length)
        } else if first.is_alphabetic() {
            let length = run(char::is_alphabetic);
            (Token::Word(&rest[..length]), length)
        } else if first.is_whitespace() {
            (Token::Space, run(char::is_whitespace))
        } else {
            (Token::Sign(first), first.len_utf8())
        };
        found.push(token);
        rest = &rest[length..];
    }
    found
}

/// The pieces without the spaces.
pub(super) fn without_spaces<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    tokens.iter().copied().filter(|token| *token != Token::Space).collect()
}

/// The integer of at most so many digits.
pub(super) fn integer(digits: &str, longest: usize) -> Option<u32> {
    (digits.len() <= longest).then(|| digits.parse().ok()).flatten()
}
