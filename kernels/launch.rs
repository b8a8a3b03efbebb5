//! What launches have to know of the kernels, read from their sources and written down as Rust: for each kernel the threads of a block, for
//! each source a module with its constants and structs. `build.rs` calls it at each build. It reads what begins a line in one of the forms
//!
//! ```text
//! constexpr int NAME = EXPRESSION, OTHER = EXPRESSION;
//! constexpr int name(int a, bool b) { return EXPRESSION; }
//! static_assert(sizeof(Struct) == EXPRESSION);
//! extern "C" __global__ void __launch_bounds__(EXPRESSION) kernel(
//! ```
//!
//! and whose EXPRESSION is made of numbers, names that are defined above or in an included file, `sizeof(bf16)`, `sizeof(float)`,
//! `+ - * / % << >> == < >`, `condition ? a : b` and parentheses. A struct whose size is asserted begins with its members.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Binary operators, those that bind least first.
const OPERATORS: [&[&str]; 5] = [&["=="], &["<", ">"], &["<<", ">>"], &["+", "-"], &["*", "/", "%"]];

/// The Rust code for these sources, each a path below `kernels/` and a text.
///
/// # Errors
/// The first line that cannot be read: where it is, and what to do.
pub fn launch_code(sources: &[(String, String)]) -> Result<String, String> {
    let mut files = BTreeMap::new();
    for (path, _) in sources.iter().filter(|(path, _)| path.ends_with(".cu") || path.ends_with(".cuh")) {
        read(path, sources, &mut files)?;
    }
    let (mut threads, mut structs) = (BTreeMap::new(), BTreeMap::new());
    let mut modules = BTreeMap::<&str, String>::new();
    for (path, file) in &files {
        threads.extend(file.threads.iter().map(|(kernel, threads)| (kernel, threads)));
        for (name, bytes) in &file.structs {
            if structs.insert(name, bytes).is_some() {
                return Err(format!("kernels/{path}: another source has a struct {name} too; rename this one"));
            }
        }
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let name = name.split('.').next().unwrap_or(name);
        let _ = writeln!(
            modules.entry(folder).or_default(),
            "/// Of `kernels/{path}`.\n#[allow(missing_docs, unused_parens)]\npub mod {name} {{\n{}}}",
            file.code
        );
    }
    let mut code = format!(
        "/// Threads of a block of each kernel.\npub const THREADS: &[(&str, usize)] = &{:?};\n\
         /// Bytes of the structs that a launch fills or reads.\npub const STRUCTS: &[(&str, usize)] = &{:?};\n",
        threads.iter().collect::<Vec<_>>(),
        structs.iter().collect::<Vec<_>>()
    );
    for (folder, modules) in modules {
        let _ = match folder {
            "" => writeln!(code, "{modules}"),
            _ => {
                let name = folder.replace('/', "_");
                writeln!(code, "/// Of `kernels/{folder}/`.\npub mod {name} {{\n{modules}}}")
            }
        };
    }
    Ok(code)
}

/// What a source defines.
#[derive(Default)]
struct File {
    /// Its own names, and those of the files that it includes.
    scope: BTreeMap<String, Item>,
    code: String,
    threads: Vec<(String, u64)>,
    structs: Vec<(String, u64)>,
}

#[derive(Clone)]
enum Item {
    Constant(u64),
    Function(Vec<String>, Expression),
}

/// A whole number or a truth, as far as it is not known without the function's parameters.
#[derive(Clone)]
enum Expression {
    Number(u64),
    Parameter(String),
    Binary(&'static str, Box<[Expression; 2]>),
    Choice(Box<[Expression; 3]>),
}

use Expression::{Binary, Choice, Number, Parameter};

fn read(path: &str, sources: &[(String, String)], files: &mut BTreeMap<String, File>) -> Result<(), String> {
    let Some((_, text)) = sources.iter().find(|(other, _)| other == path).filter(|_| !files.contains_key(path)) else {
        return Ok(());
    };
    let mut file = File::default();
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if let Some(included) = line.strip_prefix("#include \"").and_then(|rest| rest.split('"').next()) {
            read(included, sources, files)?;
            let names = files.get(included).map(|included| included.scope.clone());
            file.scope.extend(names.unwrap_or_default());
        }
        let fault = |fault: String| {
            format!("kernels/{path}:{}: {fault}; kernels/launch.rs says which forms a launch can read", number + 1)
        };
        file.read_line(text, &text[at..]).map_err(fault)?;
        at += line.len();
    }
    files.insert(path.to_owned(), file);
    Ok(())
}

