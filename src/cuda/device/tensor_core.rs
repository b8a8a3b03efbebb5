//! The arithmetic of mma.sync m16n8k16, bf16 in and f32 accumulated, to the bit as the published model has it: terms are cut at a fixed
//! distance below the largest exponent, added exactly, and the sum is rounded toward zero. One element at a time, to hold a card against it
//! on a machine that has no C++ compiler; `kernels/simt/tensor_core.cpp` is the same for whole tiles.

use half::bf16;

use super::target::Target;

/// Terms of an instruction.
const TERMS: usize = 16;

/// How one generation of tensor cores adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TensorCore {
    /// Terms that are added at once.
    group: usize,
    /// Bits that are kept below the largest exponent.
    bits: i32,
}

/// A number as `±significand · 2^exponent`, of which a fixed count of bits stands behind the point; zero has the least exponent.
#[derive(Clone, Copy)]
struct Parts {
    significand: i64,
    exponent: i32,
}

impl TensorCore {
    /// A100.
    pub const SM_80: TensorCore = TensorCore { group: 8, bits: 24 };
    /// H100 and H200: one more bit.
    pub const SM_90: TensorCore = TensorCore { group: 16, bits: 25 };

    /// The model of a device; none where none is published.
    pub fn of(target: Target) -> Option<TensorCore> {
        match target {
            Target::SM_80 => Some(TensorCore::SM_80),
            Target::SM_90 => Some(TensorCore::SM_90),
            _ => None,
        }
    }

    /// `Σ a[k] b[k]` as the kernels' products have it: 16 terms an instruction, ascending from zero.
    pub fn product(self, a: &[bf16], b: &[bf16]) -> f32 {
        a.chunks(TERMS).zip(b.chunks(TERMS)).fold(0.0, |sum, (a, b)| self.multiply(a, b, sum))
    }

    /// One element of an instruction: `c + Σ a[k] b[k]` over at most 16 terms; zeros stand for those that are missing.
    pub fn multiply(self, a: &[bf16], b: &[bf16], c: f32) -> f32 {
        let groups = a.chunks(self.group).zip(b.chunks(self.group));
        let finite = groups.fold(c, |sum, (a, b)| self.add_group(a, b, sum));
        let exact = a.iter().zip(b).fold(f64::from(c), |sum, (a, b)| sum + a.to_f64() * b.to_f64());
        match exact {
            _ if exact.is_nan() => f32::from_bits(0x7FFF_FFFF),
            _ if exact.is_infinite() => exact as f32,
            _ => finite,
        }
    }

    fn add_group(self, a: &[bf16], b: &[bf16], c: f32) -> f32 {
        if c.is_infinite() {
            return c;
        }
        let addend = f32_parts(c);
        let terms = a.iter().zip(b).map(|(a, b)| {
            let (a, b) = (bf16_parts(*a), bf16_parts(*b));
            // 14 bits of a product stand behind the point.
            let significand = (a.significand * b.significand) << (self.bits - 14);
            Parts { significand, exponent: a.exponent + b.exponent }
        });
        let addend = Parts { significand: addend.significand << (self.bits - 23), ..addend };
        let top = terms.clone().map(|term| term.exponent).fold(addend.exponent, i32::max);
        // Toward zero: the magnitude is shifted. Nothing is left of a term that is shifted by 31.
        let cut = |term: Parts| term.significand.signum() * (term.significand.abs() >> (top - term.exponent).min(31));
        toward_zero(terms.map(cut).sum::<i64>() + cut(addend), top - self.bits)
    }
}

fn bf16_parts(x: bf16) -> Parts {
    parts(x.to_bits().into(), 7)
}

fn f32_parts(x: f32) -> Parts {
    parts(x.to_bits(), 23)
}

/// Of a format with 8 bits of exponent; subnormal numbers are exact.
fn parts(bits: u32, fraction_bits: u32) -> Parts {
    let field = (bits >> fraction_bits & 255) as i32;
    let fraction = i64::from(bits & ((1 << fraction_bits) - 1));
    let magnitude = if field == 0 { fraction } else { fraction | 1 << fraction_bits };
    let is_negative = bits >> (fraction_bits + 8) & 1 == 1;
    Parts { significand: if is_negative { -magnitude } else { magnitude }, exponent: field.max(1) - 127 }
}

/// `sum · 2^power`, cut to f32.
fn toward_zero(sum: i64, power: i32) -> f32 {
    let exact = sum as f64 * 2f64.powi(power);
    if exact != 0.0 && exact.abs() < f64::from(f32::MIN_POSITIVE) {
        return ((exact * 2f64.powi(149)).trunc() * 2f64.powi(-149)) as f32;
    }
    f64::from_bits(exact.to_bits() & !((1 << 29) - 1)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(pairs: &[(f64, f64)], c: f64) -> [f64; 2] {
        let (a, b): (Vec<bf16>, Vec<bf16>) =
            pairs.iter().map(|(a, b)| (bf16::from_f64(*a), bf16::from_f64(*b))).unzip();
        [TensorCore::SM_80, TensorCore::SM_90].map(|core| f64::from(core.multiply(&a, &b, c as f32)))
    }

    #[test]
    fn terms_are_cut_toward_zero_and_generations_differ() {
        let power = |exponent: i32| 2f64.powi(exponent);
        assert_eq!(both(&[(power(-24), 1.0), (power(-12), power(-13))], 1.0), [1.0, 1.0]);
        assert_eq!(both(&[(-power(-24), 1.0)], -1.0), [-1.0, -1.0]);
        assert_eq!(both(&[(power(-25), 1.0); 16], 1.0), [1.0, 1.0 + power(-21)]);
        let mut pairs = [(0.0, 0.0); 16];
        (pairs[0], pairs[1], pairs[8]) = ((power(10), power(10)), (-power(10), power(10)), (power(-6), 1.0));
        assert_eq!(both(&pairs, 0.0), [power(-6), 0.0]);
        assert_eq!(both(&[(power(-100), power(-40))], 0.0), [power(-140); 2]);
        assert_eq!(both(&[(power(100), power(27)); 4], 0.0), [f64::INFINITY; 2]);
        assert!(both(&[(f64::INFINITY, 0.0)], 0.0).iter().all(|x| x.is_nan()));
    }
}
