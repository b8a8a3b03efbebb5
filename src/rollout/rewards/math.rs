//! Simple mathematics by rule: reads a number, fraction, root, percentage, tuple, interval, set or list, in plain text or LaTeX, to
//! its numeric value. What it cannot read it leaves alone: a wrong reading would be worse than none.

/// Longest text that is read, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// Deepest nesting of brackets.
const DEPTH_MAX: usize = 32;

/// The value of a mathematical text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number; `percent` if it was written with a percent sign (`value` is the number before the sign).
    Number {
        /// The number as written.
        value: f64,
        /// Whether a percent sign followed.
        percent: bool,
    },
    /// Values in brackets: ordered in tuples and intervals, unordered in sets and bare lists.
    Collection {
        /// The opening and closing bracket: `()`, `[)`, `{}`; `{}` also for a bare list.
        brackets: [char; 2],
        /// What stands between the commas.
        values: Vec<Value>,
    },
}

impl Value {
    /// A plain number.
    fn number(value: f64) -> Self {
        Value::Number { value, percent: false }
    }

    /// Whether both are the same value. A percentage equals its number with or without the sign, and the fraction it stands for.
    pub fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Number { value: a, percent: p }, Value::Number { value: b, percent: q }) => {
                close(*a, *b) || (*p && !*q && close(a / 100.0, *b)) || (*q && !*p && close(*a, b / 100.0))
            }
            (Value::Collection { brackets: a, values: x }, Value::Collection { brackets: b, values: y }) => {
                a == b && x.len() == y.len() && if *a == ['{', '}'] { same_set(x, y) } else { same_list(x, y) }
            }
            _ => false,
        }
    }
}

/// Equal up to the rounding of a few operations in f64.
fn close(a: f64, b: f64) -> bool {
    // Infinities are equal, and have no difference.
    a == b || (a.is_finite() && b.is_finite() && (a - b).abs() <= 1e-12 + 1e-9 * a.abs().max(b.abs()))
}

fn same_list(a: &[Value], b: &[Value]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.same(b))
}

fn same_set(a: &[Value], b: &[Value]) -> bool {
    let mut rest: Vec<&Value> = b.iter().collect();
    a.iter().all(|value| rest.iter().position(|other| value.same(other)).map(|at| rest.swap_remove(at)).is_some())
}

/// Reads a mathematical text, or gives `None`.
pub fn parse(text: &str) -> Option<Value> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let text = plain(text);
    let text = after_equals(text.trim()).trim();
    let parts = split_commas(text);
    if parts.len() > 1 {
        return Some(Value::Collection {
            brackets: ['{', '}'],
            values: parts.into_iter().map(|part| parse_one(part, 0)).collect::<Option<_>>()?,
        });
    }
    parse_one(text, 0)
}

/// A bracketed collection or an expression.
fn parse_one(text: &str, depth: usize) -> Option<Value> {
    let text = text.trim();
    if depth > DEPTH_MAX || text.is_empty() {
        return None;
    }
    if let Some((brackets, inner)) = bracketed(text) {
        let parts = split_commas(inner);
        if parts.len() > 1 || brackets == ['{', '}'] {
            let values = parts.into_iter().map(|part| parse_one(part, depth + 1)).collect::<Option<_>>()?;
            return Some(Value::Collection { brackets, values });
        }
    }
    if let Some(value) = infinity(text) {
        return Some(Value::number(value));
    }
    let (text, percent) = match text.strip_suffix('%') {
        Some(number) => (number.trim_end(), true),
        None => (text, false),
    };
    let mut reader = Reader { rest: text, depth: 0 };
    let value = reader.sum()?;
    reader.skip_spaces();
    if !reader.rest.is_empty() || !value.is_finite() {
        return None;
    }
    Some(if percent { Value::Number { value, percent } } else { Value::number(value) })
}

