//! Digits that are no mathematics: dates, times, pairs of numbers (ranges, scores, sizes, ratios) and codes (phone numbers, versions,
//! serial numbers). They are compared part by part and never computed.

use super::Verdict;
use super::expression::Expression;
use super::number::{Number, spoken};
use super::question::{DigitForm, Question};
use super::text::is_latex;
use super::unit::{Unit, currency_prefix};
use super::value::{Separators, split_list};

const MAY_BE_A_FRACTION: &str = "it may be a fraction or two parts";
/// Digits from which on groups with signs between them are a phone number or an ISBN.
const CODE_DIGITS: usize = 7;
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// What a text reads as.
#[derive(Clone, Debug)]
enum Literal {
    /// A date whose parts are known by name or by ISO 8601's order.
    Date {
        /// The year, where it is said.
        year: Option<u32>,
        month: u32,
        /// The day, where it is said.
        day: Option<u32>,
    },
    /// A date in digits, whose order depends on the country.
    NumericDate(Vec<u32>),
    /// A time of day.
    Time {
        /// Hours, minutes, seconds.
        parts: [u32; 3],
        /// `Some(true)` that `pm` follows.
        is_afternoon: Option<bool>,
    },
    /// Numbers with a sign between them.
    Parts(Sign, Vec<Part>),
    /// A code: its groups in lower case.
    Code(Vec<String>),
}

/// A number of a pair with its unit.
#[derive(Clone, Debug)]
struct Part {
    number: Number,
    unit: Unit,
}

/// What stands between the numbers of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sign {
    /// `6-8`, `6 to 8`.
    Range,
    /// `3:2`.
    Ratio,
    /// `4×6`, `4 by 6`.
    Size,
    /// `3/4`.
    Slash,
}

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

    fn compare(&self, other: &Self, question: &Question) -> Verdict {
        use Literal::{Code, Date, NumericDate, Parts, Time};
        match (self, other) {
            (Date { year, month, day }, Date { year: other_year, month: other_month, day: other_day }) => {
                let agree = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
                if month != other_month || !agree(*year, *other_year) || !agree(*day, *other_day) {
                    return Verdict::Different;
                }
                let is_whole = year.is_some() == other_year.is_some() && day.is_some() == other_day.is_some();
                if is_whole { Verdict::Same } else { Verdict::unknown("one date says more than the other") }
            }
            (NumericDate(a), NumericDate(b)) => match (a == b, a.len() == b.len() && same_years(a, b)) {
                (true, _) => Verdict::Same,
                (false, true) if a.len() == 3 && a[..2] == [b[1], b[0]] => {
                    Verdict::unknown("day and month may stand in either order")
                }
                (false, true) if a.len() == 3 && a[..2] == b[..2] => Verdict::Same,
                _ => Verdict::Different,
            },
            (NumericDate(digits), date @ Date { .. }) | (date @ Date { .. }, NumericDate(digits)) => {
                date.against_digits(digits)
            }
            (Time { parts: a, is_afternoon: x }, Time { parts: b, is_afternoon: y }) => same_time(*a, *x, *b, *y),
            (Parts(a, x), Parts(b, y)) => same_parts(*a, x, *b, y, question),
            (Code(a), Code(b)) => {
                let is_digits =
                    |groups: &[String]| groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_digit()));
                let is_joined = a.len() == 1
                    || b.len() == 1
                    || (is_digits(a) && is_digits(b) && question.digits == DigitForm::Code);
                let has_fraction = a.iter().chain(b).any(|group| group.contains('/'));
                match a == b || (is_joined && !has_fraction && a.concat() == b.concat()) {
                    true => Verdict::Same,
                    false if has_fraction => Verdict::unknown(MAY_BE_A_FRACTION),
                    false => Verdict::Different,
                }
            }
            _ => Verdict::Different,
        }
    }

    /// Compares a literal with a text that is none.
    fn against(&self, text: &str, question: &Question) -> Option<Verdict> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || b".,-".contains(&byte));
        match self {
            Self::Code(groups) if !text.contains('\\') && (is_number || question.digits == DigitForm::Code) => {
                let digits: String = text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
                let is_code = text.chars().all(|c| c.is_alphanumeric() || " -–()+#".contains(c));
                Some(Verdict::of(is_code && groups.concat() == digits))
            }
            // `2:3` is `2/3` where the question asks for no score and no time.
            Self::Parts(Sign::Ratio, parts)
                if parts.len() == 2 && text.contains('/') && question.digits != DigitForm::Parts =>
            {
                let value = Expression::read(text)?.value()?;
                Some(Verdict::of(parts[0].number.over(parts[1].number)?.same(&value)))
            }
            // Where a ratio is asked for, `1:4` is `0.25`.
            Self::Parts(Sign::Ratio, parts)
                if parts.len() == 2 && is_number && question.digits == DigitForm::Mathematics =>
            {
                let value = Number::decimal(text)?;
                Some(Verdict::of(parts[0].number.over(parts[1].number)?.same(&value)))
            }
            // A question may say `time` or `score` and ask for a fraction.
            Self::Parts(Sign::Slash, _) if is_number => Some(Verdict::unknown(MAY_BE_A_FRACTION)),
            // LaTeX is mathematics.
            Self::Parts(Sign::Slash, _) | Self::Code(_) if text.contains('\\') => None,
            _ if is_number => Some(Verdict::Different),
            _ => None,
        }
    }

    /// Compares a date with one in digits: either order of day and month is taken if only that one makes a date.
    fn against_digits(&self, digits: &[u32]) -> Verdict {
        let Self::Date { year, month, day } = self else { return Verdict::Different };
        let (a, b) = (digits[0], digits[1]);
        let is_year = match (digits.get(2), year) {
            (Some(said), Some(year)) => said % 100 == year % 100,
            (None, None) => true,
            _ => return Verdict::unknown("one date says more than the other"),
        };
        let fits = |(day_said, month_said): (u32, u32)| is_year && Some(day_said) == *day && month_said == *month;
        match (fits((a, b)), fits((b, a))) {
            (false, false) => Verdict::Different,
            _ if a == b || a > 12 || b > 12 => Verdict::Same,
            _ => Verdict::unknown("day and month may stand in either order"),
        }
    }
}