impl File {
    /// Reads what `rest` of the text begins with, if it is for launches.
    fn read_line(&mut self, text: &str, rest: &str) -> Result<(), String> {
        if let Some(rest) = rest.strip_prefix("constexpr int ") {
            let mut reader = Reader { rest, scope: &self.scope, parameters: &[] };
            let name = reader.token().to_owned();
            if reader.take("(") { self.read_function(name, rest) } else { self.read_constants(rest) }
        } else if let Some(rest) = rest.strip_prefix("static_assert(sizeof(") {
            self.read_struct(text, rest)
        } else if let Some(rest) = rest.strip_prefix("extern \"C\" __global__ void") {
            let mut reader = Reader { rest, scope: &self.scope, parameters: &[] };
            if !reader.take("__launch_bounds__") {
                let kernel = reader.token();
                return Err(format!(
                    "the kernel {kernel} has no __launch_bounds__, from which a launch has its threads"
                ));
            }
            reader.expect("(")?;
            let threads = reader.number()?;
            if reader.take(",") {
                reader.number()?;
            }
            reader.expect(")")?;
            self.threads.push((reader.token().to_owned(), threads));
            Ok(())
        } else {
            Ok(())
        }
    }

    fn read_constants(&mut self, mut rest: &str) -> Result<(), String> {
        loop {
            let mut reader = Reader { rest, scope: &self.scope, parameters: &[] };
            let name = reader.token().to_owned();
            reader.expect("=")?;
            let value = reader.number()?;
            let is_last = !reader.take(",");
            if is_last {
                reader.expect(";")?;
            }
            rest = reader.rest;
            let _ = writeln!(self.code, "pub const {name}: usize = {value};");
            self.scope.insert(name, Item::Constant(value));
            if is_last {
                return Ok(());
            }
        }
    }

    fn read_function(&mut self, name: String, rest: &str) -> Result<(), String> {
        let (list, rest) = rest.split_once('(').and_then(|(_, rest)| rest.split_once(')')).unwrap_or_default();
        let (mut parameters, mut declared) = (Vec::new(), Vec::new());
        for parameter in list.split(',') {
            let (rust, parameter) = match parameter.trim().split_once(' ') {
                Some(("int", parameter)) => ("usize", parameter),
                Some(("bool", parameter)) => ("bool", parameter),
                _ => return Err(format!("{name} takes `{parameter}`, which is neither an int nor a bool")),
            };
            parameters.push(parameter.to_owned());
            declared.push(format!("{parameter}: {rust}"));
        }
        let mut reader = Reader { rest, scope: &self.scope, parameters: &parameters };
        reader.expect("{")?;
        reader.expect("return")?;
        let body = reader.expression()?;
        reader.expect(";")?;
        let declared = declared.join(", ");
        let _ = writeln!(self.code, "pub const fn {name}({declared}) -> usize {{ {} }}", body.rust());
        self.scope.insert(name, Item::Function(parameters, body));
        Ok(())
    }

    /// A struct that ends above, `rest` the assertion of its size.
    fn read_struct(&mut self, text: &str, rest: &str) -> Result<(), String> {
        let mut reader = Reader { rest, scope: &self.scope, parameters: &[] };
        let name = reader.token().to_owned();
        // A template is the kernel's own.
        if reader.take("<") {
            return Ok(());
        }
        reader.expect(")")?;
        reader.expect("==")?;
        let bytes = reader.number()?;
        let (_, rest) =
            text.split_once(&format!("\nstruct {name} {{")).ok_or(format!("there is no struct {name} above"))?;
        let mut reader = Reader { rest, scope: &self.scope, parameters: &[] };
        let mut members = String::new();
        // Methods stand behind the members.
        while let Some(rust) = rust_type(reader.peek()) {
            reader.token();
            loop {
                let member = reader.token();
                let mut of = rust.to_owned();
                if reader.take("[") {
                    of = format!("[{rust}; {}]", reader.number()?);
                    reader.expect("]")?;
                }
                let _ = write!(members, " pub {member}: {of},");
                if !reader.take(",") {
                    break;
                }
            }
            reader.expect(";")?;
        }
        let _ = writeln!(
            self.code,
            "#[repr(C)]\n#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]\npub struct {name} {{{members} }}\n\
             const _: () = assert!(size_of::<{name}>() == {bytes});"
        );
        self.structs.push((name, bytes));
        Ok(())
    }
}

/// The Rust type of a member.
fn rust_type(name: &str) -> Option<&'static str> {
    match name {
        "float" => Some("f32"),
        "int" => Some("i32"),
        "unsigned" | "uint32_t" => Some("u32"),
        "int64_t" => Some("i64"),
        "uint64_t" | "size_t" => Some("u64"),
        _ => None,
    }
}

/// Tokens of C++, one after the other.
struct Reader<'t, 's> {
    rest: &'t str,
    scope: &'s BTreeMap<String, Item>,
    parameters: &'s [String],
}

