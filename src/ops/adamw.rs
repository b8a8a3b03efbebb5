//! AdamW in place over (bf16 weight, 16-bit remainder).

use super::Tensor;

/// AdamW (Loshchilov & Hutter 2019), the decay decoupled, on an fp32 master that is stored in two halves.
///
/// With the master's bits `m`: weight bits `= (m + 0x8000) >> 16`, remainder `= m − (weight << 16)`, an i16; exact both ways.
pub trait Adamw {
    /// With `g = dw · gradient_scale`: `m = β₁ m + (1−β₁) g`, `v = β₂ v + (1−β₂) g²`,
    /// `master −= lr · (m̂ / (√v̂ + ε) + decay · master)`, with `m̂ = m/(1−β₁ᵗ)`, `v̂ = v/(1−β₂ᵗ)`.
    ///
    /// w Bf16, remainder I16, m and v F32, dw F32, all of one length.
    fn adamw(
        &self,
        w: &mut Tensor,
        remainder: &mut Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        dw: &Tensor,
        step: &AdamwStep,
    );
}

/// The numbers of one update.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamwStep {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay; 0 for norms and biases.
    pub weight_decay: f32,
    /// Number of this update, from 1.
    pub step: u64,
    /// Multiplies the gradient first (clipping).
    pub gradient_scale: f32,
}

/// The bf16 bits and remainder of an fp32 master.
pub fn split_master(master: f32) -> (u16, i16) {
    let bits = master.to_bits();
    let weight = (bits.wrapping_add(0x8000) >> 16) as u16;
    (weight, bits.wrapping_sub(u32::from(weight) << 16) as u16 as i16)
}

/// The fp32 master of bf16 bits and a remainder.
pub fn join_master(weight: u16, remainder: i16) -> f32 {
    f32::from_bits((u32::from(weight) << 16).wrapping_add(i32::from(remainder) as u32))
}
