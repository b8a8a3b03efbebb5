//! The tensor cores' bits against the published model of them, where there is one. A product that is stored in f32 shows all bits of its
//! sums, and one that is stored in bf16 those that are left.

use half::bf16;

use super::calls::{Calls, place, shown, values as values_of};
use super::check::{Check, Fault, Product, Subject};
use super::values::Values;
use crate::ops::{Backend, Dtype, Host, Tensor};

/// Rows, terms and columns: parts of an instruction, whole ones, and several tiles with a rest; lines of every alignment; and results that
/// are large enough for the largest tiles.
const SIZES: [[usize; 3]; 9] = [
    [1, 16, 8],
    [7, 40, 33],
    [7, 37, 33],
    [32, 72, 40],
    [64, 128, 64],
    [66, 600, 72],
    [66, 601, 70],
    [64, 16, 6152],
    [129, 24, 6200],
];

/// What makes the roundings differ.
#[derive(Clone, Copy, Debug)]
enum Terms {
    /// Of like size.
    Alike,
    /// Of very different sizes: few overlap.
    Wide,
    /// Large ones that cancel, and small ones that are left.
    Cancelling,
    /// So small that products and sums are subnormal.
    Tiny,
}

/// A check for each kind of terms and each size.
pub fn checks(subject: &Subject) -> Vec<Check> {
    let mut checks = Vec::new();
    if subject.product.is_none() {
        return checks;
    }
    for terms in [Terms::Alike, Terms::Wide, Terms::Cancelling, Terms::Tiny] {
        for size in SIZES {
            let [rows, inner, columns] = size;
            let shape = format!("{terms:?} terms, [{rows}, {inner}] to {columns}, bit by bit").to_lowercase();
            checks.push(Check::new("tensor_core", shape, move |subject| match &subject.product {
                Some(product) => bits_agree(subject, product, terms, size),
                None => Ok(()),
            }));
        }
    }
    checks
}

impl Terms {
    /// Lines of factors; the left ones and the right ones differ where terms cancel.
    fn matrix(self, random: &mut Values, [lines, inner]: [usize; 2], is_left: bool) -> Vec<bf16> {
        let normals = random.normals(lines * inner);
        let power = |exponent: i32| bf16::from_f64(2f64.powi(exponent));
        let element = |(at, x): (usize, bf16)| match self {
            Terms::Alike => x,
            Terms::Wide => x * power(random.below(17) as i32 - 8),
            // Neighbouring terms have the same large factors, of opposite signs on the left; every fifth is small.
            Terms::Cancelling if at % inner % 5 == 4 => x * power(-10),
            Terms::Cancelling => {
                let sign = if is_left && at % inner % 5 % 2 == 1 { -1.0 } else { 1.0 };
                normals_pair(at, sign)
            }
            Terms::Tiny => x * power(-(66 + random.below(6) as i32)),
        };
        normals.into_iter().enumerate().map(element).collect()
    }
}

/// A number that two neighbours have alike but for the sign.
fn normals_pair(at: usize, sign: f32) -> bf16 {
    bf16::from_f32(sign * (256.0 + (at / 2 % 61) as f32 * 2.0))
}

/// What a kernel stores of a product.
type Stored = fn(f32) -> f32;

fn bits_agree(subject: &Subject, product: &Product, terms: Terms, size: [usize; 3]) -> Result<(), Fault> {
    let [rows, inner, columns] = size;
    let (backend, mut random) = (&*subject.backend, Values::new(20));
    let left = terms.matrix(&mut random, [rows, inner], true);
    let right = terms.matrix(&mut random, [columns, inner], false);
    let expected = Expected { product, left: &left, right: &right, inner };
    let upload = |values: &[bf16], lines: usize, dtype| backend.upload(Host::Bf16(values), &[lines, inner], dtype);
    let (x, w) = (upload(&left, rows, Dtype::Activation), upload(&right, columns, Dtype::Bf16));
    let mut calls = Calls::new(backend, subject.launches.as_ref());

    let z = calls.call("logits", |backend| backend.logits(&x, &w));
    expected.compare(&calls, "z", &z, |sum| sum)?;
    let y = calls.call("linear_forward", |backend| backend.linear_forward(&x, &w, None));
    expected.compare(&calls, "y", &y, |sum| bf16::from_f32(sum).to_f32())?;

    // The same product, its terms over the columns of a weight: dx = dy w.
    let across = transposed(&right, inner);
    let across = backend.upload(Host::Bf16(&across), &[inner, columns], Dtype::Bf16);
    let dx = calls.call("linear_backward_input", |backend| backend.linear_backward_input(&x, &across));
    expected.compare(&calls, "dx", &dx, |sum| bf16::from_f32(sum).to_f32())?;

    // And its terms over the rows of both: dw = dyᵀ x.
    let [dy, x] = [(&left, rows), (&right, columns)]
        .map(|(of, lines)| backend.upload(Host::Bf16(&transposed(of, inner)), &[inner, lines], Dtype::Activation));
    let mut dw = backend.zeros(&[rows, columns], Dtype::F32);
    calls.call("linear_backward_weight", |backend| backend.linear_backward_weight(&dy, &x, &mut dw, None));
    expected.compare(&calls, "dw", &dw, |sum| sum)
}

/// The product that the model says.
struct Expected<'a> {
    product: &'a Product,
    left: &'a [bf16],
    right: &'a [bf16],
    inner: usize,
}

impl Expected<'_> {
    fn compare(&self, calls: &Calls<'_>, name: &str, found: &Tensor, stored: Stored) -> Result<(), Fault> {
        let columns = self.right.len() / self.inner;
        let lines = |of: usize| of * self.inner..(of + 1) * self.inner;
        for (at, value) in found_values(calls.backend, found).into_iter().enumerate() {
            // A zero's sign says only how many zeros were added behind the last term.
            let sum = (self.product)(&self.left[lines(at / columns)], &self.right[lines(at % columns)]);
            let expected = stored(sum);
            let is_same = expected.to_bits() == value.to_bits() || (expected == 0.0 && value == 0.0);
            if !is_same {
                return Err(Fault::Value {
                    kernel: calls.kernel_of(found),
                    place: format!("{name}{:?}", place(at, found.shape())),
                    expected: with_bits(expected),
                    got: with_bits(value),
                });
            }
        }
        Ok(())
    }
}

fn found_values(backend: &dyn Backend, found: &Tensor) -> Vec<f32> {
    values_of(backend, found).into_iter().map(|x| x as f32).collect()
}

fn with_bits(x: f32) -> String {
    format!("{} (bits {:08x})", shown(f64::from(x)), x.to_bits())
}

/// `[lines, inner]` as `[inner, lines]`.
fn transposed(of: &[bf16], inner: usize) -> Vec<bf16> {
    (0..inner).flat_map(|k| of.iter().skip(k).step_by(inner).copied()).collect()
}
