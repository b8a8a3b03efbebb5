//! Where each token and each patch stands: the 3-D rope positions of a token sequence with images (M-RoPE), and the vision
//! tower's 2-D positions, attention windows and image bounds. Plain integers; the rotations are the model's.

use std::collections::VecDeque;

use thiserror::Error;

/// An image's size in patches. `h` and `w` are multiples of the merge size; `t` is 1 for a still image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Frames, after temporal merging.
    pub t: u32,
    /// Rows of patches.
    pub h: u32,
    /// Columns of patches.
    pub w: u32,
}

impl Grid {
    /// Patches in the image: `t * h * w`.
    pub fn patches(self) -> usize {
        self.t as usize * self.h as usize * self.w as usize
    }

    /// Tokens that the image takes in the language model: `t * (h / merge) * (w / merge)`.
    pub fn tokens(self, merge_size: usize) -> usize {
        self.patches() / (merge_size * merge_size)
    }
}

/// Image placeholders and images that do not fit each other.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PositionError {
    /// A placeholder came when all images were used.
    #[error(
        "token {index} is an image placeholder, but all {images} images before it are already complete; \
         give one image for each group of placeholders"
    )]
    PadWithoutImage {
        /// Index of the placeholder, counted from the start of the sequence.
        index: usize,
        /// Images used before it.
        images: usize,
    },
    /// An image's run of placeholders ended early.
    #[error(
        "the {tokens} placeholders of image {image} stop after {seen}: an image needs t*h*w / merge_size^2 placeholders \
         in a row; expand the prompt with the same picture and settings"
    )]
    CutImage {
        /// Which image, counted from 0.
        image: usize,
        /// Placeholders that its grid asks for.
        tokens: usize,
        /// Placeholders that were found.
        seen: usize,
    },
    /// Images were left over at the end.
    #[error(
        "{left} of {images} images have no placeholders in the tokens; add <|image_pad|> for each or drop the images"
    )]
    UnusedImages {
        /// Images without placeholders.
        left: usize,
        /// Images given in all.
        images: usize,
    },
}

/// The 3-D positions (time, row, column) of a whole sequence, and the position of the text token that would follow.
///
/// Text counts up by one in all three; an image that starts at `p` puts its merged cell (row, column) at
/// `(p, p + row, p + column)`, and text goes on from `p + max(h, w) / merge_size`. Equal to `get_rope_index` of transformers,
/// except that adjacent images are told apart by their grids.
///
/// # Errors
/// When placeholders and grids do not fit.
pub fn positions(
    token_ids: &[u32],
    grids: &[Grid],
    merge_size: usize,
    image_pad_id: u32,
) -> Result<(Vec<[u32; 3]>, u32), PositionError> {
    let mut cursor = PositionCursor::new(merge_size, image_pad_id);
    cursor.add_images(grids);
    let positions = cursor.extend(token_ids)?;
    cursor.finish()?;
    Ok((positions, cursor.next_position()))
}

/// The incremental form of [`positions`]: chunk by chunk gives the same as the whole, wherever the cuts fall. A clone
/// continues on its own, which is what a forked sequence needs.
#[derive(Debug, Clone)]
pub struct PositionCursor {
    merge_size: usize,
    image_pad_id: u32,
    next: u32,
    tokens: usize,
    images_done: usize,
    waiting: VecDeque<Grid>,
    /// The image whose placeholders are being read, and how many were.
    open: Option<(Grid, usize)>,
}

impl PositionCursor {
    /// A cursor at the start of an empty sequence.
    pub fn new(merge_size: usize, image_pad_id: u32) -> Self {
        PositionCursor {
            merge_size,
            image_pad_id,
            next: 0,
            tokens: 0,
            images_done: 0,
            waiting: VecDeque::new(),
            open: None,
        }
    }

    /// Announces images whose placeholders come in the following tokens, in order.
    pub fn add_images(&mut self, grids: &[Grid]) {
        self.waiting.extend(grids);
    }

    /// The positions of the next tokens.
    ///
    /// # Errors
    /// When a placeholder has no image, or text comes before an image's last placeholder. The cursor is then unusable.
    pub fn extend(&mut self, token_ids: &[u32]) -> Result<Vec<[u32; 3]>, PositionError> {
        token_ids.iter().map(|&id| if id == self.image_pad_id { self.step_image() } else { self.step_text() }).collect()
    }

