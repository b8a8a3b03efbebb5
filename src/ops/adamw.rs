//! AdamW in place over (bf16 weight, 16-bit remainder), its moments in f32 or in 8 bits.

use super::{Buffers, Dtype, Tensor};

/// AdamW (Loshchilov & Hutter 2019), the decay decoupled, on an fp32 master that is stored in two halves.
///
/// With the master's bits `m`: weight bits `= (m + 0x8000) >> 16`, remainder `= m − (weight << 16)`, an i16; exact both ways.
pub trait Adamw {
    /// With `g = dw · gradient_scale`: `m = β₁ m + (1−β₁) g`, `v = β₂ v + (1−β₂) g²`,
    /// `master −= lr · (m̂ / (√v̂ + ε) + decay · master)`, with `m̂ = m/(1−β₁ᵗ)`, `v̂ = v/(1−β₂ᵗ)`, for each parameter by itself.
    ///
    /// The update sees m and v as computed: what is rounded to 8 bits is what is stored.
    fn adamw(&self, parameters: &mut [AdamwParameter<'_>], step: &AdamwStep);
}

/// What an update does with one parameter; all of one shape.
#[derive(Debug)]
pub struct AdamwParameter<'a> {
    /// Bf16.
    pub w: &'a mut Tensor,
    /// I16.
    pub remainder: &'a mut Tensor,
    /// The first moment.
    pub m: &'a mut Moment,
    /// The second, of the same form.
    pub v: &'a mut Moment,
    /// F32.
    pub dw: &'a Tensor,
    /// Decoupled weight decay; 0 for norms and biases.
    pub weight_decay: f32,
}

impl AdamwParameter<'_> {
    /// Panics unless these fit together.
    #[track_caller]
    pub fn expect_shapes(&self) {
        let AdamwParameter { w, remainder, m, v, dw, .. } = self;
        let is_8bit = m.scales.is_some();
        let dtype = if is_8bit { Dtype::U8 } else { Dtype::F32 };
        let fits = |of: &Tensor, dtype| of.shape() == w.shape() && of.dtype() == dtype;
        let is_moment = |of: &Moment| {
            let blocks = of.scales.as_ref().map(Tensor::len);
            fits(&of.values, dtype) && blocks == is_8bit.then_some(w.len().div_ceil(MOMENT_BLOCK))
        };
        assert!(
            fits(remainder, Dtype::I16) && is_moment(m) && is_moment(v) && fits(dw, Dtype::F32),
            "adamw: w {w:?}, remainder {remainder:?}, m {m:?}, v {v:?}, dw {dw:?}"
        );
    }
}

/// Elements that share a scale.
pub const MOMENT_BLOCK: usize = 256;

/// A moment of a parameter, as it is stored between updates.
///
/// In 8 bits (Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization") the flattened parameter is cut into blocks of
/// [`MOMENT_BLOCK`], the last one short. A block's scale is its largest magnitude, at most `f32::MAX`; an element is
/// `map.value(code) · scale`, and its code `map.code(element / scale)`, 0 where the scale is 0. The first moment is stored so with
/// [`SIGNED`]. Of the second its root is, with [`UNSIGNED`]: v spans twice the decades that g does.
#[derive(Debug)]
pub struct Moment {
    /// F32 values, or U8 codes, of the parameter's shape.
    pub values: Tensor,
    /// F32 `[ceil(len / 256)]`, with codes only.
    pub scales: Option<Tensor>,
}

impl Moment {
    /// A moment of zeros in f32.
    pub fn zeros(buffers: &(impl Buffers + ?Sized), shape: &[usize]) -> Moment {
        Moment { values: buffers.zeros(shape, Dtype::F32), scales: None }
    }

    /// A moment of zeros in 8 bits.
    pub fn zeros_8bit(buffers: &(impl Buffers + ?Sized), shape: &[usize]) -> Moment {
        let values = buffers.zeros(shape, Dtype::U8);
        let scales = buffers.zeros(&[values.len().div_ceil(MOMENT_BLOCK)], Dtype::F32);
        Moment { values, scales: Some(scales) }
    }
}

