//! The names of numbers: in English words (`twenty-one`, `two thirds`, `3rd`), and in Chinese and Japanese numerals.

use super::arithmetic::Number;

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const ORDINALS: [(&str, &str); 12] = [
    ("first", "one"),
    ("second", "two"),
    ("third", "three"),
    ("fifth", "five"),
    ("eighth", "eight"),
    ("ninth", "nine"),
    ("twelfth", "twelve"),
    ("twentieth", "twenty"),
    ("thirtieth", "thirty"),
    ("fortieth", "forty"),
    ("fiftieth", "fifty"),
    ("hundredth", "hundred"),
];
/// Words that multiply what stands before them.
const SCALES: [(&str, i64); 13] = [
    ("dozen", 12),
    ("dozens", 12),
    ("hundred", 100),
    ("thousand", 1_000),
    ("lakh", 100_000),
    ("million", 1_000_000),
    ("mn", 1_000_000),
    ("mio", 1_000_000),
    ("crore", 10_000_000),
    ("billion", 1_000_000_000),
    ("bn", 1_000_000_000),
    ("trillion", 1_000_000_000_000),
    ("tn", 1_000_000_000_000),
];
/// Names of unit fractions, singular.
const FRACTIONS: [(&str, i64); 11] = [
    ("half", 2),
    ("third", 3),
    ("quarter", 4),
    ("fourth", 4),
    ("fifth", 5),
    ("sixth", 6),
    ("seventh", 7),
    ("eighth", 8),
    ("ninth", 9),
    ("tenth", 10),
    ("hundredth", 100),
];
/// Digits and scales of Chinese and Japanese.
const IDEOGRAPHS: [(char, i64); 18] = [
    ('〇', 0),
    ('零', 0),
    ('一', 1),
    ('二', 2),
    ('两', 2),
    ('三', 3),
    ('四', 4),
    ('五', 5),
    ('六', 6),
    ('七', 7),
    ('八', 8),
    ('九', 9),
    ('十', 10),
    ('百', 100),
    ('千', 1_000),
    ('万', 10_000),
    ('亿', 100_000_000),
    ('億', 100_000_000),
];

/// The factor that a word in lower case multiplies a number with.
pub fn scale(word: &str) -> Option<Number> {
    SCALES.iter().find(|(name, _)| *name == word).map(|(_, factor)| Number::integer(*factor))
}

/// The fraction that a word in lower case names, singular or plural: `third`, `tenths`, `halves`.
pub fn unit_fraction(word: &str) -> Option<Number> {
    let singular = if word == "halves" { "half" } else { word.strip_suffix('s').unwrap_or(word) };
    let (_, below) = FRACTIONS.iter().find(|(name, _)| *name == singular)?;
    Number::fraction(1, i128::from(*below))
}

/// A number that is written as digits with the ending of an ordinal: `3rd`, `21st`.
pub fn ordinal_digits(word: &str) -> Option<Number> {
    let digits = ["st", "nd", "rd", "th"].iter().find_map(|ending| word.strip_suffix(ending))?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| Number::decimal(digits)).flatten()
}

fn small(word: &str) -> Option<i64> {
    let tens = || TENS.iter().position(|name| *name == word).map(|at| 10 * (at as i64 + 2));
    SMALL.iter().position(|name| *name == word).map(|at| at as i64).or_else(tens)
}

/// Whether a word in lower case belongs to a number's name.
pub fn is_number_word(word: &str) -> bool {
    small(word).is_some() || scale(word).is_some()
}

/// Whether a word in lower case is an ordinal: `third`, `sixth`.
pub fn is_ordinal(word: &str) -> bool {
    cardinal(word).is_some()
}

/// The cardinal of an ordinal's name: `third` is `three`, `sixth` `six`.
fn cardinal(word: &str) -> Option<&str> {
    let known = ORDINALS.iter().find(|(ordinal, _)| *ordinal == word).map(|(_, cardinal)| *cardinal);
    known.or_else(|| word.strip_suffix("th").filter(|rest| is_number_word(rest)))
}

/// Needs the name of a number at the start of `words` (in lower case): `twenty-one`, `one hundred and five`, `three point five`, `a dozen`,
/// `one half`, `three quarters`, `minus two`, `third`. Gives the value and how many words it took.
pub fn spoken(words: &[&str]) -> Option<(Number, usize)> {
    match words {
        ["minus" | "negative", rest @ ..] => {
            return spoken(rest).map(|(number, used)| (number.negative(), used + 1));
        }
        ["half"] => return Some((unit_fraction("half")?, 1)),
        ["half", "a" | "an", ..] | ["half", "of", ..] => return None,
        _ => {}
    }
    let (number, used) = whole(words)?;
    let rest = &words[used..];
    if let ["point", digits @ ..] = rest {
        let spoken: String =
            digits.iter().map_while(|word| small(word).filter(|d| *d < 10)).map(|d| d.to_string()).collect();
        let part = Number::decimal(&format!("0.{spoken}")).filter(|_| !spoken.is_empty())?;
        return Some((number.plus(part), used + 1 + spoken.len()));
    }
    if let ["and", part @ ..] = rest
        && let Some((part, more)) = spoken(part).filter(|(part, _)| part.value() > 0.0 && part.value() < 1.0)
    {
        return Some((number.plus(part), used + 1 + more));
    }
    let is_cardinal = words[..used].iter().all(|word| cardinal(word).is_none());
    match rest.first().and_then(|word| unit_fraction(word)).filter(|_| is_cardinal) {
        Some(fraction) => Some((number.times(fraction), used + 1)),
        None => Some((number, used)),
    }
}