    /// The position of the next text token.
    pub fn next_position(&self) -> u32 {
        self.next
    }

    /// Checks that every announced image was read to its end.
    ///
    /// # Errors
    /// When an image is cut off or unused.
    pub fn finish(&self) -> Result<(), PositionError> {
        self.check_closed()?;
        match self.waiting.len() {
            0 => Ok(()),
            left => Err(PositionError::UnusedImages { left, images: self.images_done + left }),
        }
    }

    fn step_text(&mut self) -> Result<[u32; 3], PositionError> {
        self.check_closed()?;
        let position = [self.next; 3];
        self.next += 1;
        self.tokens += 1;
        Ok(position)
    }

    fn step_image(&mut self) -> Result<[u32; 3], PositionError> {
        let no_image = PositionError::PadWithoutImage { index: self.tokens, images: self.images_done };
        let (grid, seen) = match self.open.take() {
            Some(open) => open,
            None => (self.waiting.pop_front().ok_or(no_image)?, 0),
        };
        let (rows, columns) = (grid.h as usize / self.merge_size, grid.w as usize / self.merge_size);
        let frame = rows * columns;
        let offset = [seen / frame, seen % frame / columns, seen % columns];
        let position = offset.map(|offset| self.next + offset as u32);
        self.tokens += 1;
        if seen + 1 < grid.tokens(self.merge_size) {
            self.open = Some((grid, seen + 1));
        } else {
            self.images_done += 1;
            self.next += (rows.max(columns)) as u32;
        }
        Ok(position)
    }

    fn check_closed(&self) -> Result<(), PositionError> {
        match self.open {
            None => Ok(()),
            Some((grid, seen)) => {
                Err(PositionError::CutImage { image: self.images_done, tokens: grid.tokens(self.merge_size), seen })
            }
        }
    }
}

/// The (row, column) of each patch of an image, in patch order (merge block by merge block), for the vision tower's 2-D
/// rope. Length `grid.patches()`.
pub fn patch_positions(grid: Grid, merge_size: usize) -> Vec<[u32; 2]> {
    let merge = merge_size as u32;
    let blocks = (0..grid.h / merge).flat_map(|row| (0..grid.w / merge).map(move |column| (row, column)));
    let frame: Vec<[u32; 2]> = blocks
        .flat_map(|(row, column)| {
            (0..merge).flat_map(move |y| (0..merge).map(move |x| [row * merge + y, column * merge + x]))
        })
        .collect();
    frame.repeat(grid.t as usize)
}

/// The order in which Qwen2.5-VL's windowed layers see an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowOrder {
    /// Merge units (`merge_size^2` patches each) window by window: place `i` holds unit `order[i]` of the patch order.
    pub order: Vec<u32>,
    /// Bounds of the windows in patches, from 0 to `grid.patches()`.
    pub bounds: Vec<u32>,
}

/// Cuts the merged grid into windows of `window_size` pixels a side, left to right, top to bottom; windows at the right and
/// bottom edge may be smaller. `window_size` is in pixels (112), `patch_size` too (14).
pub fn window_order(grid: Grid, merge_size: usize, patch_size: usize, window_size: usize) -> WindowOrder {
    let merge = merge_size as u32;
    let (rows, columns) = (grid.h / merge, grid.w / merge);
    let side = ((window_size / merge_size / patch_size) as u32).max(1);
    let mut order = Vec::with_capacity((grid.t * rows * columns) as usize);
    let mut bounds = vec![0];
    for frame in 0..grid.t {
        for top in (0..rows).step_by(side as usize) {
            for left in (0..columns).step_by(side as usize) {
                for row in top..(top + side).min(rows) {
                    order.extend(
                        (left..(left + side).min(columns)).map(|column| (frame * rows + row) * columns + column),
                    );
                }
                bounds.push(order.len() as u32 * merge * merge);
            }
        }
    }
    WindowOrder { order, bounds }
}

/// Bounds of full attention in patches: each frame of each image attends to itself. From 0 to the patches of all `grids`.
pub fn image_bounds(grids: &[Grid]) -> Vec<u32> {
    let frames = grids.iter().flat_map(|grid| std::iter::repeat_n(grid.h * grid.w, grid.t as usize));
    std::iter::once(0)
        .chain(frames.scan(0, |end, patches| {
            *end += patches;
            Some(*end)
        }))
        .collect()
}
