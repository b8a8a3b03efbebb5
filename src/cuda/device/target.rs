//! What a device is, as far as kernels differ by it, and the variant of the kernels that it takes. Chosen once, where a device is opened: no
//! launch asks again.

use std::fmt::{Display, Formatter};

/// A compute capability: 8.0 is an A100, 9.0 an H100 or H200.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    /// The generation.
    pub major: u32,
    /// The device within it.
    pub minor: u32,
}

/// How kernels are compiled: `TARGETS` of `build.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// For 8.0 alone.
    Sm80,
    /// For 9.0 alone, with what only Hopper has.
    Sm90a,
    /// PTX that the driver compiles for any device from 8.0 on.
    Compute80,
}

impl Target {
    /// A100.
    pub const SM_80: Target = Target { major: 8, minor: 0 };
    /// H100 and H200.
    pub const SM_90: Target = Target { major: 9, minor: 0 };

    /// The variant that fits best; none for devices that are older than the kernels' instructions.
    pub fn variant(self) -> Option<Variant> {
        match self {
            Target::SM_80 => Some(Variant::Sm80),
            Target::SM_90 => Some(Variant::Sm90a),
            _ => (self > Target::SM_80).then_some(Variant::Compute80),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "compute capability {}.{}", self.major, self.minor)
    }
}

impl Variant {
    /// Its name among [`crate::cuda::kernels::IMAGES`].
    pub fn name(self) -> &'static str {
        match self {
            Variant::Sm80 => "sm_80",
            Variant::Sm90a => "sm_90a",
            Variant::Compute80 => "compute_80",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gpu_gets_the_variant_that_fits_it() {
        let variants =
            [(7, 5), (8, 0), (8, 6), (9, 0), (12, 0)].map(|(major, minor)| Target { major, minor }.variant());
        let [ptx, ampere, hopper] = [Variant::Compute80, Variant::Sm80, Variant::Sm90a].map(Some);
        assert_eq!(variants, [None, ampere, ptx, hopper, ptx]);
    }
}
