//! Pages of keys and values: reference-counted, copied when a shared one is written to.

use crate::model::Model;
use crate::ops::Tensor;
use crate::ops::attention::PAGE_TOKENS;

/// All pages of all layers, and who holds them. Their memory is taken when it is first needed, and can be given back while no table holds
/// a page.
pub struct KvCache {
    /// One tensor a layer; none while no memory is taken.
    layers: Vec<Tensor>,
    pages: PagePool,
    /// Copies to make before the next write.
    copies: Vec<(u32, u32)>,
}

/// Counts the holders of each page.
#[derive(Debug)]
pub struct PagePool {
    holders: Vec<u32>,
    free: Vec<u32>,
}

/// A sequence's pages in order. Only its pool can give them back.
#[derive(Debug, Default)]
pub struct PageTable {
    pages: Vec<u32>,
}

impl PagePool {
    /// `pages` free pages.
    pub fn new(pages: usize) -> PagePool {
        PagePool { holders: vec![0; pages], free: (0..pages as u32).rev().collect() }
    }

    /// Pages in all.
    pub fn capacity(&self) -> usize {
        self.holders.len()
    }

    /// Pages that nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// How many tables hold `page`.
    pub fn holders(&self, page: u32) -> u32 {
        self.holders[page as usize]
    }

    fn take(&mut self) -> u32 {
        let page = self.free.pop().expect("admission keeps a page for every token that may come");
        self.holders[page as usize] = 1;
        page
    }

    fn give_back(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders = holders.checked_sub(1).expect("a page is given back once by each holder");
        if *holders == 0 {
            self.free.push(page);
        }
    }

    /// Another table over the first `pages` pages of one.
    pub fn share(&mut self, table: &PageTable, pages: usize) -> PageTable {
        let pages = table.pages[..pages].to_vec();
        for &page in &pages {
            self.holders[page as usize] += 1;
        }
        PageTable { pages }
    }

    /// Makes room to write token `position`, the next or an earlier one of the table: a new page behind the last, or a page of its own
    /// in place of a shared one; then `copy` gets the pair `(from, to)`.
    pub fn make_writable(&mut self, table: &mut PageTable, position: usize, mut copy: impl FnMut(u32, u32)) {
        let place = position / PAGE_TOKENS;
        if place == table.pages.len() {
            table.pages.push(self.take());
            return;
        }
        let shared = table.pages[place];
        if self.holders(shared) > 1 {
            let own = self.take();
            copy(shared, own);
            self.give_back(shared);
            table.pages[place] = own;
        }
    }

    /// Takes all pages of a table back.
    pub fn release(&mut self, table: &mut PageTable) {
        for page in table.pages.drain(..) {
            self.give_back(page);
        }
    }
}

impl PageTable {
    /// Page numbers in order.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Where token `position` is kept: `page · PAGE_TOKENS + offset`.
    pub fn slot(&self, position: usize) -> usize {
        self.pages[position / PAGE_TOKENS] as usize * PAGE_TOKENS + position % PAGE_TOKENS
    }
}

impl KvCache {
    /// Room for `pages` pages in each of a model's layers.
    pub fn new(pages: usize) -> KvCache {
        KvCache { layers: Vec::new(), pages: PagePool::new(pages), copies: Vec::new() }
    }

    /// A page beyond those of the pool, for rows that only fill a batch up.
    pub fn scratch(&self) -> u32 {
        self.pages.capacity() as u32
    }

    /// What holds the pages, a tensor a layer; none while no memory is taken.
    pub fn layers(&self) -> &[Tensor] {
        &self.layers
    }

    /// Gives the memory back. Panics if a table holds a page.
    pub fn release(&mut self) {
        assert_eq!(self.pages.free(), self.pages.capacity(), "pages are released when nobody holds one");
        self.layers.clear();
    }

    /// Bytes of one page in all layers on a backend whose activations take `element_bytes`.
    pub fn page_bytes(config: &crate::model::config::Config, element_bytes: usize) -> usize {
        config.layers * 2 * config.heads.kv_heads * config.heads.head_dim * PAGE_TOKENS * element_bytes
    }

    /// The page counts.
    pub fn pool(&mut self) -> &mut PagePool {
        &mut self.pages
    }

    /// Makes tokens `from..to` of a table writable.
    pub fn make_writable(&mut self, table: &mut PageTable, from: usize, to: usize) {
        let first_of_page = |&position: &usize| position == from || position % PAGE_TOKENS == 0;
        for position in (from..to).filter(first_of_page) {
            let copies = &mut self.copies;
            self.pages.make_writable(table, position, |shared, own| copies.push((shared, own)));
        }
    }

    /// The layers' pages, outstanding copies made.
    pub fn layers_mut(&mut self, model: &Model) -> &mut [Tensor] {
        if self.layers.is_empty() {
            let pages = self.pages.capacity() + 1;
            let layer = |_| model.backend.attention_pages(pages, model.config.heads);
            self.layers = (0..model.config.layers).map(layer).collect();
        }
        if !self.copies.is_empty() {
            for layer in &mut self.layers {
                model.backend.copy_pages(layer, &self.copies);
            }
            self.copies.clear();
        }
        &mut self.layers
    }
}
