//! Expressions in plain text or LaTeX: numbers, fractions, roots, powers, common functions and single-letter variables. Two expressions
//! are the same if they have the same value, with variables at several points. What cannot be read is left alone: a wrong reading would
//! be worse than none.

use super::number::Number;

/// Deepest nesting of brackets.
const DEPTH_MAX: usize = 32;
/// Points at which expressions with variables are compared.
const POINTS: usize = 4;
/// Words of functions, as `\sin` or `sin`.
const FUNCTIONS: [&str; 10] = ["arcsin", "arccos", "arctan", "sin", "cos", "tan", "ln", "log", "exp", "abs"];

/// A read expression.
#[derive(Clone, Debug)]
pub enum Expression {
    /// A number as written.
    Number(Number),
    /// A letter that stands for a number.
    Variable(char),
    Negative(Box<Expression>),
    /// Two operands and their sign: `+ - * / ^`.
    Binary(char, Box<Expression>, Box<Expression>),
    /// A function's value.
    Call(&'static str, Box<Expression>),
    /// The `n`-th root: degree, radicand.
    Root(Box<Expression>, Box<Expression>),
    /// An angle in degrees.
    Degrees(Box<Expression>),
    Factorial(Box<Expression>),
}

impl Expression {
    /// Needs the whole of a text (canonical, without LaTeX's markup).
    pub fn read(text: &str) -> Option<Self> {
        let mut reader = Reader { rest: text.trim(), depth: 0, bars: 0 };
        let expression = reader.sum()?;
        reader.skip_spaces();
        reader.rest.is_empty().then_some(expression)
    }

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

    fn binary(sign: char, a: Self, b: Self) -> Self {
        Self::Binary(sign, Box::new(a), Box::new(b))
    }
}

/// Whether a text may be read as algebra: it has an operator or a coefficient, its letters stand alone or in the names of functions, and no
/// digit follows a letter, as in a code.
pub fn is_algebra(text: &str) -> bool {
    let mut bare = text.to_owned();
    for name in FUNCTIONS.iter().chain(&["frac", "sqrt"]) {
        bare = bare.replace(&format!("\\{name}"), " ").replace(name, " ");
    }
    let characters: Vec<char> = bare.chars().collect();
    let pairs = || characters.windows(2).map(|pair| (pair[0], pair[1]));
    let has_operator =
        characters.iter().any(|c| "+*/^=·×÷√π<>≤≥±|(".contains(*c)) || bare.contains('-') || text.contains('\\');
    let has_coefficient = pairs().any(|(a, b)| a.is_ascii_digit() && b.is_alphabetic());
    let is_code = pairs().any(|(a, b)| a.is_ascii_alphabetic() && b.is_ascii_digit());
    let words = bare.split(|c: char| !c.is_alphabetic());
    (has_operator || has_coefficient) && !is_code && words.into_iter().all(|word| word.chars().count() <= 2)
}

/// A reader of expressions by recursive descent.
struct Reader<'a> {
    rest: &'a str,
    depth: usize,
    /// How many `|` are open.
    bars: usize,
}

