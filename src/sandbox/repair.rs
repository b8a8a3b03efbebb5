//! The names of the repairs made on model code: on its syntax tree (`repair.py`), and while it runs, on paths that it writes to
//! (`paths.py`), on its calls of libraries (`libraries.py`) and on what it shows (`session.py`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// One kind of repair; an execution lists each kind at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// The code was indented as a whole, or its first line was off.
    Indentation,
    /// A literal path of an image that does not exist became the path of the input image.
    ImagePath,
    /// A part of the input image was shown wider than it was cut out: inside the image, and at least 64 px per side where it has them.
    CropClamp,
    /// `cv.` (`cv3.`, `cv4.`, `CV.`) became `cv2.`.
    Cv2Name,
    /// What was written where nothing may be written went into the output folder instead.
    OutputPath,
    /// A picture with transparency or a palette was saved as JPEG, which has neither: laid onto white, as RGB.
    JpegMode,
}

impl Repair {
    /// The name in metadata, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Repair::Indentation => "indentation",
            Repair::ImagePath => "image_path",
            Repair::CropClamp => "crop_clamp",
            Repair::Cv2Name => "cv2_name",
            Repair::OutputPath => "output_path",
            Repair::JpegMode => "jpeg_mode",
        }
    }

    /// The repairs among names that the interpreter sent; it is not trusted, so what is not a name is left out.
    pub(super) fn of_names(names: &[String]) -> Vec<Repair> {
        let all = [
            Repair::Indentation,
            Repair::ImagePath,
            Repair::CropClamp,
            Repair::Cv2Name,
            Repair::OutputPath,
            Repair::JpegMode,
        ];
        all.into_iter().filter(|repair| names.iter().any(|name| name == repair.name())).collect()
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
