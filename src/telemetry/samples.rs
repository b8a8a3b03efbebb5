//! `samples/`: what the model did, as Markdown that one can open, with its pictures as PNG beside it.

use std::fmt::Write as _;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};

use crate::files::open::replace;

/// One trajectory to look at.
#[derive(Clone, Debug, Default)]
pub struct SampleSheet<'a> {
    /// Heading of the page.
    pub title: String,
    /// Numbers and words about it, a table row each: reward, how it ended, ...
    pub facts: Vec<(&'a str, String)>,
    /// What happened, in order.
    pub blocks: Vec<Block<'a>>,
}

/// A piece of a sheet.
#[derive(Clone, Debug)]
pub enum Block<'a> {
    /// Text under a small heading (`thought`, `call`, `observation`, ...), shown as it is.
    Text {
        /// The small heading over it.
        heading: &'a str,
        /// The text, shown between fences.
        text: &'a str,
    },
    /// A picture, saved as a PNG beside the page.
    Image {
        /// What it is.
        caption: String,
        /// The picture as it is, not scaled.
        pixels: &'a RgbImage,
    },
}

impl SampleSheet<'_> {
    /// Writes `dir/<name>.md` and `dir/<name>-<number>.png`; makes `dir` if it is missing. Gives the Markdown's path.
    pub fn write(&self, dir: &Path, name: &str) -> io::Result<PathBuf> {
        std::fs::create_dir_all(dir)?;
        let mut page = format!("# {}\n", self.title);
        if !self.facts.is_empty() {
            page.push_str("\n| | |\n|---|---|\n");
        }
        for (key, value) in &self.facts {
            let _ = writeln!(page, "| {key} | {} |", value.replace('|', "\\|").replace('\n', " "));
        }
        let mut pictures = 0;
        for block in &self.blocks {
            match block {
                Block::Text { heading, text } => {
                    let fence = fence_around(text);
                    let _ = write!(page, "\n**{heading}**\n\n{fence}text\n{text}\n{fence}\n");
                }
                Block::Image { caption, pixels } => {
                    pictures += 1;
                    let file = format!("{name}-{pictures}.png");
                    let (width, height) = pixels.dimensions();
                    let mut png = Cursor::new(Vec::new());
                    pixels.write_to(&mut png, ImageFormat::Png).map_err(io::Error::other)?;
                    replace(&dir.join(&file), png.get_ref())?;
                    let _ = write!(page, "\n**{caption}**, {width}x{height}\n\n![{caption}]({file})\n");
                }
            }
        }
        let path = dir.join(format!("{name}.md"));
        replace(&path, page.as_bytes())?;
        Ok(path)
    }
}

/// Backticks, more than any run of them in `text`, so that what the model writes cannot end the block.
fn fence_around(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat((longest + 1).max(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_shows_text_as_it_is_and_its_pictures() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pixels = RgbImage::from_pixel(3, 2, image::Rgb([1, 2, 3]));
        let sheet = SampleSheet {
            title: "step 5".to_owned(),
            facts: vec![("reward", "1.5".to_owned()), ("end", "a|b".to_owned())],
            blocks: vec![
                Block::Text { heading: "call", text: "<code>\n```python\nx\n```\n</code>" },
                Block::Image { caption: "crop.png".to_owned(), pixels: &pixels },
            ],
        };
        let path = sheet.write(&folder.path().join("samples"), "5-0").expect("a sheet");
        let page = std::fs::read_to_string(path).expect("the page");
        assert_eq!(
            page,
            "# step 5\n\n| | |\n|---|---|\n| reward | 1.5 |\n| end | a\\|b |\n\n**call**\n\n````text\n<code>\n```python\nx\n```\n</code>\n\
             ````\n\n**crop.png**, 3x2\n\n![crop.png](5-0-1.png)\n"
        );
        let saved = image::open(folder.path().join("samples/5-0-1.png")).expect("the picture").into_rgb8();
        assert_eq!(saved, pixels);
    }
}
