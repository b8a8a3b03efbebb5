//! AdamW on a master in two halves, its moments in f32 and in 8 bits.

use half::bf16;
use proptest::prelude::*;
use serde::Deserialize;
use thyme_engine::cpu::Cpu;
use thyme_engine::cpu::simd::Simd;
use thyme_engine::ops::adamw::{
    AdamwParameter, AdamwStep, CodeMap, MOMENT_BLOCK, Moment, SIGNED, UNSIGNED, join_master, split_master,
};
use thyme_engine::ops::{Backend, Dtype, Host, HostMut, Tensor};

use super::{Random, all_backends, values};

proptest! {
    #[test]
    fn two_halves_give_back_any_float(bits: u32) {
        let (weight, remainder) = split_master(f32::from_bits(bits));
        prop_assert_eq!(join_master(weight, remainder).to_bits(), bits);
    }

    #[test]
    fn the_weight_is_a_nearest_bf16(master: f32) {
        let weight = bf16::from_bits(split_master(master).0).to_f64();
        let nearest = bf16::from_f32(master).to_f64();
        prop_assert_eq!((weight - f64::from(master)).abs(), (nearest - f64::from(master)).abs());
    }
}

#[test]
fn two_halves_give_back_the_edges() {
    let edges = [
        0.0,
        -0.0,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
        f32::from_bits(0x8000),
        f32::from_bits(0x0000_ffff),
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::from_bits(0x7fc0_0001),
        f32::from_bits(u32::MAX),
    ];
    for master in edges {
        let (weight, remainder) = split_master(master);
        assert_eq!(join_master(weight, remainder).to_bits(), master.to_bits(), "{master}");
    }
}

/// Moments of zeros in either form.
type Zeros = fn(&dyn Backend, &[usize]) -> Moment;
const FORMS: [Zeros; 2] =
    [|backend, shape| Moment::zeros(backend, shape), |backend, shape| Moment::zeros_8bit(backend, shape)];

/// A parameter with its optimizer state.
struct State<'a> {
    backend: &'a dyn Backend,
    w: Tensor,
    remainder: Tensor,
    m: Moment,
    v: Moment,
    weight_decay: f32,
}

impl<'a> State<'a> {
    fn new(backend: &'a dyn Backend, weights: &[bf16], zeros: Zeros) -> State<'a> {
        let shape = [weights.len()];
        State {
            backend,
            w: backend.upload(Host::Bf16(weights), &shape, Dtype::Bf16),
            remainder: backend.zeros(&shape, Dtype::I16),
            m: zeros(backend, &shape),
            v: zeros(backend, &shape),
            weight_decay: WEIGHT_DECAY,
        }
    }

    fn gradient(&self, gradient: &[f32]) -> Tensor {
        self.backend.upload(Host::F32(gradient), &[gradient.len()], Dtype::F32)
    }

    fn parameter<'b>(&'b mut self, dw: &'b Tensor) -> AdamwParameter<'b> {
        let State { w, remainder, m, v, weight_decay, .. } = self;
        AdamwParameter { w, remainder, m, v, dw, weight_decay: *weight_decay }
    }

    fn update(&mut self, gradient: &[f32], step: &AdamwStep) {
        let (backend, dw) = (self.backend, self.gradient(gradient));
        backend.adamw(&mut [self.parameter(&dw)], step);
    }

    fn masters(&self) -> Vec<f32> {
        let (mut high, mut low) = (vec![bf16::ZERO; self.w.len()], vec![0i16; self.w.len()]);
        self.backend.download(&self.w, HostMut::Bf16(&mut high));
        self.backend.download(&self.remainder, HostMut::I16(&mut low));
        high.iter().zip(low).map(|(high, low)| join_master(high.to_bits(), low)).collect()
    }

    /// Codes and scales of a moment in 8 bits.
    fn stored(&self, moment: &Moment) -> (Vec<u8>, Vec<f64>) {
        let mut codes = vec![0; moment.values.len()];
        self.backend.download(&moment.values, HostMut::U8(&mut codes));
        (codes, values(self.backend, moment.scales.as_ref().unwrap()))
    }
}

fn bf16_normals(random: &mut Random, count: usize) -> Vec<bf16> {
    random.normals(count).into_iter().map(bf16::from_f64).collect()
}

const COUNT: usize = 101;
const WEIGHT_DECAY: f32 = 0.1;

fn step(number: u64) -> AdamwStep {
    AdamwStep {
        learning_rate: 1e-3 / (1.0 + number as f32 / 100.0),
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        step: number,
        gradient_scale: 0.5,
    }
}

/// Masters after `steps` steps with the gradients of `seed`, from bf16 weights.
fn trained(backend: &dyn Backend, steps: u64) -> Vec<f32> {
    let mut random = Random::new(20);
    let mut state = State::new(backend, &bf16_normals(&mut random, COUNT), FORMS[0]);
    for number in 1..=steps {
        let gradient: Vec<f32> = random.normals(COUNT).iter().map(|g| *g as f32).collect();
        state.update(&gradient, &step(number));
    }
    state.masters()
}

/// The same with an undivided master in f64.
fn trained_plainly(steps: u64) -> Vec<f64> {
    let mut random = Random::new(20);
    let mut w: Vec<f64> = random.normals(COUNT).into_iter().map(|x| bf16::from_f64(x).to_f64()).collect();
    let (mut m, mut v) = ([0.0; COUNT], [0.0; COUNT]);
    for number in 1..=steps {
        let step = step(number);
        let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
        for (i, dw) in random.normals(COUNT).into_iter().enumerate() {
            let g = dw * f64::from(step.gradient_scale);
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            let m_hat = m[i] / (1.0 - beta1.powi(number as i32));
            let v_hat = v[i] / (1.0 - beta2.powi(number as i32));
            let decay = f64::from(WEIGHT_DECAY) * w[i];
            w[i] -= f64::from(step.learning_rate) * (m_hat / (v_hat.sqrt() + f64::from(step.epsilon)) + decay);
        }
    }
    w
}

/// Each step rounds the master once (half an ulp, 2⁻²⁴ of it) and the update a few times (of at most `learning_rate`); the signs are
/// random, so the errors of `steps` steps add up to about the root of their number. Without the remainder a step of 1e-3 on a weight
/// of 1 would mostly vanish: bf16's half ulp there is 4e-3.
#[test]
fn the_remainder_keeps_a_full_precision_master() {
    for backend in all_backends() {
        for steps in [1, 1000] {
            let plain = trained_plainly(steps);
            for (found, expected) in trained(&*backend, steps).iter().zip(&plain) {
                let allowed = 4.0 * (steps as f64).sqrt() * 2f64.powi(-24) * expected.abs().max(1.0);
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= allowed, "{} after {steps}: {found}, not {expected}", backend.name());
            }
        }
    }
}