fn same_years(a: &[u32], b: &[u32]) -> bool {
    a.get(2).zip(b.get(2)).is_none_or(|(a, b)| a % 100 == b % 100)
}

fn same_time(a: [u32; 3], x: Option<bool>, b: [u32; 3], y: Option<bool>) -> Verdict {
    let in_day = |[hours, minutes, seconds]: [u32; 3], is_afternoon: Option<bool>| {
        let hours = match is_afternoon {
            Some(true) if hours < 12 => hours + 12,
            Some(false) if hours == 12 => 0,
            _ => hours,
        };
        [hours, minutes, seconds]
    };
    let (p, q) = (in_day(a, x), in_day(b, y));
    match (x, y) {
        (Some(_), Some(_)) | (None, None) => Verdict::of(p == q),
        // `4:30` may be either; `16:30` is not.
        _ if p == q || a == b => Verdict::Same,
        _ if p[1..] == q[1..] && p[0] % 12 == q[0] % 12 => {
            Verdict::unknown("one time does not say whether it is before noon")
        }
        _ => Verdict::Different,
    }
}

fn same_parts(sign: Sign, a: &[Part], other: Sign, b: &[Part], question: &Question) -> Verdict {
    let is_said_loosely =
        question.asks_score || matches!((sign, other), (Sign::Ratio, Sign::Range) | (Sign::Range, Sign::Ratio));
    if sign != other && (!is_said_loosely || sign == Sign::Size || other == Sign::Size) {
        return Verdict::Different;
    }
    // The last unit holds for all parts that have none: `5-7 cm`.
    let unit = |parts: &[Part], at: usize| match &parts[at].unit {
        Unit::None => parts.last().map_or(Unit::None, |last| last.unit.clone()),
        own => own.clone(),
    };
    let one = Number::integer(1);
    let units_agree = a.len() == b.len() && (0..a.len()).all(|at| unit(a, at).same(one, &unit(b, at), one));
    let values_agree = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.number.same(&b.number));
    if values_agree || !units_agree {
        return Verdict::of(values_agree && units_agree);
    }
    // `2:3` is `4:6` where nothing says that it is a score or a time.
    let is_ratio = sign == Sign::Ratio && other == Sign::Ratio && question.digits != DigitForm::Parts && a.len() == 2;
    let cross = || a[0].number.times(b[1].number).same(&a[1].number.times(b[0].number));
    Verdict::of(is_ratio && cross())
}

