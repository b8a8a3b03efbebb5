//! The kernels as `build.rs` embeds them: sources for the simt device, compiled images for GPUs. What a launch has to know of a source,
//! its constants and structs, is in the module of the source's name, as `kernels/launch.rs` reads it.

#![allow(clippy::manual_div_ceil, reason = "written as it stands in the kernels' sources")]

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernels that a source defines: the names after `extern "C" __global__`.
pub fn names(text: &str) -> Vec<&str> {
    entries(text).map(|(name, _)| name).collect()
}

/// What a kernel's parameter takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parameter {
    /// An address, or null.
    Pointer,
    /// A C++ `int` or `unsigned`.
    I32,
    /// A C++ `float`.
    F32,
    /// A C++ 64-bit integer.
    I64,
    /// A struct of so many bytes, one of [`STRUCTS`].
    Struct(usize),
}

/// Threads of a block of a kernel: its `__launch_bounds__`. Panics if there is no such kernel.
pub fn threads(kernel: &str) -> usize {
    let found = THREADS.binary_search_by_key(&kernel, |(name, _)| name);
    THREADS[found.unwrap_or_else(|_| panic!("there is no kernel {kernel}"))].1
}

/// The parameters of the kernel that a source defines under this name; a macro of the source may stand for their list. Panics if there
/// is no such kernel, or a parameter is none that a kernel may have.
pub fn parameters(text: &str, kernel: &str) -> Vec<Parameter> {
    let found = entries(text).find(|(name, _)| *name == kernel);
    let (_, list) = found.unwrap_or_else(|| panic!("the source defines no kernel {kernel}"));
    let body = text.split_once(&format!("#define {list} ")).map(|(_, rest)| rest.replace("\\\n", ""));
    let list = body.as_deref().map_or(list, |body| body.lines().next().unwrap_or(""));
    let declarations = list.split(',').map(str::trim).filter(|declaration| !declaration.is_empty());
    declarations
        .map(|declaration| match declaration.split_whitespace().next() {
            _ if declaration.contains('*') => Parameter::Pointer,
            Some("int" | "unsigned") => Parameter::I32,
            Some("float") => Parameter::F32,
            Some("int64_t" | "uint64_t" | "size_t") => Parameter::I64,
            name => match STRUCTS.iter().find(|(known, _)| Some(*known) == name) {
                Some((_, bytes)) => Parameter::Struct(*bytes),
                None => panic!(
                    "{kernel} takes `{declaration}`; known are pointers, float, int, unsigned, (u)int64_t, size_t, and structs \
                     whose size the source asserts"
                ),
            },
        })
        .collect()
}

/// Each kernel's name, and what stands in the parentheses behind it.
fn entries(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("extern \"C\" __global__").skip(1).map(|rest| {
        let rest = rest.trim_start();
        let rest = rest.strip_prefix("void").unwrap_or(rest).trim_start();
        let bounds = rest.strip_prefix("__launch_bounds__").and_then(|bounds| bounds.split_once(')'));
        let (name, rest) = bounds.map_or(rest, |(_, rest)| rest).split_once('(').unwrap_or_default();
        (name.trim(), rest.split_once(')').unwrap_or_default().0.trim())
    })
}

/// A hash of the kernels as they are built in: every source and every compiled image.
pub fn hash() -> String {
    let mut hasher = blake3::Hasher::new();
    let sources = SOURCES.iter().map(|(path, text)| (*path, "", text.as_bytes()));
    for (unit, target, bytes) in sources.chain(IMAGES.iter().copied()) {
        for part in [unit.as_bytes(), target.as_bytes(), bytes] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// The sources that define kernels for use, each with its text.
pub fn units() -> impl Iterator<Item = (&'static str, &'static str)> {
    SOURCES.iter().copied().filter(|(path, _)| path.ends_with(".cu") && !path.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_by_their_names() {
        let text = "extern \"C\" __global__ void first(int x) {}\n\
                    extern \"C\" __global__ void __launch_bounds__(4* 32)\n    second(float* y) {}";
        assert_eq!(names(text), ["first", "second"]);
        assert!(units().any(|(path, text)| path == "linear.cu" && names(text).contains(&"linear_forward_large")));
    }

    #[test]
    fn every_kernel_has_its_threads() {
        let sources = SOURCES.iter().filter(|(path, _)| path.ends_with(".cu"));
        let names: Vec<&str> = sources.flat_map(|(_, text)| names(text)).collect();
        assert_eq!(names.len(), THREADS.len());
        assert!(names.iter().all(|name| threads(name).is_multiple_of(common::reduce::WARP)));
    }

    #[test]
    fn parameters_are_read_from_the_source() {
        use Parameter::{F32, I32, I64, Pointer, Struct};
        let text = "#define LIST const float *x, float *y, \\\n    int n\n#define OTHER x\n\
                    extern \"C\" __global__ void __launch_bounds__(32, 1) listed(LIST) {}\n\
                    extern \"C\" __global__ void plain(const bf16* x, float f,\n    unsigned u, size_t s, int64_t i, AdamwStep step) {}\n\
                    extern \"C\" __global__ void none() {}";
        assert_eq!(parameters(text, "listed"), [Pointer, Pointer, I32]);
        let step = Struct(size_of::<adamw::AdamwStep>());
        assert_eq!(parameters(text, "plain"), [Pointer, F32, I32, I64, I64, step]);
        assert_eq!(parameters(text, "none"), []);
    }
}
