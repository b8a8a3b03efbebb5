//! The tools of OpenThinkIMG (OpenThinkIMG/OpenThinkIMG, `tool_server/tool_workers/online_workers/`) that need no model of their own: [`Crop`],
//! [`DrawLine`], [`ZoomInSubfigure`] and [`Terminate`]. A call is `{"image": "img_1", "param": "..."}`.

mod call;
mod crop;
mod lines;
mod subfigure;
mod terminate;

pub use call::OpenThinkImgSettings;
pub use crop::Crop;
pub use lines::DrawLine;
pub use subfigure::{ZoomInSubfigure, ZoomInSubfigureSettings};
pub use terminate::Terminate;
