//! The number at the start of a text: how far its digits go, and the fraction of a mixed one.

use super::super::number::Number;

/// The length of the number at the start of `text`: digits, in groups of thousands perhaps (`1,234`, `1 234`, `1'234`, `1_234`), a decimal
/// part, an exponent. 0 where there is none.
pub fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from.min(bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = digits(0);
    if (1..=3).contains(&end)
        && !text.starts_with('0')
        && let Some(&group) = bytes.get(end).filter(|byte| b", '_".contains(byte))
    {
        while bytes.get(end) == Some(&group) && digits(end + 1) == 3 {
            end += 4;
        }
    }
    if bytes.get(end) == Some(&b'.') && (end > 0 || digits(1) > 0) && !matches!(bytes.get(end + 1), Some(b'.')) {
        end += 1 + digits(end + 1);
    }
    if end > 0 && matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    end
}

/// `a/b` of two integers at the start of `text`, and what follows it.
pub(super) fn mixed_fraction(text: &str) -> Option<(Number, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let above = digits(text);
    let below_text = text.get(above..)?.strip_prefix('/')?;
    let below = digits(below_text);
    let value = Number::decimal(&text[..above])?.over(Number::decimal(&below_text[..below])?)?;
    Some((value, &below_text[below..]))
}
