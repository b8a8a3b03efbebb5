//! Memory of tensors. What a run was planned to hold is taken from the device in one piece, at the start, and cut up here: nothing asks
//! the driver inside a step. What goes beyond the plan, or has none, is taken from the device piece by piece, and counted
//! (`memory/beyond_arena_gb` of a run's metrics).
//!
//! Work follows one order on a device, so memory that is given back can be cut again at once: whoever gets it works behind whoever had it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::{Device, DeviceError, Memory, Span};
use crate::ops::MemoryUse;

/// Pieces begin at multiples of this, as the driver's own do.
const ALIGNMENT: usize = 256;

/// Memory of one device.
pub struct Arena {
    device: Arc<dyn Device>,
    block: Option<Memory>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What nobody holds of the block: where it begins, how long it is. No two touch.
    free: BTreeMap<usize, usize>,
    usage: MemoryUse,
    /// Bytes held beyond the block.
    beyond: u64,
    /// While a graph is captured: what was freed since, for that graph alone.
    captured: Option<Vec<Place>>,
}

/// Where a piece is.
enum Place {
    /// In the block.
    Block { offset: usize, bytes: usize },
    /// Taken from the device for itself.
    Own(Memory),
}

/// Memory of a tensor, freed on drop.
pub struct Piece {
    arena: Arc<Arena>,
    /// Present until the drop.
    place: Option<Place>,
    /// As asked for; the place may have more.
    bytes: usize,
    /// Taken while a graph was captured.
    is_captured: bool,
}

/// What a captured graph needs besides its result, freed on drop.
pub struct Reserved {
    arena: Arc<Arena>,
    places: Vec<Place>,
}

impl Arena {
    /// With `bytes` taken from the device now; 0 for none.
    pub fn new(device: Arc<dyn Device>, bytes: u64) -> Result<Arc<Arena>, DeviceError> {
        let bytes = bytes as usize / ALIGNMENT * ALIGNMENT;
        let block = if bytes > 0 { Some(Memory::new(&device, bytes)?) } else { None };
        let usage = MemoryUse { arena: bytes as u64, ..MemoryUse::default() };
        let free = block.iter().map(|_| (0, bytes)).collect();
        Ok(Arc::new(Arena { device, block, state: Mutex::new(State { free, usage, ..State::default() }) }))
    }

    /// A piece of undefined contents.
    pub fn take(self: &Arc<Arena>, bytes: usize) -> Result<Piece, DeviceError> {
        let mut state = self.state();
        let is_captured = state.captured.is_some();
        let known = state.cut_captured(bytes).or_else(|| {
            let place = state.cut(bytes.max(1).next_multiple_of(ALIGNMENT))?;
            state.hold(&place);
            Some(place)
        });
        let place = match known {
            Some(place) => place,
            None => {
                drop(state);
                let own = Memory::new(&self.device, bytes).map_err(|error| self.explained(error))?;
                let place = Place::Own(own);
                self.state().hold(&place);
                place
            }
        };
        Ok(Piece { arena: self.clone(), place: Some(place), bytes, is_captured })
    }

    /// From now on what is freed goes to later takers of the same graph only: its launches will run again at the addresses that they
    /// were captured with.
    pub fn begin_capture(&self) {
        let earlier = self.state().captured.replace(Vec::new());
        assert!(earlier.is_none(), "one graph capture at a time");
    }

    /// Ends it; what was freed meanwhile belongs to the graph until this is dropped.
    pub fn end_capture(self: &Arc<Arena>) -> Reserved {
        let places = self.state().captured.take().expect("a graph capture was begun");
        Reserved { arena: self.clone(), places }
    }

    /// What is held, and was at most.
    pub fn usage(&self) -> MemoryUse {
        self.state().usage
    }

    /// Counts the peak anew from what is held now.
    pub fn forget_peak(&self) {
        let mut state = self.state();
        state.usage.peak = state.usage.held;
    }

    fn explained(&self, error: DeviceError) -> DeviceError {
        let DeviceError::OutOfMemory { bytes, .. } = error else { return error };
        DeviceError::OutOfMemory { bytes, usage: self.usage() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self, place: Place, is_captured: bool) {
        let mut state = self.state();
        if let Some(captured) = state.captured.as_mut().filter(|_| is_captured) {
            captured.push(place);
            return;
        }
        state.usage.held -= place.bytes() as u64;
        match place {
            Place::Block { offset, bytes } => state.join(offset, bytes),
            Place::Own(memory) => {
                state.beyond -= memory.span().bytes() as u64;
                drop(state);
                drop(memory);
            }
        }
    }
}

impl State {
    /// Counts a place that was taken.
    fn hold(&mut self, place: &Place) {
        let bytes = place.bytes() as u64;
        self.usage.held += bytes;
        self.usage.peak = self.usage.peak.max(self.usage.held);
        if let Place::Own(_) = place {
            self.beyond += bytes;
            self.usage.beyond = self.usage.beyond.max(self.beyond);
        }
    }

    /// What the present graph had before and needs no longer, if it is of about this size.
    fn cut_captured(&mut self, bytes: usize) -> Option<Place> {
        let places = self.captured.as_mut()?;
        let fits = |place: &Place| (bytes..=2 * bytes.max(ALIGNMENT)).contains(&place.bytes());
        let best = (0..places.len()).filter(|&i| fits(&places[i])).min_by_key(|&i| places[i].bytes())?;
        Some(places.swap_remove(best))
    }

    /// The smallest hole that holds `bytes`, cut to size.
    fn cut(&mut self, bytes: usize) -> Option<Place> {
        let holes = self.free.iter().filter(|(_, hole)| **hole >= bytes);
        let (&offset, &hole) = holes.min_by_key(|(offset, hole)| (**hole, **offset))?;
        self.free.remove(&offset);
        if hole > bytes {
            self.free.insert(offset + bytes, hole - bytes);
        }
        Some(Place::Block { offset, bytes })
    }

    /// Makes a hole, one with those that it touches.
    fn join(&mut self, mut offset: usize, mut bytes: usize) {
        if let Some(after) = self.free.remove(&(offset + bytes)) {
            bytes += after;
        }
        if let Some((&before, &hole)) = self.free.range(..offset).next_back()
            && before + hole == offset
        {
            self.free.remove(&before);
            (offset, bytes) = (before, hole + bytes);
        }
        self.free.insert(offset, bytes);
    }
}

impl Place {
    fn bytes(&self) -> usize {
        match self {
            Place::Block { bytes, .. } => *bytes,
            Place::Own(memory) => memory.span().bytes(),
        }
    }
}

impl Piece {
    /// The bytes that were asked for.
    pub fn span(&self) -> Span<'_> {
        match self.place.as_ref().expect("a piece has its place until it is dropped") {
            Place::Block { offset, .. } => {
                let block = self.arena.block.as_ref().expect("what is cut from a block has one");
                block.span().part(*offset, self.bytes)
            }
            Place::Own(memory) => memory.span().part(0, self.bytes),
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let place = self.place.take().expect("dropped once");
        self.arena.free(place, self.is_captured);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        for place in self.places.drain(..) {
            self.arena.free(place, false);
        }
    }
}
