//! Whether two literals are the same, part by part, and whether one is the same as a text that is none.

use super::super::expression::Expression;
use super::super::number::Number;
use super::super::question::{DigitForm, Question};
use super::super::unit::Unit;
use super::super::verdict::Verdict;
use super::kinds::{Literal, Part, Sign};

const MAY_BE_A_FRACTION: &str = "it may be a fraction or two parts";

impl Literal {
    /// Compares two literals.
    pub(super) fn compare(&self, other: &Self, question: &Question) -> Verdict {
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
    pub(super) fn against(&self, text: &str, question: &Question) -> Option<Verdict> {
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
