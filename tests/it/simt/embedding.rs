//! Token embedding on simt against the reference.

use thyme_engine::ops::embedding::{Embedding, ImageRows};
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, pair, values};

#[test]
fn embedding_agrees_with_the_reference_in_both_directions() {
    let cuda = checked();
    let mut random = Random::new(57);
    for (tokens, dim) in [(0, 5), (1, 8), (2, 5), (7, 8), (33, 5), (150, 16)] {
        for has_images in [false, true] {
            let what = format!("embedding [{tokens}, {dim}], images {has_images}");
            let ids: Vec<i32> = (0..tokens).map(|_| random.below(11) as i32).collect();
            let index: Vec<i32> = (0..tokens).map(|t| if t % 3 == 1 { random.below(4) as i32 } else { -1 }).collect();
            let indices = |backend: &dyn Buffers, of: &[i32]| backend.upload(Host::I32(of), &[tokens], Dtype::I32);
            let (ids, rids) = (indices(&cuda, &ids), indices(&Reference, &ids));
            let (index, rindex) = (indices(&cuda, &index), indices(&Reference, &index));
            let (table, rtable) = pair(&cuda, &exact_in_bf16(&mut random, 11 * dim), &[11, dim], Dtype::Bf16);
            let (rows, rrows) = pair(&cuda, &exact_in_bf16(&mut random, 4 * dim), &[4, dim], Dtype::Activation);
            let (dy, rdy) = pair(&cuda, &exact_in_bf16(&mut random, tokens * dim), &[tokens, dim], Dtype::Activation);
            let (mut dtable, mut rdtable) = pair(&cuda, &vec![0.25; 11 * dim], &[11, dim], Dtype::F32);
            let (mut dimages, mut rdimages) = pair(&cuda, &vec![0.25; 4 * dim], &[4, dim], Dtype::Activation);

            let images = has_images.then_some(ImageRows { rows: &rows, index: &index });
            let rimages = has_images.then_some(ImageRows { rows: &rrows, index: &rindex });
            let x = values(&cuda, &cuda.embedding_forward(&table, &ids, images));
            assert_eq!(x, values(&Reference, &Reference.embedding_forward(&rtable, &rids, rimages)), "{what}");

            let (index, rindex) = (has_images.then_some(&index), has_images.then_some(&rindex));
            cuda.embedding_backward(&dy, &ids, index, Some(&mut dtable), Some(&mut dimages));
            Reference.embedding_backward(&rdy, &rids, rindex, Some(&mut rdtable), Some(&mut rdimages));
            expect_close(&format!("{what}: dtable"), &cuda, &dtable, &rdtable, tokens);
            expect_close(&format!("{what}: dimages"), &cuda, &dimages, &rdimages, tokens);
            cuda.embedding_backward(&dy, &ids, index, None, None);
        }
    }
}
