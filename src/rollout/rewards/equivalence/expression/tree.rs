//! A read expression as a tree: its value, and whether two have the same.

use super::super::number::Number;

/// Points at which expressions with variables are compared.
const POINTS: usize = 4;

/// A read expression.
#[derive(Clone, Debug)]
pub enum Expression {
    /// A number as written.
    Number(Number),
    /// A letter that stands for a number.
    Variable(char),
    /// `-x`.
    Negative(Box<Expression>),
    /// Two operands and their sign: `+ - * / ^`.
    Binary(char, Box<Expression>, Box<Expression>),
    /// A function's value.
    Call(&'static str, Box<Expression>),
    /// The `n`-th root: degree, radicand.
    Root(Box<Expression>, Box<Expression>),
    /// An angle in degrees.
    Degrees(Box<Expression>),
    /// `x!`.
    Factorial(Box<Expression>),
}

impl Expression {
    /// The value without variables; `None` where there are some, or where the value is no finite number.
    pub fn value(&self) -> Option<Number> {
        self.at(&|_| None).filter(|number| number.value().is_finite())
    }

    /// The value with Euler's number for `e`.
    pub fn value_of_e(&self) -> Option<Number> {
        let value = self.at(&|name| (name == 'e').then(|| Number::real(std::f64::consts::E)))?;
        value.value().is_finite().then_some(value)
    }

    /// Letters that stand for numbers, sorted, each once; π and ∞ are none.
    pub fn variables(&self) -> Vec<char> {
        let mut found = match self {
            Self::Number(_) | Self::Variable('π' | '∞') => Vec::new(),
            Self::Variable(name) => vec![*name],
            Self::Negative(a) | Self::Call(_, a) | Self::Degrees(a) | Self::Factorial(a) => a.variables(),
            Self::Binary(_, a, b) | Self::Root(a, b) => [a.variables(), b.variables()].concat(),
        };
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether both have the same value for all values of the same variables, as far as a few points tell; `None` where they have no value
    /// there.
    pub fn same(&self, other: &Self) -> Option<bool> {
        if self.variables() != other.variables() {
            return Some(false);
        }
        let mut compared = 0;
        for point in 0..3 * POINTS {
            // Positive, so that roots and logarithms have values; of no simple ratio to each other.
            let value = |name: char| {
                let phase = 0.618_033_988_7 * (u32::from(name) as f64 + 1.0) + 0.754_877_666_2 * (point as f64 + 1.0);
                Some(Number::real(0.25 + 3.0 * phase.fract()))
            };
            let (Some(a), Some(b)) = (self.at(&value), other.at(&value)) else { continue };
            if !a.value().is_finite() || !b.value().is_finite() {
                continue;
            }
            let scale = a.value().abs().max(b.value().abs()).max(1.0);
            if (a.value() - b.value()).abs() > 1e-8 * scale {
                return Some(false);
            }
            compared += 1;
            if compared == POINTS {
                return Some(true);
            }
        }
        None
    }

    fn at(&self, values: &dyn Fn(char) -> Option<Number>) -> Option<Number> {
        Some(match self {
            Self::Number(number) => *number,
            Self::Variable('π') => Number::real(std::f64::consts::PI),
            Self::Variable('∞') => Number::real(f64::INFINITY),
            Self::Variable(name) => values(*name)?,
            Self::Negative(a) => a.at(values)?.negative(),
            Self::Binary(sign, a, b) => {
                let (a, b) = (a.at(values)?, b.at(values)?);
                match sign {
                    '+' => a.plus(b),
                    '-' => a.plus(b.negative()),
                    '*' => a.times(b),
                    '/' => a.over(b)?,
                    _ => a.power(b),
                }
            }
            Self::Call(name, a) => {
                let argument = match &**a {
                    Self::Degrees(a) => Number::real(a.at(values)?.value().to_radians()),
                    other => other.at(values)?,
                };
                if *name == "abs" {
                    return Some(argument.absolute());
                }
                let x = argument.value();
                Number::real(match *name {
                    "sin" => x.sin(),
                    "cos" => x.cos(),
                    "tan" => x.tan(),
                    "arcsin" => x.asin(),
                    "arccos" => x.acos(),
                    "arctan" => x.atan(),
                    "exp" => x.exp(),
                    "log" => x.log10(),
                    _ => x.ln(),
                })
            }
            Self::Root(degree, radicand) => {
                let (degree, radicand) = (degree.at(values)?, radicand.at(values)?);
                let root = match degree.value() {
                    2.0 => radicand.value().sqrt(),
                    3.0 => radicand.value().cbrt(),
                    degree => radicand.value().powf(1.0 / degree),
                };
                // A root that is an integer is exact.
                let whole = Number::decimal(&format!("{:.0}", root.abs()))?;
                let whole = if root < 0.0 { whole.negative() } else { whole };
                if whole.power(degree).same(&radicand) && whole.is_integer() { whole } else { Number::real(root) }
            }
            Self::Degrees(a) => a.at(values)?,
            Self::Factorial(a) => a.at(values)?.factorial()?,
        })
    }

    /// Two operands and their sign.
    pub(super) fn binary(sign: char, a: Self, b: Self) -> Self {
        Self::Binary(sign, Box::new(a), Box::new(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_are_compared_by_value() {
        let same = |a: &str, b: &str| Expression::read(a).unwrap().same(&Expression::read(b).unwrap());
        assert_eq!(same("2x+1", "1 + 2x"), Some(true));
        assert_eq!(same("x^2+2x+1", "(x+1)^2"), Some(true));
        assert_eq!(same("x^2", "x^3"), Some(false));
        assert_eq!(same("x", "y"), Some(false));
        assert_eq!(same("\\sin^2 x + \\cos^2 x", "1"), Some(false));
    }
}
