//! Emulated instructions against the documented register layouts, with values that say where they come from, and the tensor cores'
//! roundings against a plain model of them.

use std::sync::Arc;

use half::bf16;
use thyme_engine::cuda::device::simt::{Architecture, Simt, SimtOptions};
use thyme_engine::cuda::device::{Argument, Device, Launch, Memory};

use super::{Random, downloaded, uploaded};

fn device(architecture: Architecture) -> Arc<dyn Device> {
    let units = vec![("instructions.cu".to_owned(), include_str!("instructions.cu").to_owned())];
    Arc::new(Simt::new(SimtOptions { units, architecture, ..SimtOptions::checked() }).unwrap())
}

fn launch(device: &Arc<dyn Device>, kernel: &str, arguments: &[Argument<'_>]) {
    device.launch(&Launch { kernel, grid: [1; 3], block: [32, 1, 1], shared_bytes: 0, arguments }).unwrap();
}

fn pointer<'a>(role: &'static str, memory: &'a Memory) -> Argument<'a> {
    Argument::Pointer(role, memory.span())
}

type A = [[bf16; 16]; 16];
type B = [[bf16; 8]; 16];
type C = [[f32; 8]; 16];

/// `a · b + c`, laid out in registers as the PTX manual has it for m16n8k16.
fn mma(device: &Arc<dyn Device>, a: &A, b: &B, c: &C) -> C {
    let word = |low: bf16, high: bf16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    let (mut left, mut right, mut sums) = (vec![], vec![], vec![]);
    for (g, t) in (0..32).map(|lane| (lane / 4, lane % 4)) {
        for r in 0..4 {
            let (m, k) = (g + 8 * (r % 2), 2 * t + 8 * (r / 2));
            left.push(word(a[m][k], a[m][k + 1]));
        }
        for r in 0..2 {
            right.push(word(b[2 * t + 8 * r][g], b[2 * t + 8 * r + 1][g]));
        }
        sums.extend((0..4).map(|i| c[g + 8 * (i / 2)][2 * t + i % 2]));
    }
    let (left, right, sums) = (uploaded(device, &left), uploaded(device, &right), uploaded(device, &sums));
    launch(device, "mma_registers", &[pointer("a", &left), pointer("b", &right), pointer("d", &sums)]);
    let found: Vec<f32> = downloaded(device, &sums);
    let mut d = [[0.0; 8]; 16];
    for (i, found) in found.into_iter().enumerate() {
        let (g, t, i) = (i / 16, i / 4 % 4, i % 4);
        d[g + 8 * (i / 2)][2 * t + i % 2] = found;
    }
    d
}

/// `Record` of `instructions.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Record {
    count: u64,
    x: [f32; 3],
    id: i32,
}

#[test]
fn a_struct_by_value_arrives_whole_and_one_of_another_size_is_refused() {
    let device = device(Architecture::Sm90);
    let record = Record { count: 1 << 33, x: [1.5, -2.0, 0.25], id: -7 };
    let out = uploaded(&device, &[0f32; 32 * 5]);
    let arguments = [Argument::by_value(&record), Argument::I32(2), pointer("out", &out)];
    launch(&device, "struct_by_value", &arguments);
    let expected = [(1u64 << 33) as f32, 1.5, -2.0, 0.25, -5.0];
    assert!(downloaded::<f32>(&device, &out).chunks(5).all(|lane| lane == expected));
    let arguments = [Argument::by_value(&record.x), Argument::I32(2), pointer("out", &out)];
    let (kernel, shared_bytes) = ("struct_by_value", 0);
    let launch = Launch { kernel, grid: [1; 3], block: [32, 1, 1], shared_bytes, arguments: &arguments };
    let refusal = device.launch(&launch).unwrap_err().to_string();
    assert_eq!(refusal, "struct_by_value: argument 0 has 12 bytes, the kernel's parameter 24");
}

#[test]
fn mma_takes_and_gives_fragments_in_the_documented_places() {
    let device = device(Architecture::Sm90);
    let a: A = std::array::from_fn(|m| std::array::from_fn(|k| bf16::from_f32((16 * m + k) as f32)));
    let c: C = std::array::from_fn(|m| std::array::from_fn(|n| (1000 * (8 * m + n)) as f32));
    for shift in 0..16 {
        // Column n picks term n + shift.
        let b: B = std::array::from_fn(|k| std::array::from_fn(|n| bf16::from_f32(f32::from((n + shift) % 16 == k))));
        let expected: C =
            std::array::from_fn(|m| std::array::from_fn(|n| c[m][n] + (16 * m + (n + shift) % 16) as f32));
        assert_eq!(mma(&device, &a, &b, &c), expected);
    }
}

