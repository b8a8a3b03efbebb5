//! Sum of squares.

use thyme_engine::ops::{Dtype, Host};

use super::{Random, all_backends};

#[test]
fn squares_of_all_elements_are_summed_in_double_precision() {
    for backend in all_backends() {
        for count in [0, 1, 7, 33, 100_003] {
            let values: Vec<f32> = Random::new(19).normals(count).iter().map(|x| *x as f32).collect();
            let expected: f64 = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let found = backend.sum_of_squares(&backend.upload(Host::F32(&values), &[count], Dtype::F32));
            // f64 sums in another order: sqrt(count) · 2⁻⁵³, and room.
            assert!((found - expected).abs() <= 1e-12 * expected, "{}: {found}, not {expected}", backend.name());
        }
    }
}

#[test]
fn what_is_not_finite_shows() {
    for backend in all_backends() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0f32; 1000];
            values[777] = bad;
            let found = backend.sum_of_squares(&backend.upload(Host::F32(&values), &[1000], Dtype::F32));
            assert!(!found.is_finite(), "{}: {found} of a {bad}", backend.name());
        }
    }
}
