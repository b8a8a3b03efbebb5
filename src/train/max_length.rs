//! Samples cut to a length: what is left ends with a whole token outside images.

use super::sample::Sample;
use crate::prompt::Processor;

/// Cuts a sample behind the last token within `max_length` that is in no image, where `<|vision_start|>` and `<|vision_end|>` belong to theirs;
/// images behind the cut go. The sample's images agree with its placeholders.
pub fn truncate(sample: &mut Sample, max_length: usize, processor: &Processor) {
    let special = processor.special_ids();
    let (mut end, mut at, mut whole) = (max_length.min(sample.ids.len()), 0, 0);
    for image in &sample.images {
        let ids = &sample.ids;
        let first = at + ids[at..].iter().position(|&id| id == special.image_pad).expect("an image has placeholders");
        let behind = first + processor.image_tokens(&image.prepared);
        let is = |place: usize, id: u32| usize::from(ids.get(place) == Some(&id));
        let open = first - first.checked_sub(1).map_or(0, |before| is(before, special.vision_start));
        let close = behind + is(behind, special.vision_end);
        if close > end {
            end = end.min(open);
            break;
        }
        (at, whole) = (close, whole + 1);
    }
    sample.ids.truncate(end);
    sample.trained.truncate(end);
    sample.images.truncate(whole);
}