/// Plus or minus infinity, as a bound of an interval.
fn infinity(text: &str) -> Option<f64> {
    let (sign, name) = match text.strip_prefix('-') {
        Some(name) => (-1.0, name),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    ["\\infty", "∞", "infinity", "inf", "oo"].contains(&name.trim()).then_some(sign * f64::INFINITY)
}

/// LaTeX dressing and typographic signs taken off: `\left(`, `\,`, `$`, `−`, `\text{…}`, `\boxed{…}`, degree signs. Set braces
/// `\{ \}` become `⦃ ⦄`, so that grouping braces stay apart from them.
pub(super) fn plain(text: &str) -> String {
    let mut text = text.to_owned();
    const REPLACED: [(&str, &str); 34] = [
        (" x 10^", " * 10^"),
        ("\\{", "⦃"),
        ("\\}", "⦄"),
        ("\\left", ""),
        ("\\right", ""),
        ("\\displaystyle", ""),
        ("\\dfrac", "\\frac"),
        ("\\tfrac", "\\frac"),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("°", ""),
        ("\\%", "%"),
        ("\\$", ""),
        ("$", ""),
        ("\\(", ""),
        ("\\)", ""),
        ("\\[", ""),
        ("\\]", ""),
        ("\\,", ""),
        ("\\!", ""),
        ("\\;", " "),
        ("\\ ", " "),
        ("~", " "),
        ("−", "-"),
        ("–", "-"),
        ("×", "*"),
        ("·", "*"),
        ("÷", "/"),
        ("\\times", "*"),
        ("\\cdot", "*"),
        ("\\div", "/"),
        ("√", "\\sqrt"),
        ("π", "\\pi "),
        ("²", "^2"),
    ];
    for (from, to) in REPLACED {
        text = text.replace(from, to);
    }
    for command in ["\\boxed{", "\\text{", "\\mathrm{", "\\mathbf{"] {
        while let Some(start) = text.find(command) {
            let inner = start + command.len();
            let Some(end) = closing_brace(&text[inner..]).map(|end| inner + end) else { break };
            text = format!("{}{}{}", &text[..start], &text[inner..end], &text[end + 1..]);
        }
    }
    text
}

/// The offset of the brace that closes one opened just before `text`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 1;
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => continue,
        }
        if open == 0 {
            return Some(offset);
        }
    }
    None
}

/// What follows `name =` when a single short name stands before the sign.
fn after_equals(text: &str) -> &str {
    match text.split_once('=') {
        Some((name, value))
            if name.trim().len() <= 8 && name.trim().chars().all(|c| c.is_alphanumeric() || c == '_') =>
        {
            value
        }
        _ => text,
    }
}

