//! What a GPU can compute at most, by its name.

/// Dense bf16 products of tensor cores, FLOP/s, from NVIDIA's data sheets: A100 (June 2021), H100 (2023: SXM, PCIe, NVL), H200 (2024: SXM,
/// NVL). The first entry whose words are all in the name holds.
const PEAKS: [(&[&str], f64); 6] = [
    (&["A100"], 312e12),
    (&["H200", "NVL"], 835.5e12),
    (&["H200"], 989.4e12),
    (&["H100", "NVL"], 835.5e12),
    (&["H100", "PCIe"], 756.5e12),
    (&["H100"], 989.4e12),
];

/// The most dense bf16 FLOP/s of a GPU with this name, as NVML gives it; `None` for one that is not in the table.
pub fn bf16_flops(name: &str) -> Option<f64> {
    PEAKS.iter().find(|(words, _)| words.iter().all(|word| name.contains(word))).map(|(_, flops)| *flops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_card_decides() {
        for (name, wanted) in [
            ("NVIDIA A100-SXM4-80GB", Some(312e12)),
            ("NVIDIA A100-PCIE-40GB", Some(312e12)),
            ("NVIDIA H100 80GB HBM3", Some(989.4e12)),
            ("NVIDIA H100 PCIe", Some(756.5e12)),
            ("NVIDIA H100 NVL", Some(835.5e12)),
            ("NVIDIA H200", Some(989.4e12)),
            ("NVIDIA H200 NVL", Some(835.5e12)),
            ("NVIDIA GeForce RTX 4090", None),
        ] {
            assert_eq!(bf16_flops(name), wanted, "{name}");
        }
    }
}