#[test]
fn a_step_that_bf16_cannot_hold_is_not_lost() {
    for backend in all_backends() {
        let mut state = State { weight_decay: 0.0, ..State::new(&*backend, &[bf16::ONE], FORMS[0]) };
        for number in 1..=10 {
            let step = AdamwStep { learning_rate: 1e-3, ..step(number) };
            state.update(&[1.0], &step);
            let is_one = backend.to_f32(&state.w) == [1.0];
            assert!(number > 1 || is_one, "{}: one step is below bf16's half ulp", backend.name());
        }
        assert_eq!(backend.to_f32(&state.w), [0.988_281_25], "{}: ten steps are 0.99 in bf16", backend.name());
    }
}

/// The numbers of a map, ascending, with their codes.
fn ascending(map: &CodeMap) -> Vec<(f32, u8)> {
    let mut numbers: Vec<(f32, u8)> = (0..=255).map(|code| (map.value(code), code)).collect();
    numbers.sort_by(|a, b| a.0.total_cmp(&b.0));
    numbers
}

#[derive(Deserialize)]
struct Golden {
    signed: Vec<f32>,
    unsigned: Vec<f32>,
}

/// bitsandbytes rounds each number some five times in f32, in an order that depends on torch's vector width; ours is rounded once.
#[test]
fn the_code_maps_are_those_of_bitsandbytes() {
    let golden: Golden = serde_json::from_str(include_str!("../../golden/adamw/code_maps.json")).unwrap();
    for (map, golden, shift) in [(&SIGNED, golden.signed, 129), (&UNSIGNED, golden.unsigned, 0)] {
        assert_eq!(golden.len(), 256);
        for (index, expected) in (0u8..=255).zip(golden) {
            let found = map.value(index.wrapping_add(shift));
            let ulps = found.to_bits().abs_diff(expected.to_bits());
            assert!(ulps <= 2, "{found}, not {expected}, {ulps} ulps away");
        }
    }
}