/// 256 numbers that a byte stands for: the dynamic map of Dettmers et al. 2021, bitsandbytes' `create_dynamic_map`.
///
/// There are 7 decades up to 1. One has twice as many numbers as the decade below it, evenly spaced: with `n` of them, the `f`-th of the
/// decade that ends at `10⁻ᵏ` is `10⁻ᵏ (0.1 + 0.9 (f + ½) / n)`. Two more are 0 and 1. Signed, `n` is 1 to 64 on either side of 0, and
/// there is no −1; unsigned, `n` is 2 to 128.
///
/// Code 0 is 0, so that zeroed memory is a moment of zeros. Codes ascend with their numbers from there; signed, those above 128 (which is
/// 1) are the negative ones, as in two's complement. bitsandbytes counts signed ones from the lowest, 129 less than here (modulo 256).
#[derive(Debug)]
pub struct CodeMap {
    /// The number that each code stands for.
    values: [f32; 256],
    /// Where neighbours part: their midpoint, rounded to f32. A search tree: its root is 1, the children of node `i` are `2i` and `2i + 1`.
    nodes: [f32; 256],
    /// The code of the lowest number.
    lowest: usize,
}

/// For what can be negative: −0.993 to 1, the smallest above zero 5.5e-7.
pub static SIGNED: CodeMap = CodeMap::dynamic(true);
/// For what cannot: 0 to 1, the smallest above zero 3.25e-7. Zero and that one part at 0, so that no root above zero is stored as zero: the
/// next step would divide by little more than ε.
pub static UNSIGNED: CodeMap = CodeMap::dynamic(false);

impl CodeMap {
    const fn dynamic(is_signed: bool) -> CodeMap {
        let lowest = if is_signed { 129 } else { 0 };
        let mut map = CodeMap { values: [0.0; 256], nodes: [0.0; 256], lowest };
        let mut code = 1;
        while code < 256 {
            map.values[code] = match is_signed {
                true if code <= 128 => magnitude(code as u32, 7),
                true => -magnitude(256 - code as u32, 7),
                false => magnitude(code as u32 + 1, 8),
            };
            code += 1;
        }
        let mut node = 1;
        while node < 256 {
            let level = usize::ilog2(node);
            let rank = ((2 * (node - (1 << level)) + 1) << (7 - level)) - 1;
            let (below, above) = (map.values[(rank + lowest) % 256], map.values[(rank + 1 + lowest) % 256]);
            map.nodes[node] = if !is_signed && rank == 0 { 0.0 } else { (below + above) * 0.5 };
            node += 1;
        }
        map
    }

    /// The number that a code stands for.
    #[inline(always)]
    pub fn value(&self, code: u8) -> f32 {
        self.values[usize::from(code)]
    }

    /// The code of the number nearest to `x`, from −1 to 1; midway, of the lower one.
    #[inline(always)]
    pub fn code(&self, x: f32) -> u8 {
        let mut node = 1u8;
        // The eighth step shifts the leading one out, and the number's rank is left.
        for _ in 0..8 {
            node = node << 1 | u8::from(x > self.nodes[usize::from(node)]);
        }
        node.wrapping_add(self.lowest as u8)
    }
}

/// Number `place` of a map whose 1 has place 2ᵗᵒᵖ: the leading bit of `place` says how many numbers its decade has, the bits below it
/// which one of them it is. Numerator and denominator are exact, so it is rounded once.
const fn magnitude(place: u32, top: u32) -> f32 {
    let level = place.ilog2();
    if level == top {
        return 1.0;
    }
    let (n, f) = (1 << level, place - (1 << level));
    (2 * n + 9 * (2 * f + 1)) as f32 / (20 * n * 10u32.pow(top - 1 - level)) as f32
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