#[test]
fn ldmatrix_gives_registers_in_the_documented_places() {
    let device = device(Architecture::Sm90);
    let rows = Vec::from_iter((0..256).map(|i| i as u16));
    let rows = uploaded(&device, &rows);
    for (kernel, count, is_transposed) in [
        ("load_x1", 1, false),
        ("load_x2", 2, false),
        ("load_x2_trans", 2, true),
        ("load_x4", 4, false),
        ("load_x4_trans", 4, true),
    ] {
        let out = Memory::new(&device, 32 * count * 4).unwrap();
        launch(&device, kernel, &[pointer("rows", &rows), pointer("out", &out)]);
        for (i, found) in downloaded::<u32>(&device, &out).into_iter().enumerate() {
            let (lane, q) = (i / count, i % count);
            let (g, t) = (lane / 4, lane % 4);
            let element = |row: usize, column: usize| (64 * q + 8 * row + column) as u32;
            let expected = match is_transposed {
                false => element(g, 2 * t) | element(g, 2 * t + 1) << 16,
                true => element(2 * t, g) | element(2 * t + 1, g) << 16,
            };
            assert_eq!(found, expected, "{kernel}, lane {lane}, register {q}");
        }
    }
}

#[test]
fn shuffles_votes_and_reductions() {
    let device = device(Architecture::Sm90);
    let out = Memory::new(&device, 12 * 32 * 4).unwrap();
    launch(&device, "together", &[pointer("out", &out)]);
    let found: Vec<i32> = downloaded(&device, &out);
    let expected: [&dyn Fn(i32) -> i32; 12] = [
        &|_| 105,
        &|lane| 100 + lane / 8 * 8 + 1,
        &|lane| 100 + if lane < 3 { lane } else { lane - 3 },
        &|lane| 100 + if lane % 8 < 3 { lane } else { lane - 3 },
        &|lane| 100 + if lane > 28 { lane } else { lane + 3 },
        &|lane| 100 + if lane % 8 > 4 { lane } else { lane + 3 },
        &|lane| 100 + (lane ^ 6),
        &|_| (0..32).filter(|lane| lane % 3 == 0).fold(0u32, |mask, lane| mask | 1 << lane) as i32,
        &|_| 2,
        &|_| (100..132).sum(),
        &|_| -16,
        &|lane| if lane < 16 { 15 } else { -16 },
    ];
    for (i, found) in found.into_iter().enumerate() {
        assert_eq!(found, expected[i / 32](i as i32 % 32), "row {}, lane {}", i / 32, i % 32);
    }
}

/// One dot product of up to 16 pairs, added to `c`; the other elements are zero.
fn dot(device: &Arc<dyn Device>, pairs: &[(f64, f64)], c: f64) -> f32 {
    let (mut a, mut b) = ([[bf16::ZERO; 16]; 16], [[bf16::ZERO; 8]; 16]);
    for (k, (x, y)) in pairs.iter().enumerate() {
        (a[0][k], b[k][0]) = (bf16::from_f64(*x), bf16::from_f64(*y));
    }
    let mut sums = [[0.0; 8]; 16];
    sums[0][0] = c as f32;
    mma(device, &a, &b, &sums)[0][0]
}

fn power(exponent: i32) -> f64 {
    2f64.powi(exponent)
}

#[test]
fn tensor_cores_cut_toward_zero_and_differ_between_architectures() {
    let (old, new) = (device(Architecture::Sm80), device(Architecture::Sm90));
    let both = |pairs: &[(f64, f64)], c: f64| [dot(&old, pairs, c), dot(&new, pairs, c)].map(f64::from);
    // The sum is cut, where rounding to nearest would go up.
    assert_eq!(both(&[(power(-24), 1.0), (power(-12), power(-13))], 1.0), [1.0, 1.0]);
    assert_eq!(both(&[(-power(-24), 1.0)], -1.0), [-1.0, -1.0]);
    // Terms below the kept bits are lost one by one, though together they would count: 24 bits on sm_80, 25 on sm_90.
    assert_eq!(both(&[(power(-26), 1.0); 16], 1.0), [1.0, 1.0]);
    assert_eq!(both(&[(power(-25), 1.0); 16], 1.0), [1.0, 1.0 + power(-21)]);
    assert_eq!(both(&[(power(-24), 1.0); 16], 1.0), [1.0 + power(-20), 1.0 + power(-20)]);
    // sm_80 adds terms 0-7 first: what cancels there no longer hides a small term of the second half.
    let mut pairs = [(0.0, 0.0); 16];
    (pairs[0], pairs[1], pairs[8]) = ((power(10), power(10)), (-power(10), power(10)), (power(-6), 1.0));
    assert_eq!(both(&pairs, 0.0), [power(-6), 0.0]);
    // A product's exponent is the sum of its factors', even if the product is 2 or more.
    assert_eq!(both(&[(1.5, 1.5), (-1.5, 1.5)], power(-25)), [0.0, power(-25)]);
    // Subnormal numbers count.
    assert_eq!(both(&[(power(-133), 1.0)], 0.0), [power(-133); 2]);
    assert_eq!(both(&[(power(-100), power(-40))], 0.0), [power(-140); 2]);
}