#[test]
fn a_code_is_that_of_the_nearest_number_and_the_unsigned_zero_is_for_zero_alone() {
    for (map, is_signed) in [(&SIGNED, true), (&UNSIGNED, false)] {
        let numbers = ascending(map);
        assert_eq!((map.value(0), map.code(0.0), map.code(1.0)), (0.0, 0, numbers[255].1));
        for pair in numbers.windows(2) {
            let [(below, code_below), (above, code_above)] = [pair[0], pair[1]];
            assert!(below < above);
            assert_eq!((map.code(below), map.code(above)), (code_below, code_above));
            let part = if !is_signed && below == 0.0 { 0.0 } else { (below + above) / 2.0 };
            assert_eq!((map.code(part), map.code(part.next_up())), (code_below, code_above), "{below} and {above}");
        }
    }
    assert_eq!(SIGNED.value(SIGNED.code(-1.0)), ascending(&SIGNED)[0].0);
    assert_eq!(UNSIGNED.code(f32::from_bits(1)), 1);
}

/// Lengths around a block's, a vector's and a launch's.
const LENGTHS: [usize; 8] = [0, 1, 101, 255, 256, 257, 2056, 16_384 + 300];

/// Gradients of very different magnitudes: most are normal, one block has an outlier, one is all zeros, and some are tiny.
fn gradient(random: &mut Random, count: usize) -> Vec<f32> {
    let mut gradient: Vec<f32> = random.normals(count).iter().map(|g| *g as f32).collect();
    for (block, values) in gradient.chunks_mut(MOMENT_BLOCK).enumerate() {
        match block % 4 {
            1 => values[values.len() / 2] = 1e5,
            2 => values.fill(0.0),
            3 => values.iter_mut().step_by(3).for_each(|g| *g *= 1e-9),
            _ => {}
        }
    }
    gradient
}

/// A few f32 roundings may stand between what is found and what f64 says.
const ROUNDINGS: f64 = 8.0 / (1 << 24) as f64;

/// Masters, first moments and roots of second moments that the next step makes of what is stored, in f64.
fn next(state: &State<'_>, gradient: &[f32], step: &AdamwStep) -> [Vec<f64>; 3] {
    let numbers = |moment: &Moment, map: &CodeMap| -> Vec<f64> {
        let (codes, scales) = state.stored(moment);
        codes.iter().enumerate().map(|(i, code)| f64::from(map.value(*code)) * scales[i / MOMENT_BLOCK]).collect()
    };
    let (mut m, mut root) = (numbers(&state.m, &SIGNED), numbers(&state.v, &UNSIGNED));
    let mut masters: Vec<f64> = state.masters().into_iter().map(f64::from).collect();
    let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
    let correction = |beta: f64| 1.0 - beta.powi(step.step as i32);
    for (i, master) in masters.iter_mut().enumerate() {
        let g = f64::from(gradient[i]) * f64::from(step.gradient_scale);
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        root[i] = (beta2 * root[i] * root[i] + (1.0 - beta2) * g * g).sqrt();
        let direction = m[i] / correction(beta1) / (root[i] / correction(beta2).sqrt() + f64::from(step.epsilon));
        *master -= f64::from(step.learning_rate) * (direction + f64::from(WEIGHT_DECAY) * *master);
    }
    [masters, m, root]
}

/// A block's scale is its largest magnitude, and each code that of a nearest number; of a root above zero, of those above zero.
fn expect_rounded(what: &str, exact: &[f64], (codes, scales): (Vec<u8>, Vec<f64>), map: &CodeMap) {
    let is_root = std::ptr::eq(map, &UNSIGNED);
    for ((exact, codes), scale) in exact.chunks(MOMENT_BLOCK).zip(codes.chunks(MOMENT_BLOCK)).zip(scales) {
        let largest = exact.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        assert!((scale - largest).abs() <= ROUNDINGS * largest, "{what}: scale {scale}, not {largest}");
        for (exact, code) in exact.iter().zip(codes) {
            let distance = |code: u8| (f64::from(map.value(code)) * scale - exact).abs();
            let allowed = if is_root && *exact > 0.0 { 1..=255 } else { 0..=255 };
            assert!(allowed.contains(code), "{what}: {exact} of {scale} is stored as zero");
            let nearest = allowed.map(distance).fold(f64::MAX, f64::min);
            assert!(distance(*code) <= nearest + ROUNDINGS * scale, "{what}: {exact} of {scale} has code {code}");
        }
    }
}

