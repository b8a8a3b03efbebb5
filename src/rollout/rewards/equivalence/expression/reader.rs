//! Reads expressions by recursive descent, from plain text and LaTeX.

use super::super::number::Number;
use super::digits::{mixed_fraction, number_length};
use super::tree::Expression;

/// Deepest nesting of brackets.
const DEPTH_MAX: usize = 32;
/// Words of functions, as `\sin` or `sin`.
const FUNCTIONS: [&str; 10] = ["arcsin", "arccos", "arctan", "sin", "cos", "tan", "ln", "log", "exp", "abs"];

impl Expression {
    /// Needs the whole of a text (canonical, without LaTeX's markup).
    pub fn read(text: &str) -> Option<Self> {
        let mut reader = Reader { rest: text.trim(), depth: 0, bars: 0 };
        let expression = reader.sum()?;
        reader.skip_spaces();
        reader.rest.is_empty().then_some(expression)
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
    fn algebra_has_an_operator_or_a_coefficient_and_is_no_code() {
        assert!(is_algebra("2x+1") && is_algebra("\\frac{x}{2}") && !is_algebra("B2") && !is_algebra("red+blue"));
    }
}