/// A piece of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token<'a> {
    Digits(&'a str),
    Word(&'a str),
    Sign(char),
    Space,
}

impl<'a> Token<'a> {
    fn digits(&self) -> Option<&'a str> {
        match self {
            Token::Digits(digits) => Some(digits),
            _ => None,
        }
    }

    fn is_of_phone(&self) -> bool {
        matches!(self, Token::Digits(_) | Token::Space | Token::Sign('-' | '+' | '(' | ')' | '.' | '–'))
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
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

/// The words of a time with digits for the names of numbers: `half past 4`, `12:00 pm` for noon.
fn with_digits(text: &str) -> String {
    match text {
        "noon" | "midday" => return "12:00 pm".to_owned(),
        "midnight" => return "12:00 am".to_owned(),
        _ if !(text.contains("o'clock") || text.contains(" past ") || text.contains(" to ")) => return text.to_owned(),
        _ => {}
    }
    let digits = |word: &str| match spoken(&[word]) {
        Some((number, 1)) if number.is_integer() && word != "half" => number.value().to_string(),
        _ => word.to_owned(),
    };
    text.split(' ').map(digits).collect::<Vec<_>>().join(" ")
}

fn without_spaces<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    tokens.iter().copied().filter(|token| *token != Token::Space).collect()
}

fn integer(digits: &str, longest: usize) -> Option<u32> {
    (digits.len() <= longest).then(|| digits.parse().ok()).flatten()
}

/// A month by its name or the beginning of it.
fn month(word: &str) -> Option<u32> {
    let is = |name: &&str| *name == word || (word.len() >= 3 && word.len() <= 4 && name.starts_with(word));
    MONTHS.iter().position(is).map(|at| at as u32 + 1)
}

/// A day of the week by its name or the beginning of it, from 0.
pub(super) fn weekday(word: &str) -> Option<usize> {
    WEEKDAYS.iter().position(|day| word.len() >= 3 && day.starts_with(word))
}

fn date(lower: &str, tokens: &[Token<'_>]) -> Option<Literal> {
    use Token::{Digits, Sign, Word};
    let is_in = |value: u32, last: u32| (1..=last).contains(&value);
    let joined = without_spaces(tokens);
    if let [Digits(a), Sign(x), Digits(b), Sign(y), Digits(c)] = joined.as_slice()
        && x == y
        && matches!(x, '-' | '–' | '/' | '.')
    {
        let (first, second, third) = (integer(a, 4)?, integer(b, 2)?, integer(c, 4)?);
        if a.len() == 4 && is_in(second, 12) && is_in(third, 31) && c.len() <= 2 {
            return Some(Literal::Date { year: Some(first), month: second, day: Some(third) });
        }
        let is_date = a.len() <= 2 && matches!(c.len(), 2 | 4) && is_in(first, 31) && is_in(second, 31);
        return (is_date && (first <= 12 || second <= 12)).then(|| Literal::NumericDate(vec![first, second, third]));
    }
    let (year, rest) = match joined.as_slice() {
        [Digits(year), Word("年"), rest @ ..] => (Some(integer(year, 4)?), rest),
        rest => (None, rest),
    };
    match rest {
        [Digits(month), Word("月")] => {
            return Some(Literal::Date { year, month: integer(month, 2)?, day: None });
        }
        [Digits(month), Word("月"), Digits(day), Word("日" | "号")] => {
            return Some(Literal::Date { year, month: integer(month, 2)?, day: Some(integer(day, 2)?) });
        }
        _ => {}
    }
    // With the month's name: `Monday, January 5th, 2023`, `5 Jan 2023`, `May 2019`.
    let pieces: Vec<&str> = lower
        .split([' ', ',', '.', '-', '/'])
        .filter(|piece| !piece.is_empty() && !matches!(*piece, "of" | "the"))
        .collect();
    let pieces = if pieces.first().is_some_and(|first| weekday(first).is_some()) { &pieces[1..] } else { &pieces[..] };
    let number = |piece: &str| -> Option<u32> {
        let digits = ["st", "nd", "rd", "th"].iter().find_map(|ending| piece.strip_suffix(ending)).unwrap_or(piece);
        integer(digits, 4).filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let at = pieces.iter().position(|piece| month(piece).is_some())?;
    let month = month(pieces[at])?;
    let others: Option<Vec<u32>> =
        pieces.iter().enumerate().filter(|(place, _)| *place != at).map(|(_, piece)| number(piece)).collect();
    match others?.as_slice() {
        [day] if is_in(*day, 31) => Some(Literal::Date { year: None, month, day: Some(*day) }),
        [year] if *year >= 1000 => Some(Literal::Date { year: Some(*year), month, day: None }),
        [day, year] if is_in(*day, 31) && *year >= 1000 => {
            Some(Literal::Date { year: Some(*year), month, day: Some(*day) })
        }
        [year, day] if is_in(*day, 31) && *year >= 1000 => {
            Some(Literal::Date { year: Some(*year), month, day: Some(*day) })
        }
        _ => None,
    }
}

fn time(tokens: &[Token<'_>], question: &Question) -> Option<Literal> {
    use Token::{Digits, Sign, Word};
    let joined = without_spaces(tokens);
    // `p.m.` is `pm`.
    let joined: Vec<Token<'_>> = match joined.as_slice() {
        [rest @ .., Word("p"), Sign('.'), Word("m")] => [rest, &[Word("pm")]].concat(),
        [rest @ .., Word("a"), Sign('.'), Word("m")] => [rest, &[Word("am")]].concat(),
        rest => rest.to_vec(),
    };
    let (joined, is_afternoon) = match joined.as_slice() {
        [rest @ .., Word("pm")] => (rest.to_vec(), Some(true)),
        [rest @ .., Word("am")] => (rest.to_vec(), Some(false)),
        rest => (rest.to_vec(), None),
    };
    let hour = |digits: &str| integer(digits, 2).filter(|hour| *hour <= 24);
    let minute = |digits: &str| integer(digits, 2).filter(|minute| digits.len() == 2 && *minute < 60);
    let parts = match joined.as_slice() {
        [Digits(h), Sign(':'), Digits(m), Sign(':'), Digits(s)] => [hour(h)?, minute(m)?, minute(s)?],
        [Digits(h), Sign(':'), Digits(m)] if question.digits != DigitForm::Mathematics && !question.asks_score => {
            [hour(h)?, minute(m)?, 0]
        }
        [Digits(h), Sign('.'), Digits(m)] if is_afternoon.is_some() => [hour(h)?, minute(m)?, 0],
        [Digits(h)] if is_afternoon.is_some() => [hour(h)?, 0, 0],
        [Digits(h), Word("o"), Sign('\''), Word("clock")] => [hour(h)?, 0, 0],
        [Word("half"), Word("past"), Digits(h)] => [hour(h)?, 30, 0],
        [Word("quarter"), Word("past"), Digits(h)] => [hour(h)?, 15, 0],
        [Word("quarter"), Word("to"), Digits(h)] => [hour(h)?.checked_sub(1)?, 45, 0],
        _ => return None,
    };
    Some(Literal::Time { parts, is_afternoon })
}

/// Two or more numbers with one sign between them, each with its unit perhaps.
fn pair(lower: &str, tokens: &[Token<'_>], are_latex: bool, question: &Question) -> Option<Literal> {
    let text = ["between ", "from "].iter().find_map(|word| lower.strip_prefix(word)).unwrap_or(lower);
    let is_between = lower.starts_with("between ");
    let text = if is_between { text.replacen(" and ", " to ", 1) } else { text.to_owned() };
    let is_mathematics = are_latex || question.digits == DigitForm::Mathematics;
    let splits: [(Sign, &[&str]); 4] = [
        (Sign::Range, &[" to ", "–", "~", "-"]),
        (Sign::Size, &["×", " x ", " by ", "x", "*"]),
        (Sign::Ratio, &[":"]),
        (Sign::Slash, &["/"]),
    ];
    for (sign, separators) in splits {
        for separator in separators {
            let parts: Vec<&str> = text.split(separator).collect();
            if !(2..=6).contains(&parts.len()) {
                continue;
            }
            let Some(mut parts) = parts.into_iter().map(part).collect::<Option<Vec<_>>>() else { continue };
            let is_season = sign == Sign::Slash && is_season(tokens);
            let is_said = match (sign, *separator) {
                (Sign::Range, " to " | "–" | "~") | (Sign::Size, " x " | " by " | "x") | (Sign::Ratio, _) => true,
                (Sign::Range, _) | (Sign::Size, "×") => !is_mathematics,
                (Sign::Size, _) => question.digits == DigitForm::Parts,
                // A season, or a fraction where parts are asked for.
                (Sign::Slash, _) => question.digits == DigitForm::Parts || is_season,
            };
            if matches!(sign, Sign::Range) || is_season {
                complete_years(&mut parts);
            }
            return is_said.then_some(Literal::Parts(if is_season { Sign::Range } else { sign }, parts));
        }
    }
    None
}

/// `1990-95` as `1990-1995`.
fn complete_years(parts: &mut [Part]) {
    if let [first, second] = parts
        && (1000.0..3000.0).contains(&first.number.value())
        && second.number.value() < 100.0
        && second.number.is_integer()
        && first.number.is_integer()
    {
        let century = (first.number.value() / 100.0).floor() as i64 * 100;
        second.number = second.number.plus(Number::integer(century));
    }
}

/// Whether a text is two years, the second perhaps by its last digits: `2019/20`.
fn is_season(tokens: &[Token<'_>]) -> bool {
    matches!(without_spaces(tokens).as_slice(), [Token::Digits(a), Token::Sign('/'), Token::Digits(b)]
        if a.len() == 4 && (b.len() == 2 || b.len() == 4))
}

/// A plain number without a sign, and the unit before or after it.
fn part(text: &str) -> Option<Part> {
    let text = text.trim();
    let (currency, text) = currency_prefix(text).map_or((None, text), |(currency, rest)| (Some(currency), rest));
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ',')).unwrap_or(text.len());
    let number = Number::decimal(&text[..end].replace(',', ""))?;
    let unit = Unit::read(&text[end..], !text[end..].starts_with(' '), number.value())?;
    Some(Part { number, unit: currency.unwrap_or(unit) })
}

/// Whether a text is a list of which some element is a pair, a date or another literal: `6-4, 6-3`.
pub(super) fn is_list(text: &str, question: &Question) -> bool {
    let parts = split_list(text, Separators::Words);
    parts.len() > 1 && parts.iter().any(|part| Literal::read(part, false, question).is_some())
}

/// Whether a text has the form of a phone number or an ISBN: many digits in groups with hyphens, spaces or brackets between them, of which
/// two alone are no years (`555-1234`, `0800 123 456`).
fn is_phone(tokens: &[Token<'_>]) -> bool {
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
fn is_code(tokens: &[Token<'_>]) -> bool {
    let has_letter_before_digit = tokens.windows(2).any(|pair| matches!(pair, [Token::Word(_), Token::Digits(_)]));
    let is_plain =
        tokens.iter().all(|token| matches!(token, Token::Word(_) | Token::Digits(_) | Token::Sign('-' | '/' | '.')));
    has_letter_before_digit && is_plain && tokens.iter().any(|token| matches!(token, Token::Sign('-')))
}

/// The groups of a code: what stands between spaces, hyphens and brackets; a dot belongs to its group.
fn code(tokens: &[Token<'_>]) -> Option<Literal> {
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

/// Whether a text had LaTeX's commands or delimiters, which make digits mathematics.
pub(super) fn are_latex(answer: &str, solution: &str) -> bool {
    is_latex(answer) || is_latex(solution)
}