#[test]
fn moments_in_8_bits_are_rounded_only_where_they_are_stored() {
    for (backend, count) in all_backends().iter().flat_map(|backend| LENGTHS.map(|count| (backend, count))) {
        let mut random = Random::new(count as u64);
        let mut state = State::new(&**backend, &bf16_normals(&mut random, count), FORMS[1]);
        for number in 1..=3 {
            let what = format!("{} elements on {}, step {number}", count, backend.name());
            let gradient = gradient(&mut random, count);
            let [masters, m, root] = next(&state, &gradient, &step(number));
            state.update(&gradient, &step(number));
            for (found, expected) in state.masters().iter().zip(masters) {
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= ROUNDINGS * expected.abs().max(1.0), "{what}: master {found}, not {expected}");
            }
            expect_rounded(&what, &m, state.stored(&state.m), &SIGNED);
            expect_rounded(&what, &root, state.stored(&state.v), &UNSIGNED);
        }
    }
}

/// Scales of a block: 1, at which a gradient is its own quotient, one that rounds, the ends of where a quotient needs no care, and beyond.
const SCALES: [f32; 7] = [1.0, 3.7, 9e-22, 8e-22, 1.1e15, 1.2e15, 1e-30];

/// What parts a map's numbers, and its neighbours an ulp up and down, times `scale`; the first of each block is `scale`. Signed, of both signs.
fn around_bounds(map: &CodeMap, scale: f32) -> Vec<f32> {
    let numbers = ascending(map);
    let bounds = numbers.windows(2).flat_map(|pair| {
        let middle = (pair[0].0 + pair[1].0) * 0.5;
        [middle.next_down(), middle, middle.next_up()]
    });
    let exact: Vec<f32> = bounds.map(|x| x * scale).chain([0.0, -0.0, 1e-38, f32::from_bits(1)]).collect();
    exact.chunks(MOMENT_BLOCK - 1).flat_map(|values| [&[scale], values].concat()).collect()
}

/// With β of 0 the moments are the gradient and its square, so codes are those of quotients that are known to the bit.
#[test]
fn codes_are_those_of_the_map_on_either_side_of_every_bound() {
    for (backend, scale) in all_backends().iter().flat_map(|backend| SCALES.map(|scale| (backend, scale))) {
        if backend.name() == "reference" {
            continue;
        }
        for map in [&SIGNED, &UNSIGNED] {
            let gradient = around_bounds(map, scale);
            let mut state = State::new(&**backend, &vec![bf16::ONE; gradient.len()], FORMS[1]);
            state.update(&gradient, &AdamwStep { beta1: 0.0, beta2: 0.0, gradient_scale: 1.0, ..step(1) });
            let (m, v) = (state.stored(&state.m), state.stored(&state.v));
            let largest = |block: usize, of: fn(f32) -> f32| {
                gradient.chunks(MOMENT_BLOCK).nth(block).unwrap().iter().fold(0.0f32, |largest, g| largest.max(of(*g)))
            };
            let root: fn(f32) -> f32 = |g| (g * g).sqrt();
            for (i, g) in gradient.iter().enumerate() {
                let what = format!("{}: {g} with scale {scale}", backend.name());
                let quotient = |x: f32, of| x / Some(largest(i / MOMENT_BLOCK, of)).filter(|x| *x > 0.0).unwrap_or(1.0);
                assert_eq!(m.0[i], SIGNED.code(quotient(*g, f32::abs)), "{what}: first moment");
                assert_eq!(v.0[i], UNSIGNED.code(quotient(root(*g), root)), "{what}: second moment");
            }
        }
    }
}

