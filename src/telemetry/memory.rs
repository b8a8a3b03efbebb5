//! Memory of the machine and of this process, as the kernel tells it through /proc, and bytes as tables show them.

use std::path::Path;

/// What this machine has left, where it says so (`MemAvailable` of /proc/meminfo).
pub fn available_bytes() -> Option<u64> {
    bytes_of(Path::new("/proc/meminfo"), "MemAvailable:")
}

/// The most memory that this process ever had resident, in bytes (`VmHWM` of /proc/self/status).
pub fn peak_resident_bytes() -> Option<u64> {
    bytes_of(Path::new("/proc/self/status"), "VmHWM:")
}

/// The line of a file of /proc that begins with `name`, which counts in kB.
fn bytes_of(path: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// As tables show it.
pub fn readable_bytes(bytes: u128) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_peak() {
        let before = peak_resident_bytes().unwrap();
        let touched = std::hint::black_box(vec![1u8; before as usize + (32 << 20)]);
        assert!(peak_resident_bytes().unwrap() >= before + (16 << 20), "{}", touched.len());
    }
}
