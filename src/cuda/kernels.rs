//! The kernels as `build.rs` embeds them: sources for the simt device, compiled images for GPUs.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernels that a source defines: the names after `extern "C" __global__`.
pub fn names(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, mark) in text.match_indices("extern \"C\" __global__") {
        let mut rest = text[at + mark.len()..].trim_start();
        rest = rest.strip_prefix("void").unwrap_or(rest).trim_start();
        if let Some(bounds) = rest.strip_prefix("__launch_bounds__") {
            rest = bounds.split_once(')').map_or("", |(_, rest)| rest).trim_start();
        }
        let end = rest.find('(').unwrap_or(0);
        names.push(rest[..end].trim());
    }
    names
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
        assert!(units().any(|(path, text)| path == "linear.cu" && names(text).contains(&"linear_forward")));
    }
}