/// Parameters of many lengths in both forms, each with a decay of its own, in one update.
#[test]
fn many_parameters_at_once_are_updated_as_each_alone() {
    for backend in all_backends() {
        let states = || -> Vec<State<'_>> {
            let mut random = Random::new(21);
            let forms = LENGTHS.into_iter().flat_map(|length| FORMS.map(|zeros| (length, zeros)));
            let state = |(length, zeros)| State::new(&*backend, &bf16_normals(&mut random, length), zeros);
            let mut states: Vec<State<'_>> = forms.map(state).collect();
            states.iter_mut().enumerate().for_each(|(i, state)| state.weight_decay = i as f32 / 10.0);
            states
        };
        let (mut together, mut alone, mut random) = (states(), states(), Random::new(22));
        for number in 1..=2 {
            let gradients: Vec<Vec<f32>> = together.iter().map(|state| gradient(&mut random, state.w.len())).collect();
            let dws: Vec<Tensor> = together.iter().zip(&gradients).map(|(state, g)| state.gradient(g)).collect();
            let mut parameters: Vec<_> = together.iter_mut().zip(&dws).map(|(state, dw)| state.parameter(dw)).collect();
            backend.adamw(&mut parameters, &step(number));
            alone.iter_mut().zip(&gradients).for_each(|(state, gradient)| state.update(gradient, &step(number)));
        }
        for (together, alone) in together.iter().zip(&alone) {
            let what = format!("{} elements on {}", together.w.len(), backend.name());
            let bits = |state: &State<'_>| state.masters().into_iter().map(f32::to_bits).collect::<Vec<u32>>();
            assert_eq!(bits(together), bits(alone), "{what}");
            if together.m.scales.is_some() {
                assert_eq!(together.stored(&together.m), alone.stored(&alone.m), "{what}");
                assert_eq!(together.stored(&together.v), alone.stored(&alone.v), "{what}");
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits_in_both_forms() {
    let bits = |simd, zeros| {
        let (backend, mut random) = (Cpu::with_simd(simd), Random::new(3));
        let mut state = State::new(&backend, &bf16_normals(&mut random, 2056), zeros);
        for number in 1..=3 {
            state.update(&gradient(&mut random, 2056), &step(number));
        }
        let scales = state.m.scales.iter().chain(&state.v.scales).flat_map(|scales| super::bits(&backend, scales));
        (state.masters().into_iter().map(f32::to_bits).collect::<Vec<_>>(), scales.collect::<Vec<_>>())
    };
    for zeros in FORMS {
        for simd in Simd::available() {
            assert_eq!(bits(simd, zeros), bits(Simd::portable(), zeros), "{simd:?}");
        }
    }
}

#[test]
fn a_second_moment_that_overflows_leaves_the_weights_finite() {
    for backend in all_backends() {
        let mut state = State::new(&*backend, &[bf16::ONE; 4], FORMS[1]);
        for number in 1..=2 {
            state.update(&[1e30, 1.0, 0.0, -1.0], &step(number));
        }
        assert!(state.masters().iter().all(|w| w.is_finite()), "{}: {:?}", backend.name(), state.masters());
    }
}

/// A noisy quadratic whose curvature falls by three decades within a block, and with it all gradients and moments. Returns the masters after
/// 1000 steps and their distance to the minimum, relative to the start's.
fn descended(backend: &dyn Backend, beta2: f32, zeros: Zeros) -> (Vec<f32>, f64) {
    const WEIGHTS: usize = 300;
    const STEPS: u64 = 1000;
    let mut random = Random::new(5);
    let minimum = random.normals(WEIGHTS);
    let curvature = |i: usize| 10f64.powf(-3.0 * (i % MOMENT_BLOCK) as f64 / MOMENT_BLOCK as f64);
    let mut state = State { weight_decay: 0.0, ..State::new(backend, &[bf16::ZERO; WEIGHTS], zeros) };
    for number in 1..=STEPS {
        let noise = random.normals(WEIGHTS);
        let slope = |(i, w): (usize, f32)| (curvature(i) * (f64::from(w) - minimum[i] + noise[i])) as f32;
        let gradient: Vec<f32> = state.masters().into_iter().enumerate().map(slope).collect();
        let rate = 0.02 * (1.0 - (number - 1) as f32 / STEPS as f32);
        let step = AdamwStep { learning_rate: rate, beta2, gradient_scale: 1.0, ..step(number) };
        state.update(&gradient, &step);
    }
    let masters = state.masters();
    let error =
        norm(masters.iter().zip(&minimum).map(|(w, minimum)| f64::from(*w) - minimum)) / norm(minimum.iter().copied());
    (masters, error)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// A number of the signed map's highest decade is off by at most half a step of 0.9/64 from 0.1, which is 7 %, one of the unsigned by half of
/// that, and of lower decades by more. The errors point both ways, so that the paths part by less than 7 % of their length, and end about
/// as near to the minimum. (With 256 evenly spaced numbers in place of the maps they do not.)
#[test]
fn moments_in_8_bits_learn_as_well_as_those_in_f32() {
    for backend in all_backends() {
        for beta2 in [0.95, 0.999] {
            let [(masters, error), (masters_8bit, error_8bit)] = FORMS.map(|zeros| descended(&*backend, beta2, zeros));
            let apart = norm(masters.iter().zip(&masters_8bit).map(|(a, b)| f64::from(a - b)));
            let share = apart / norm(masters.iter().map(|w| f64::from(*w)));
            let what = format!("{} with beta2 {beta2}", backend.name());
            assert!(share > 0.0 && share < 0.07, "{what}: the paths part by {share} of their length");
            assert!(error < 0.1 && error_8bit < 1.2 * error, "{what}: errors of {error_8bit} and {error}");
        }
    }
}
