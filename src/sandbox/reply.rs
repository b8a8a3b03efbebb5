//! What a session's process answers. It may be model code that speaks: every field is bounded and checked before anything is made of it.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::frames::Ended;
use super::image::{ProducedImage, SIDE_MAX, Widened};
use super::options::SandboxOptions;
use super::picture::{OPENCV_BYTES, PILLOW_BYTES};

/// Characters of an image's label.
const LABEL_CHARACTERS: usize = 200;
/// Characters of a reply's text beside what was printed: the error and the notes.
const NOTES_CHARACTERS: usize = 8 << 10;

/// The answer to the set-up, which is read before the process is given any code: that its walls stand, or why they do not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Readiness {
    #[serde(default)]
    ready: bool,
    broken: Option<String>,
    blobs: Vec<u64>,
}

/// Judges the answer to the set-up. No code has run, so what is wrong is ours.
pub(super) fn judge_readiness(header: &[u8]) -> Result<(), SandboxError> {
    let fault = |reason: &str| SandboxError::WallFell { reason: reason.to_owned() };
    let answer: Readiness = serde_json::from_slice(header).map_err(|error| fault(&error.to_string()))?;
    match answer {
        Readiness { broken: Some(reason), .. } => Err(fault(&reason)),
        Readiness { ready: true, blobs, .. } if blobs.is_empty() => Ok(()),
        _ => Err(fault("its answer says neither that it is ready nor why it is not")),
    }
}

/// The answer to the request to decode the picture: the forms in which its pixels follow.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decoded {
    nonce: String,
    forms: Vec<Form>,
    blobs: Vec<u64>,
}

/// A form of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// Four bytes each, as Pillow holds them.
    Pillow,
    /// Three bytes each, as OpenCV does.
    Opencv,
}

impl Decoded {
    /// A header, judged: it answers this request, and what it announces are the pixels of a picture of `size`. Gives each form and its bytes.
    pub(super) fn read(header: &[u8], nonce: &str, size: (u32, u32)) -> Result<Vec<(Form, u64)>, Ended> {
        let Decoded { nonce: said, forms, blobs } =
            serde_json::from_slice(header).map_err(|_| Ended::Malformed("not the pixels of a picture"))?;
        let pixels = u64::from(size.0) * u64::from(size.1);
        let bytes = |form: &Form| match form {
            Form::Pillow => pixels * PILLOW_BYTES,
            Form::Opencv => pixels * OPENCV_BYTES,
        };
        if said != nonce || forms.len() > 2 || forms.iter().map(bytes).ne(blobs.iter().copied()) {
            return Err(Ended::Malformed("the pixels of another picture"));
        }
        Ok(forms.into_iter().zip(blobs).collect())
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The code ran to its end.
    Ok,
    /// It raised, did not parse, or its process died.
    Error,
    /// The deadline passed, and the process was killed.
    Timeout,
    /// A wall stopped it.
    Denied,
}

/// The answer to a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reply {
    nonce: String,
    pub(super) status: Status,
    text: String,
    images: Vec<Entry>,
    pub(super) repairs: Vec<String>,
    blobs: Vec<u64>,
}

/// An image in the header of a reply.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    label: String,
    width: u32,
    height: u32,
    widened: Option<Widened>,
}

impl Reply {
    /// A header, judged: it answers this request, and the images that it announces are within the bounds. `size` is the input image's.
    pub(super) fn read(header: &[u8], nonce: &str, options: &SandboxOptions, size: (u32, u32)) -> Result<Reply, Ended> {
        let reply: Reply = serde_json::from_slice(header).map_err(|_| Ended::Malformed("not a reply"))?;
        let refuse = |what| Err(Ended::Malformed(what));
        if reply.nonce != nonce {
            return refuse("a reply to another request");
        }
        if reply.status == Status::Timeout {
            return refuse("a status that only the host can know");
        }
        if reply.images.len() > options.images || reply.images.len() != reply.blobs.len() {
            return refuse("a wrong number of images");
        }
        let mut left = options.image_bytes;
        for (entry, bytes) in reply.images.iter().zip(&reply.blobs) {
            let sides = 1..=SIDE_MAX;
            if !(sides.contains(&entry.width) && sides.contains(&entry.height) && entry.bytes() == *bytes) {
                return refuse("an image of a wrong size");
            }
            left = left.checked_sub(*bytes).ok_or(Ended::Malformed("more pixels than allowed"))?;
            if entry.widened.as_ref().is_some_and(|widened| !widened.is_within(size)) {
                return refuse("a crop that cannot be");
            }
        }
        Ok(reply)
    }

