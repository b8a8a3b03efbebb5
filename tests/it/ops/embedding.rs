//! Token embedding with image rows spliced in.

use thyme_engine::ops::Dtype;
use thyme_engine::ops::embedding::ImageRows;

use super::{Case, Gradient, Input, ROWS, Random, check_backends, check_gradient, start};

/// No images, images in every third place (some rows read twice), and each gradient left out in turn.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(8);
    let mut cases = vec![];
    for tokens in ROWS {
        for (images, table_trained, images_trained) in
            [(false, true, false), (true, true, true), (true, false, true), (true, true, false)]
        {
            let ids = random.indices(tokens, 11);
            let index: Vec<i32> = (0..tokens).map(|t| if t % 3 == 1 { random.below(4) as i32 } else { -1 }).collect();
            let (ids_back, index_back) = (ids.clone(), index.clone());
            let mut inputs = vec![Input::parameter(&mut random, &[11, 5])];
            if images {
                inputs.push(Input::activation(&mut random, &[4, 5]));
            }
            cases.push(Case {
                name: format!("embedding {tokens} tokens, images {images}, trained {table_trained} {images_trained}"),
                inputs,
                chain: tokens,
                differentiable: 1,
                forward: Box::new(move |backend, x| {
                    let index = backend.indices(&index);
                    let images = x.get(1).map(|rows| ImageRows { rows, index: &index });
                    vec![backend.embedding_forward(&x[0], &backend.indices(&ids), images)]
                }),
                backward: Box::new(move |backend, x, dy| {
                    let index = images.then(|| backend.indices(&index_back));
                    let mut dtable = table_trained.then(|| start(backend, x[0].shape(), Dtype::F32));
                    let mut dimages = images_trained.then(|| start(backend, x[1].shape(), Dtype::Activation));
                    let ids = backend.indices(&ids_back);
                    backend.embedding_backward(&dy[0], &ids, index.as_ref(), dtable.as_mut(), dimages.as_mut());
                    vec![dtable.map(Gradient::Added), dimages.map(Gradient::Added)]
                }),
            });
        }
    }
    cases
}

#[test]
fn its_gradient_is_that_of_finite_differences() {
    cases().iter().for_each(check_gradient);
}

#[test]
fn every_backend_agrees_with_the_reference() {
    cases().iter().for_each(check_backends);
}