/// Needs a number in Chinese or Japanese numerals at the start of `text` (`十二`, `三百零五`): the number and its length in bytes.
pub fn ideographic(text: &str) -> Option<(Number, usize)> {
    let value = |c: char| IDEOGRAPHS.iter().find(|(sign, _)| *sign == c).map(|(_, value)| *value);
    let (mut total, mut group, mut digit, mut length) = (0i64, 0i64, None::<i64>, 0);
    for character in text.chars() {
        let Some(value) = value(character) else { break };
        length += character.len_utf8();
        match value {
            0..10 if digit.is_some_and(|digit| digit != 0) => return None,
            0..10 => digit = Some(value),
            10..10_000 => group = group.checked_add(digit.take().unwrap_or(1).checked_mul(value)?)?,
            _ => {
                total = total.checked_add(group.checked_add(digit.take().unwrap_or(0))?)?.checked_mul(value)?;
                group = 0;
            }
        }
    }
    let sum = total.checked_add(group)?.checked_add(digit.unwrap_or(0))?;
    (length > 0).then(|| (Number::integer(sum), length))
}

/// An integer's name at the start of `words`.
fn whole(words: &[&str]) -> Option<(Number, usize)> {
    // The sum of what is finished, and the group that a scale may still multiply.
    let (mut total, mut group) = (Number::integer(0), None::<i64>);
    let mut used = 0;
    let mut last_small = None;
    while let Some(&word) = words.get(used) {
        let (word, is_last) = match cardinal(word) {
            Some(word) => (word, true),
            None => (word, false),
        };
        if let Some(value) = small(word) {
            // A unit may follow tens, and anything a hundred; `two three` is no number.
            let fits = match last_small {
                None => true,
                Some(tens) => tens >= 20 && tens % 10 == 0 && (1..10).contains(&value),
            };
            if !fits && is_last {
                break; // `one third`
            }
            if !fits {
                return None;
            }
            group = Some(group.unwrap_or(0) + value);
            last_small = Some(value);
        } else if word == "hundred" {
            group = Some(group.unwrap_or(1) * 100);
            last_small = None;
        } else if let Some(factor) = scale(word).filter(|_| used > 0) {
            total = total.plus(Number::integer(group.take().unwrap_or(1)).times(factor));
            last_small = None;
        } else if word == "and" && used > 0 && words.get(used + 1).is_some_and(|next| small(next).is_some()) {
            // Only after a hundred or a scale: `one hundred and five`, but not `five and six`.
            if last_small.is_some() {
                break;
            }
        } else if matches!(word, "a" | "an") && used == 0 && words.get(1).is_some_and(|next| scale(next).is_some()) {
            group = Some(1);
        } else if matches!(word, "a" | "an")
            && used == 0
            && words.get(1).is_some_and(|next| unit_fraction(next).is_some())
        {
            return Some((Number::integer(1), 1));
        } else {
            break;
        }
        used += 1;
        if is_last {
            break;
        }
    }
    (used > 0).then(|| (total.plus(Number::integer(group.unwrap_or(0))), used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<f64> {
        let words: Vec<&str> = text.split([' ', '-']).collect();
        spoken(&words).filter(|(_, used)| *used == words.len()).map(|(number, _)| number.value())
    }

    #[test]
    fn names_of_numbers_are_read() {
        for (text, expected) in [
            ("seven", 7.0),
            ("twenty-one", 21.0),
            ("one hundred and five", 105.0),
            ("two thousand three hundred", 2300.0),
            ("three point one five", 3.15),
            ("a dozen", 12.0),
            ("one half", 0.5),
            ("one third", 1.0 / 3.0),
            ("two and three quarters", 2.75),
            ("two thirds", 2.0 / 3.0),
            ("a quarter", 0.25),
            ("minus two", -2.0),
            ("third", 3.0),
            ("twenty-first", 21.0),
            ("five and a half", 5.5),
            ("one million two hundred thousand", 1_200_000.0),
        ] {
            assert_eq!(value(text), Some(expected), "{text}");
        }
        for (text, expected) in [("十二", 12.0), ("三百零五", 305.0), ("两", 2.0), ("二万三千", 23_000.0)] {
            assert_eq!(ideographic(text).map(|(number, _)| number.value()), Some(expected), "{text}");
        }
        for text in ["two three", "five and six", "and", "cat", "twenty eleven"] {
            assert_eq!(value(text), None, "{text}");
        }
    }
}