impl<'t> Reader<'t, '_> {
    fn peek(&mut self) -> &'t str {
        self.rest = self.rest.trim_start();
        while self.rest.starts_with("//") {
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
        }
        let word = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let pair = ["==", "<<", ">>"].iter().any(|operator| self.rest.starts_with(operator));
        let one = self.rest.chars().next().map_or(0, char::len_utf8);
        &self.rest[..if word > 0 { word } else { one + usize::from(pair) }]
    }

    fn token(&mut self) -> &'t str {
        let token = self.peek();
        self.rest = &self.rest[token.len()..];
        token
    }

    fn take(&mut self, token: &str) -> bool {
        let is_next = self.peek() == token;
        if is_next {
            self.token();
        }
        is_next
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(format!("`{}` stands where `{token}` was expected", self.peek())) }
    }

    /// An expression that no parameter is part of.
    fn number(&mut self) -> Result<u64, String> {
        match self.expression()? {
            Number(value) => Ok(value),
            other => Err(format!("`{}` is not known when this is built", other.rust())),
        }
    }

    fn expression(&mut self) -> Result<Expression, String> {
        let condition = self.binary(0)?;
        if !self.take("?") {
            return Ok(condition);
        }
        let yes = self.expression()?;
        self.expect(":")?;
        Ok(choice([condition, yes, self.expression()?]))
    }

    fn binary(&mut self, level: usize) -> Result<Expression, String> {
        let Some(operators) = OPERATORS.get(level) else { return self.primary() };
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = operators.iter().find(|operator| **operator == self.peek()) {
            self.token();
            left = binary(operator, [left, self.binary(level + 1)?])?;
        }
        Ok(left)
    }

    fn primary(&mut self) -> Result<Expression, String> {
        let token = self.token();
        if token == "(" {
            let inside = self.expression()?;
            self.expect(")")?;
            return Ok(inside);
        }
        if token == "sizeof" {
            self.expect("(")?;
            let bytes = match self.token() {
                "bf16" => 2,
                "float" => 4,
                other => return Err(format!("sizeof({other}) is not known, only that of bf16 and float")),
            };
            self.expect(")")?;
            return Ok(Number(bytes));
        }
        if let Some(parameter) = self.parameters.iter().find(|parameter| *parameter == token) {
            return Ok(Parameter(parameter.clone()));
        }
        match (self.scope.get(token), token.parse()) {
            (_, Ok(value)) => Ok(Number(value)),
            (Some(Item::Constant(value)), _) => Ok(Number(*value)),
            (Some(Item::Function(parameters, body)), _) => {
                let mut arguments = BTreeMap::new();
                for (parameter, before) in parameters.iter().zip(std::iter::once("(").chain(std::iter::repeat(","))) {
                    self.expect(before)?;
                    arguments.insert(parameter, self.expression()?);
                }
                self.expect(")")?;
                body.with(&arguments)
            }
            (None, _) => {
                Err(format!("`{token}` is not a whole number, nor a `constexpr int` defined above or included"))
            }
        }
    }
}

fn binary(operator: &'static str, [a, b]: [Expression; 2]) -> Result<Expression, String> {
    let (Number(x), Number(y)) = (&a, &b) else { return Ok(Binary(operator, Box::new([a, b]))) };
    let value = match operator {
        "==" => Some(u64::from(x == y)),
        "<" => Some(u64::from(x < y)),
        ">" => Some(u64::from(x > y)),
        "<<" => u32::try_from(*y).ok().and_then(|y| x.checked_shl(y)),
        ">>" => u32::try_from(*y).ok().and_then(|y| x.checked_shr(y)),
        "+" => x.checked_add(*y),
        "-" => x.checked_sub(*y),
        "*" => x.checked_mul(*y),
        "/" => x.checked_div(*y),
        _ => x.checked_rem(*y),
    };
    value.map(Number).ok_or(format!("{x} {operator} {y} is no number of a launch"))
}

fn choice(parts: [Expression; 3]) -> Expression {
    match parts {
        [Number(0), _, no] => no,
        [Number(_), yes, _] => yes,
        parts => Choice(Box::new(parts)),
    }
}

impl Expression {
    /// Arguments in the place of the parameters.
    fn with(&self, arguments: &BTreeMap<&String, Expression>) -> Result<Expression, String> {
        match self {
            Number(value) => Ok(Number(*value)),
            Parameter(name) => Ok(arguments[name].clone()),
            Binary(operator, parts) => binary(operator, [parts[0].with(arguments)?, parts[1].with(arguments)?]),
            Choice(parts) => {
                Ok(choice([parts[0].with(arguments)?, parts[1].with(arguments)?, parts[2].with(arguments)?]))
            }
        }
    }

    fn rust(&self) -> String {
        match self {
            Number(value) => value.to_string(),
            Parameter(name) => name.clone(),
            Binary(operator, parts) => format!("({} {operator} {})", parts[0].rust(), parts[1].rust()),
            Choice(parts) => {
                format!("(if {} {{ {} }} else {{ {} }})", parts[0].rust(), parts[1].rust(), parts[2].rust())
            }
        }
    }
}