impl Reader<'_> {
    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, prefix: &str) -> bool {
        self.skip_spaces();
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        let result = if self.depth > DEPTH_MAX { None } else { read(self) };
        self.depth -= 1;
        result
    }

    /// sum = product (('+' | '-') product)*
    fn sum(&mut self) -> Option<Expression> {
        let mut sum = self.product()?;
        loop {
            if self.take("+") {
                sum = Expression::binary('+', sum, self.product()?);
            } else if self.take("-") {
                sum = Expression::binary('-', sum, self.product()?);
            } else {
                return Some(sum);
            }
        }
    }

    /// product = signed (('*' | '/' | nothing) signed)*; nothing only before what is no number.
    fn product(&mut self) -> Option<Expression> {
        let mut product = self.signed()?;
        loop {
            let sign = ["*", "·", "×"].iter().any(|sign| self.take(sign));
            if sign {
                product = Expression::binary('*', product, self.signed()?);
            } else if self.take("/") || self.take("÷") {
                product = Expression::binary('/', product, self.signed()?);
            } else if self.starts_factor() {
                product = Expression::binary('*', product, self.power()?);
            } else {
                return Some(product);
            }
        }
    }

    /// Whether a factor without a sign before it follows: a bracket, a command, a root or a letter.
    fn starts_factor(&mut self) -> bool {
        self.skip_spaces();
        let Some(first) = self.rest.chars().next() else { return false };
        first.is_alphabetic() || matches!(first, '(' | '{' | '\\' | '√' | 'π') || (first == '|' && self.bars == 0)
    }

    /// signed = ('-' | '+')* power
    fn signed(&mut self) -> Option<Expression> {
        self.deeper(|reader| {
            if reader.take("-") {
                reader.signed().map(|value| Expression::Negative(Box::new(value)))
            } else if reader.take("+") {
                reader.signed()
            } else {
                reader.power()
            }
        })
    }

    /// power = atom '°'? '!'? (('^' | '**') signed)?
    fn power(&mut self) -> Option<Expression> {
        let mut base = self.deeper(Self::atom)?;
        if self.take("°") {
            base = Expression::Degrees(Box::new(base));
        }
        if self.take("!") {
            base = Expression::Factorial(Box::new(base));
        }
        if self.take("^") || self.take("**") {
            return Some(Expression::binary('^', base, self.exponent()?));
        }
        Some(base)
    }

    /// What follows `^`: a group, or as in LaTeX a single sign; in plain text a number of several digits.
    fn exponent(&mut self) -> Option<Expression> {
        self.signed()
    }

    fn atom(&mut self) -> Option<Expression> {
        for (open, close) in [("(", ")"), ("{", "}"), ("[", "]")] {
            if self.take(open) {
                let inner = self.sum()?;
                return self.take(close).then_some(inner);
            }
        }
        if self.take("|") {
            self.bars += 1;
            let inner = self.sum()?;
            self.bars -= 1;
            return self.take("|").then(|| Expression::Call("abs", Box::new(inner)));
        }
        if self.take("\\frac") {
            return Some(Expression::binary('/', self.argument()?, self.argument()?));
        }
        if self.take("\\sqrt") || self.take("sqrt") || self.take("√") {
            let two = Expression::Number(Number::integer(2));
            let degree = if self.take("[") {
                let degree = self.sum()?;
                self.take("]").then_some(degree)?
            } else {
                two
            };
            return Some(Expression::Root(Box::new(degree), Box::new(self.argument()?)));
        }
        for name in FUNCTIONS {
            if self.take(&format!("\\{name}")) || (self.rest.starts_with(name) && self.take(name)) {
                return self.function(name);
            }
        }
        self.skip_spaces();
        if self.rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return self.number();
        }
        let pi = self.rest.strip_prefix("pi").filter(|rest| !rest.starts_with(|c: char| c.is_alphabetic()));
        if let Some(rest) = pi {
            self.rest = rest;
            return Some(Expression::Variable('π'));
        }
        let letter = self.rest.chars().next().filter(|c| c.is_alphabetic() || *c == '∞')?;
        self.rest = &self.rest[letter.len_utf8()..];
        Some(Expression::Variable(letter))
    }

    /// A function's power and argument: `sin^2 x`, `\log_{2} 8`, `\sin 30°`.
    fn function(&mut self, name: &'static str) -> Option<Expression> {
        let base = if self.take("_") { Some(self.argument()?) } else { None };
        let power = if self.take("^") { Some(self.exponent()?) } else { None };
        let mut argument = self.signed()?;
        // `sin 2x` is the sine of `2x`, `sin(2) x` is not.
        let is_bare = matches!(argument, Expression::Number(_) | Expression::Variable(_));
        while is_bare && self.starts_factor() && !self.rest.starts_with(['(', '\\']) {
            argument = Expression::binary('*', argument, self.power()?);
        }
        let mut value = Expression::Call(name, Box::new(argument));
        if let Some(base) = base {
            value = Expression::binary('/', value, Expression::Call(name, Box::new(base)));
        }
        Some(match power {
            Some(power) => Expression::binary('^', value, power),
            None => value,
        })
    }

    /// The argument of a command: a group, a command, or as in LaTeX a single digit (`\frac12`) or a number (`√12`).
    fn argument(&mut self) -> Option<Expression> {
        self.skip_spaces();
        if !self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            return self.deeper(Self::atom);
        }
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 2 {
            let digit = Number::decimal(&self.rest[..1])?;
            self.rest = &self.rest[1..];
            return Some(Expression::Number(digit));
        }
        self.number()
    }

    /// A decimal number, with thousands grouped or not, with an exponent or not; an integer may be followed by a fraction
    /// (`1 1/2`, `1\frac{1}{2}`), which is added.
    fn number(&mut self) -> Option<Expression> {
        let used = number_length(self.rest);
        let digits: String = self.rest[..used].chars().filter(|c| !matches!(c, ',' | ' ' | '\'' | '_')).collect();
        let value = Number::decimal(&digits)?;
        self.rest = &self.rest[used..];
        if !digits.contains(['.', 'e', 'E']) {
            if self.rest.trim_start().starts_with("\\frac") {
                let fraction = self.deeper(Self::atom)?;
                return Some(Expression::binary('+', Expression::Number(value), fraction));
            }
            if let Some((fraction, rest)) = self.rest.strip_prefix(' ').and_then(mixed_fraction) {
                self.rest = rest;
                return Some(Expression::Number(value.plus(fraction)));
            }
        }
        Some(Expression::Number(value))
    }
}

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
fn mixed_fraction(text: &str) -> Option<(Number, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let above = digits(text);
    let below_text = text.get(above..)?.strip_prefix('/')?;
    let below = digits(below_text);
    let value = Number::decimal(&text[..above])?.over(Number::decimal(&below_text[..below])?)?;
    Some((value, &below_text[below..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<f64> {
        Expression::read(text)?.value().map(|number| number.value())
    }

    #[test]
    fn expressions_have_their_values() {
        for (text, expected) in [
            ("1,234", 1234.0),
            ("1 234 567", 1_234_567.0),
            ("\\frac12", 0.5),
            ("3 1/2", 3.5),
            ("1\\frac12", 1.5),
            ("2√3", 12f64.sqrt()),
            ("\\sqrt[3]{8}", 2.0),
            ("\\sin 30°", 0.5),
            ("|{-3}|", 3.0),
            ("2^{10}", 1024.0),
            ("1.5 × 10^3", 1500.0),
            ("\\log_{2} 8", 3.0),
            ("5!", 120.0),
            ("2 π", 2.0 * std::f64::consts::PI),
            ("-2^2", -4.0),
        ] {
            let read = value(text);
            assert!(read.is_some_and(|read| (read - expected).abs() < 1e-12), "{text}: {read:?}");
        }
        for text in ["", "1/0", "2 3", "(1", "x", "1 2 3"] {
            assert_eq!(value(text), None, "{text}");
        }
        assert_eq!(value(&"(".repeat(1000)), None);
    }

    #[test]
    fn polynomials_are_compared_by_value() {
        let same = |a: &str, b: &str| Expression::read(a).unwrap().same(&Expression::read(b).unwrap());
        assert_eq!(same("2x+1", "1 + 2x"), Some(true));
        assert_eq!(same("x^2+2x+1", "(x+1)^2"), Some(true));
        assert_eq!(same("x^2", "x^3"), Some(false));
        assert_eq!(same("x", "y"), Some(false));
        assert_eq!(same("\\sin^2 x + \\cos^2 x", "1"), Some(false));
        assert!(is_algebra("2x+1") && is_algebra("\\frac{x}{2}") && !is_algebra("B2") && !is_algebra("red+blue"));
    }
}