/// The brackets around the whole of `text`, and what they hold. A brace written plainly counts as a set.
fn bracketed(text: &str) -> Option<([char; 2], &str)> {
    let open = text.chars().next()?;
    let close = text.chars().next_back()?;
    let brackets = match (open, close) {
        ('⦃', '⦄') | ('{', '}') => ['{', '}'],
        ('(' | '[', ')' | ']') => [open, close],
        _ => return None,
    };
    let inner = text.get(open.len_utf8()..text.len() - close.len_utf8())?;
    let mut depth = 0i32;
    for character in inner.chars() {
        match character {
            '(' | '[' | '{' | '⦃' => depth += 1,
            ')' | ']' | '}' | '⦄' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    Some((brackets, inner))
}

/// Splits at the commas outside brackets, except those that group thousands (`1,000`) in a text without brackets.
fn split_commas(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0i32, 0);
    for (offset, character) in text.char_indices() {
        match character {
            '(' | '[' | '{' | '⦃' => depth += 1,
            ')' | ']' | '}' | '⦄' => depth -= 1,
            ',' | ';' if depth == 0 && !(character == ',' && groups_thousands(text, offset)) => {
                parts.push(&text[start..offset]);
                start = offset + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Whether the comma at `comma` stands between one to three digits (or a group) and exactly three digits.
fn groups_thousands(text: &str, comma: usize) -> bool {
    let before = text[..comma].bytes().rev().take_while(u8::is_ascii_digit).count();
    let after = text[comma + 1..].bytes().take_while(u8::is_ascii_digit).count();
    (1..=3).contains(&before) && after == 3
}

/// A reader of expressions by recursive descent.
struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Reader<'a> {
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

    /// sum = product (('+' | '-') product)*
    fn sum(&mut self) -> Option<f64> {
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                value += self.product()?;
            } else if self.take("-") {
                value -= self.product()?;
            } else {
                return Some(value);
            }
        }
    }

    /// product = signed (('*' | '/' | nothing) signed)*; nothing only before a name or a bracket.
    fn product(&mut self) -> Option<f64> {
        let mut value = self.signed()?;
        loop {
            if self.take("**") {
                return None;
            } else if self.take("*") {
                value *= self.signed()?;
            } else if self.take("/") {
                value /= self.signed()?;
            } else if self.starts_factor() {
                value *= self.power()?;
            } else {
                return Some(value);
            }
        }
    }

    fn starts_factor(&mut self) -> bool {
        self.skip_spaces();
        ["\\sqrt", "sqrt", "\\pi", "pi", "\\frac", "(", "{"].iter().any(|start| self.rest.starts_with(start))
    }

    /// signed = ('-' | '+')* power
    fn signed(&mut self) -> Option<f64> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return None;
        }
        let value = if self.take("-") {
            self.signed().map(|value| -value)
        } else if self.take("+") {
            self.signed()
        } else {
            self.power()
        };
        self.depth -= 1;
        value
    }

    /// power = atom ('^' signed)?
    fn power(&mut self) -> Option<f64> {
        let base = self.atom()?;
        if self.take("^") { Some(base.powf(self.signed()?)) } else { Some(base) }
    }

    fn atom(&mut self) -> Option<f64> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return None;
        }
        let value = self.atom_inner();
        self.depth -= 1;
        value
    }

    fn atom_inner(&mut self) -> Option<f64> {
        if self.take("(") {
            let value = self.sum()?;
            return self.take(")").then_some(value);
        }
        if self.take("{") {
            let value = self.sum()?;
            return self.take("}").then_some(value);
        }
        if self.take("\\frac") {
            return Some(self.argument()? / self.argument()?);
        }
        if self.take("\\sqrt") || self.take("sqrt") {
            let degree = if self.take("[") {
                let degree = self.sum()?;
                self.take("]").then_some(degree)?
            } else {
                2.0
            };
            let radicand = self.argument()?;
            return Some(if degree == 2.0 { radicand.sqrt() } else { radicand.powf(1.0 / degree) });
        }
        if self.take("\\pi") || self.take("pi") {
            return Some(std::f64::consts::PI);
        }
        self.number()
    }

    /// The argument of a command: a group, or as in LaTeX a single digit (`\frac12`) or a number (`√12`).
    fn argument(&mut self) -> Option<f64> {
        self.skip_spaces();
        if self.rest.starts_with(['{', '(', '\\']) {
            return self.atom();
        }
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 2 {
            let value = self.rest[..1].parse().ok()?;
            self.rest = &self.rest[1..];
            return Some(value);
        }
        self.number()
    }

    /// A decimal number, with thousands grouped or not, with an exponent or not; an integer may be followed by a fraction
    /// (`1 1/2`, `1\frac{1}{2}`), which is added.
    fn number(&mut self) -> Option<f64> {
        self.skip_spaces();
        let bytes = self.rest.as_bytes();
        let mut end = 0;
        let mut digits = String::new();
        let mut integer = true;
        while let Some(&byte) = bytes.get(end) {
            match byte {
                b'0'..=b'9' => digits.push(byte as char),
                b',' if integer && groups_thousands(self.rest, end) => {}
                b'.' if integer => {
                    integer = false;
                    digits.push('.');
                }
                b'e' | b'E' if !digits.is_empty() => {
                    let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
                    let exponent = bytes[end + 1 + sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    if exponent == 0 {
                        break;
                    }
                    digits.push_str(&self.rest[end..end + 1 + sign + exponent]);
                    end += 1 + sign + exponent;
                    integer = false;
                    break;
                }
                _ => break,
            }
            end += 1;
        }
        let value: f64 = digits.parse().ok()?;
        self.rest = &self.rest[end..];
        if integer {
            if self.rest.starts_with("\\frac") {
                return Some(value + self.atom()?);
            }
            if let Some(fraction) = self.rest.strip_prefix(' ').and_then(mixed_fraction) {
                self.rest = fraction.1;
                return Some(value + fraction.0);
            }
        }
        Some(value)
    }
}

/// `a/b` of two integers at the start of `text`, and what follows it.
fn mixed_fraction(text: &str) -> Option<(f64, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let above = digits(text);
    let below_text = text.get(above..)?.strip_prefix('/')?;
    let below = digits(below_text);
    let value = text[..above].parse::<f64>().ok()? / below_text[..below].parse::<f64>().ok()?;
    Some((value, &below_text[below..]))
}
