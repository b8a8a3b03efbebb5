//! Page copies on simt.

use thyme_engine::ops::copy_pages::CopyPages;
use thyme_engine::ops::{Buffers, Dtype, Host};

use super::{Random, checked, exact_in_bf16, values};

#[test]
fn pairs_are_copied_in_order_so_that_a_copy_may_be_copied() {
    let cuda = checked();
    let (count, width) = (5, 2 * 3 * 16 * 6);
    let mut expected = exact_in_bf16(&mut Random::new(52), count * width);
    let mut pages = cuda.upload(Host::F64(&expected), &[count, width], Dtype::Activation);
    for pairs in [&[][..], &[(0, 3), (3, 4), (2, 3)], &[(1, 0), (0, 1), (4, 4)]] {
        cuda.copy_pages(&mut pages, pairs);
        for &(from, to) in pairs {
            expected.copy_within(from as usize * width..(from as usize + 1) * width, to as usize * width);
        }
        assert_eq!(values(&cuda, &pages), expected, "{pairs:?}");
    }
}
