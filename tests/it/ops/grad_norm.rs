//! Sum of squares.

use thyme_engine::ops::{Dtype, Host, Tensor};

use super::{Random, all_backends};

#[test]
fn squares_of_all_elements_are_summed_in_double_precision() {
    for backend in all_backends() {
        for count in [0, 1, 7, 33, 100_003] {
            let values: Vec<f32> = Random::new(19).normals(count).iter().map(|x| *x as f32).collect();
            let expected: f64 = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let found = backend.sum_of_squares(&[&backend.upload(Host::F32(&values), &[count], Dtype::F32)]);
            // f64 sums in another order: sqrt(count) · 2⁻⁵³, and room.
            assert!((found - expected).abs() <= 1e-12 * expected, "{}: {found}, not {expected}", backend.name());
        }
    }
}

/// Tensors of no element, of one, around a block's part and of several, in one sum.
#[test]
fn squares_of_many_tensors_are_one_sum() {
    for backend in all_backends() {
        let mut random = Random::new(20);
        let values: Vec<Vec<f32>> = [0, 1, (1 << 15) - 1, 0, 1 << 15, (1 << 15) + 1, 100_003, 7]
            .map(|count| random.normals(count).iter().map(|x| *x as f32).collect())
            .to_vec();
        let expected: f64 = values.iter().flatten().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let upload = |values: &Vec<f32>| backend.upload(Host::F32(values), &[values.len()], Dtype::F32);
        let tensors: Vec<Tensor> = values.iter().map(upload).collect();
        let found = backend.sum_of_squares(&tensors.iter().collect::<Vec<_>>());
        assert!((found - expected).abs() <= 1e-12 * expected, "{}: {found}, not {expected}", backend.name());
        assert_eq!(backend.sum_of_squares(&[]), 0.0, "{}", backend.name());
    }
}

#[test]
fn what_is_not_finite_shows() {
    for backend in all_backends() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0f32; 1000];
            values[777] = bad;
            let found = backend.sum_of_squares(&[&backend.upload(Host::F32(&values), &[1000], Dtype::F32)]);
            assert!(!found.is_finite(), "{}: {found} of a {bad}", backend.name());
        }
    }
}