    /// Bytes of the pixels that follow, one number for each image.
    pub(super) fn blobs(&self) -> &[u64] {
        &self.blobs
    }

    /// The text, cut where the interpreter should have cut it.
    pub(super) fn text(&self, options: &SandboxOptions) -> String {
        self.text.chars().take(options.output_characters + NOTES_CHARACTERS).collect()
    }

    /// The images with their pixels, named in order.
    pub(super) fn images(&self, blobs: Vec<Vec<u8>>) -> Result<Vec<ProducedImage>, Ended> {
        let image = |(index, (entry, pixels)): (usize, (&Entry, Vec<u8>))| {
            Some(ProducedImage {
                name: format!("image-{}.png", index + 1),
                label: label(&entry.label),
                image: RgbImage::from_raw(entry.width, entry.height, pixels)?,
                widened: entry.widened.clone(),
            })
        };
        let images: Option<Vec<_>> = self.images.iter().zip(blobs).enumerate().map(image).collect();
        images.ok_or(Ended::Malformed("an image of a wrong size"))
    }
}

impl Entry {
    /// Bytes of its pixels.
    fn bytes(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height) * 3
    }
}

/// A label for text: one line of bounded length, without characters that move the cursor or the direction of writing.
fn label(claimed: &str) -> String {
    let turns = |c: char| matches!(c, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let shown = claimed.chars().map(|c| if c.is_control() || turns(c) { '?' } else { c });
    shown.take(LABEL_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pixels_of_the_picture_itself_are_taken() {
        let read = |header: &str| Decoded::read(header.as_bytes(), "n", (2, 3)).ok();
        let both = r#"{"nonce": "n", "forms": ["opencv", "pillow"], "blobs": [18, 24]}"#;
        assert_eq!(read(both), Some(vec![(Form::Opencv, 18), (Form::Pillow, 24)]));
        assert_eq!(read(r#"{"nonce": "n", "forms": [], "blobs": []}"#), Some(Vec::new()));
        for refused in [
            r#"{"nonce": "m", "forms": ["pillow"], "blobs": [24]}"#,
            r#"{"nonce": "n", "forms": ["pillow"], "blobs": [18]}"#,
            r#"{"nonce": "n", "forms": ["pillow"], "blobs": []}"#,
            r#"{"nonce": "n", "forms": [], "blobs": [24]}"#,
            r#"{"nonce": "n", "forms": ["gimp"], "blobs": [24]}"#,
            r#"{"nonce": "n", "forms": ["pillow", "pillow", "pillow"], "blobs": [24, 24, 24]}"#,
            r#"{"broken": "no walls", "blobs": []}"#,
        ] {
            assert_eq!(read(refused), None, "{refused}");
        }
    }

    #[test]
    fn only_the_answer_to_the_set_up_may_blame_the_walls() {
        assert!(judge_readiness(br#"{"ready": true, "blobs": []}"#).is_ok());
        for (header, reason) in [
            (&br#"{"broken": "no mount", "blobs": []}"#[..], "no mount"),
            (br#"{"ready": true, "broken": "no mount", "blobs": []}"#, "no mount"),
            (br#"{"ready": false, "blobs": []}"#, "neither"),
            (br#"{"ready": true, "blobs": [1]}"#, "neither"),
            (br#"{"ready": true, "status": "ok", "blobs": []}"#, "status"),
            (b"[]", "expected"),
        ] {
            let error = judge_readiness(header).unwrap_err();
            assert!(matches!(&error, SandboxError::WallFell { reason: said } if said.contains(reason)), "{error}");
        }
        let broken = br#"{"broken": "no mount", "blobs": []}"#;
        let reply = Reply::read(broken, "0", &SandboxOptions::default(), (9, 9));
        assert!(matches!(reply, Err(Ended::Malformed(_))));
    }
}