#[test]
fn infinities_and_nan_come_through_tensor_cores() {
    for architecture in [Architecture::Sm80, Architecture::Sm90] {
        let device = device(architecture);
        let infinity = f64::INFINITY;
        assert_eq!(dot(&device, &[(infinity, 1.0), (1.0, 1.0)], 0.0), f32::INFINITY);
        assert_eq!(dot(&device, &[(1.0, 1.0)], -infinity), f32::NEG_INFINITY);
        assert_eq!(dot(&device, &[(power(100), power(27)); 4], 0.0), f32::INFINITY);
        for pairs in [[(infinity, 0.0), (0.0, 0.0)], [(infinity, 1.0), (-infinity, 1.0)], [(f64::NAN, 1.0), (0.0, 0.0)]]
        {
            assert_eq!(dot(&device, &pairs, 0.0).to_bits(), 0x7FFF_FFFF);
        }
    }
}

/// The published model, one dot product at a time: terms cut at `bits` below the largest exponent, an exact sum, cut to f32.
fn dot_add(a: &[bf16], b: &[bf16], c: f32, bits: i32) -> f32 {
    let parts = |x: f64| {
        let exponent = if x == 0.0 { -126 } else { (x.abs().log2().floor() as i32).max(-126) };
        (x * 2f64.powi(-exponent), exponent)
    };
    let mut terms = vec![parts(f64::from(c))];
    for (a, b) in a.iter().zip(b) {
        let ((a, a_exponent), (b, b_exponent)) = (parts(a.to_f64()), parts(b.to_f64()));
        terms.push((a * b, a_exponent + b_exponent));
    }
    let top = terms.iter().map(|term| term.1).max().unwrap();
    let cut = |(significand, exponent): &(f64, i32)| (significand * 2f64.powi(bits + exponent - top)).trunc();
    let exact = terms.iter().map(cut).sum::<f64>() * 2f64.powi(top - bits);
    let rounded = exact as f32;
    if f64::from(rounded).abs() > exact.abs() { f32::from_bits(rounded.to_bits() - 1) } else { rounded }
}

#[test]
fn random_products_have_the_bits_of_the_published_model() {
    let mut random = Random::new(50);
    for round in 0..40 {
        // From terms of like size to terms of which few overlap.
        let spread = [0, 4, 30][round % 3];
        let mut number = || {
            let exponent = random.below(2 * spread + 1) as i32 - spread as i32;
            random.normals(1)[0] * power(exponent)
        };
        let a: A = std::array::from_fn(|_| std::array::from_fn(|_| bf16::from_f64(number())));
        let b: B = std::array::from_fn(|_| std::array::from_fn(|_| bf16::from_f64(number())));
        let c: C = std::array::from_fn(|_| std::array::from_fn(|_| number() as f32));
        let column = |n: usize| -> [bf16; 16] { std::array::from_fn(|k| b[k][n]) };
        let new: C = std::array::from_fn(|m| std::array::from_fn(|n| dot_add(&a[m], &column(n), c[m][n], 25)));
        assert_eq!(mma(&device(Architecture::Sm90), &a, &b, &c), new);
        let old: C = std::array::from_fn(|m| {
            std::array::from_fn(|n| {
                let first = dot_add(&a[m][..8], &column(n)[..8], c[m][n], 24);
                dot_add(&a[m][8..], &column(n)[8..], first, 24)
            })
        });
        assert_eq!(mma(&device(Architecture::Sm80), &a, &b, &c), old);
    }
}

/// Below the least normal number is zero, and nothing else is lost.
#[test]
fn an_approximate_exponential_gives_up_subnormal_numbers_only() {
    let device = device(Architecture::Sm90);
    let mut x = [0f32; 32];
    x[..9].copy_from_slice(&[f32::NEG_INFINITY, -1e30, -126.5, -126.0, -1.0, 0.0, 0.5, 1.0, f32::INFINITY]);
    let (from, to) = (uploaded(&device, &x), uploaded(&device, &x));
    launch(&device, "exponentials", &[pointer("x", &from), pointer("y", &to)]);
    let found: Vec<f32> = downloaded(&device, &to);
    let root = 2f32.sqrt();
    assert_eq!(found[..9], [0.0, 0.0, 0.0, f32::MIN_POSITIVE, 0.5, 1.0, root, 2.0, f32::INFINITY]);
}

#[test]
fn four_bytes_are_copied_as_sixteen_are() {
    let device = device(Architecture::Sm90);
    let x: Vec<f32> = (0..32).map(|i| i as f32).collect();
    let (from, to) = (uploaded(&device, &x), uploaded(&device, &[0f32; 32]));
    launch(&device, "copied_by_fours", &[pointer("x", &from), pointer("y", &to)]);
    assert!(downloaded::<f32>(&device, &to).iter().eq(x.iter().rev()));
}
