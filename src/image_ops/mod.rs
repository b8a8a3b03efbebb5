//! Operations on pictures with Pillow's results: RGB pixels and arguments in, RGB pixels out.
//!
//! All results equal those of Pillow 13.0 bit for bit, which the tests show; lines are this module's own, and the panels of a figure those that
//! OpenThinkIMG finds with OpenCV. A picture is shared and is copied only
//! where its pixels change: what asks for no change gets the same buffer back. Knows nothing of files, of who asks, and of how it was asked.

mod error;
mod buffer;
mod crop;
mod resize;
mod thumbnail;
mod flip;
mod rotate;
mod greyscale;
mod enhance;
mod blur;
mod draw;
mod edges;
mod panels;

pub use blur::gaussian_blur;
pub use crop::crop;
pub use draw::{Direction, LINE_COLOUR, LINE_WIDTH, Line, draw_lines, draw_rectangle};
pub use enhance::{brightness, contrast, sharpness};
pub use error::ImageOpError;
pub use flip::{flip_horizontal, flip_vertical};
pub use greyscale::greyscale;
pub use panels::{only_panel, panels};
pub use resize::{Filter, resize};
pub use rotate::{Interpolation, Rotation, rotate};
pub use thumbnail::thumbnail;
