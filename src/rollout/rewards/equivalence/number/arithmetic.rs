//! Numbers that are computed with: exact as long as they are fractions of integers, else f64.

/// A number. Sums, products and quotients of exact numbers stay exact while they fit.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    /// Numerator and denominator in lowest terms, the denominator positive; `None` where it is irrational or too large.
    exact: Option<(i128, i128)>,
    /// As f64, whether or not it is exact.
    value: f64,
}

impl Number {
    /// An integer.
    pub fn integer(value: i64) -> Self {
        Self::fraction(i128::from(value), 1).unwrap_or_else(|| Self::real(value as f64))
    }

    /// A number that is known as f64 only.
    pub fn real(value: f64) -> Self {
        Self { exact: None, value }
    }

    /// `above / below`; `None` where `below` is 0.
    pub(super) fn fraction(above: i128, below: i128) -> Option<Self> {
        let divisor = gcd(above, below)? * below.signum();
        let (above, below) = (above.checked_div(divisor)?, below.checked_div(divisor)?);
        Some(Self { exact: Some((above, below)), value: above as f64 / below as f64 })
    }

    /// Needs digits with at most one decimal point and an exponent (`12`, `.5`, `5.`, `1.5e3`). Exact where it fits.
    pub fn decimal(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + part.len() == 0 || !is_digits(whole) || !is_digits(part) {
            return None;
        }
        let power = |exponent: u32| 10i128.checked_pow(exponent);
        let exact = format!("{whole}{}", part.trim_end_matches('0')).parse::<i128>().ok().and_then(|digits| {
            let shift = exponent - part.trim_end_matches('0').len() as i32;
            match u32::try_from(shift) {
                Ok(shift) => Self::fraction(digits.checked_mul(power(shift)?)?, 1),
                Err(_) => Self::fraction(digits, power(shift.unsigned_abs())?),
            }
        });
        // What is too small for f64 is no zero.
        let is_zero = mantissa.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        let real = || text.parse().ok().filter(|value: &f64| value.is_finite() && (*value != 0.0 || is_zero));
        exact.or_else(|| real().map(Self::real))
    }

    /// The value as f64.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// The integer that it is.
    fn as_integer(&self) -> Option<i128> {
        self.exact.filter(|(_, below)| *below == 1).map(|(above, _)| above)
    }

    /// Whether it is an integer, exactly.
    pub fn is_integer(&self) -> bool {
        self.as_integer().is_some()
    }

    /// `-self`.
    pub fn negative(self) -> Self {
        let exact = self.exact.and_then(|(above, below)| Some((above.checked_neg()?, below)));
        Self { exact, value: -self.value }
    }

    /// `self + other`.
    pub fn plus(self, other: Self) -> Self {
        let exact = self.exact.zip(other.exact).and_then(|((a, b), (c, d))| {
            Self::fraction(a.checked_mul(d)?.checked_add(c.checked_mul(b)?)?, b.checked_mul(d)?)
        });
        exact.unwrap_or_else(|| Self::real(self.value + other.value))
    }

    /// `self · other`.
    pub fn times(self, other: Self) -> Self {
        let exact = self
            .exact
            .zip(other.exact)
            .and_then(|((a, b), (c, d))| Self::fraction(a.checked_mul(c)?, b.checked_mul(d)?));
        exact.unwrap_or_else(|| Self::real(self.value * other.value))
    }

    /// `self / other`; `None` where `other` is 0.
    pub fn over(self, other: Self) -> Option<Self> {
        if other.value == 0.0 {
            return None;
        }
        let exact = self
            .exact
            .zip(other.exact)
            .and_then(|((a, b), (c, d))| Self::fraction(a.checked_mul(d)?, b.checked_mul(c)?));
        Some(exact.unwrap_or_else(|| Self::real(self.value / other.value)))
    }

    /// `self ^ other`: exact for integer exponents while it fits.
    pub fn power(self, other: Self) -> Self {
        let exact = self.exact.zip(other.as_integer()).and_then(|((above, below), exponent)| {
            let size = u32::try_from(exponent.unsigned_abs()).ok()?;
            let (above, below) = (above.checked_pow(size)?, below.checked_pow(size)?);
            if exponent < 0 { Self::fraction(below, above) } else { Self::fraction(above, below) }
        });
        exact.unwrap_or_else(|| Self::real(self.value.powf(other.value)))
    }

    /// `self` without its sign.
    pub fn absolute(self) -> Self {
        if self.value < 0.0 { self.negative() } else { self }
    }

    /// `self!` of an integer from 0 to 30.
    pub fn factorial(self) -> Option<Self> {
        let last = self.as_integer().filter(|last| (0..=30).contains(last))?;
        Self::fraction((1..=last).product(), 1)
    }

    /// Whether both are the same number: exactly where both are exact, else up to the rounding of a few operations.
    pub fn same(&self, other: &Self) -> bool {
        match (self.exact, other.exact) {
            (Some(a), Some(b)) => a == b,
            _ => {
                let (a, b) = (self.value, other.value);
                // Infinities are equal, and have no difference.
                a == b || (a.is_finite() && b.is_finite() && (a - b).abs() <= 1e-12 + 1e-9 * a.abs().max(b.abs()))
            }
        }
    }
}

/// The greatest common divisor, positive; `None` where `below` is 0 or the size does not fit.
fn gcd(above: i128, below: i128) -> Option<i128> {
    let (mut a, mut b) = (above.checked_abs()?, below.checked_abs()?);
    if b == 0 {
        return None;
    }
    while b != 0 {
        (a, b) = (b, a % b);
    }
    Some(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_compared_exactly_and_reals_to_rounding() {
        let number = |text| Number::decimal(text).unwrap();
        assert!(!number("1234567890").same(&number("1234567891")));
        assert!(!number("12345678901234567890").same(&number("12345678901234567891")));
        assert!(number("0.1").plus(number("0.2")).same(&number("0.3")));
        assert!(number("10.0").same(&number("10")) && number("1e2").same(&number("100")));
        assert!(Number::real(2f64.sqrt() * 2.0).same(&Number::real(8f64.sqrt())));
    }
}
