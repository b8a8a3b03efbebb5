//! Pages of keys and values: reference-counted, copied when a shared one is written to, and cached for sequences with the same prefix
//! until they are wanted for something else.

use super::prefix::{Node, PageKey, PrefixTree, ROOT};
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

/// Counts the references to each page, and caches what sequences leave until its page is wanted for something else.
#[derive(Debug)]
pub struct PagePool {
    ref_counts: Vec<u32>,
    free_pages: Vec<u32>,
    tree: PrefixTree,
    /// Pages that the tree holds.
    is_cached: Vec<bool>,
    /// Pages that the tree alone holds.
    idle: usize,
}

/// A sequence's pages in order. Only its pool can free them.
#[derive(Debug)]
pub struct PageTable {
    pages: Vec<u32>,
    /// How many of these, from the first on, are in the tree.
    cached: usize,
    /// Tree node of the last cached page; the root where none is.
    node: Node,
}

impl Default for PageTable {
    fn default() -> PageTable {
        PageTable { pages: Vec::new(), cached: 0, node: ROOT }
    }
}

impl PagePool {
    /// `pages` free pages.
    pub fn new(pages: usize) -> PagePool {
        PagePool {
            ref_counts: vec![0; pages],
            free_pages: (0..pages as u32).rev().collect(),
            tree: PrefixTree::default(),
            is_cached: vec![false; pages],
            idle: 0,
        }
    }

    /// Pages in all.
    pub fn capacity(&self) -> usize {
        self.ref_counts.len()
    }

    /// Pages that no table holds: what is in some of them stays cached until the page is taken.
    pub fn available(&self) -> usize {
        self.free_pages.len() + self.idle
    }

    /// References to `page`: of tables, and of the tree.
    pub fn ref_count(&self, page: u32) -> u32 {
        self.ref_counts[page as usize]
    }

    fn take(&mut self) -> u32 {
        if self.free_pages.is_empty() {
            let ref_counts = &self.ref_counts;
            let page = self.tree.evict(|page| ref_counts[page as usize] == 1);
            self.let_go(page.expect("pages are taken when some are available"));
        }
        let page = self.free_pages.pop().expect("a page was let go if there was none");
        self.ref_counts[page as usize] = 1;
        page
    }

    fn add_ref(&mut self, page: u32) {
        let ref_count = &mut self.ref_counts[page as usize];
        self.idle -= usize::from(self.is_cached[page as usize] && *ref_count == 1);
        *ref_count += 1;
    }

    fn free(&mut self, page: u32) {
        let ref_count = &mut self.ref_counts[page as usize];
        *ref_count = ref_count.checked_sub(1).expect("each reference to a page is freed once");
        match *ref_count {
            0 => self.free_pages.push(page),
            1 => self.idle += usize::from(self.is_cached[page as usize]),
            _ => {}
        }
    }

    /// The tree's reference to a page ends.
    fn let_go(&mut self, page: u32) {
        self.is_cached[page as usize] = false;
        self.idle -= usize::from(self.ref_counts[page as usize] == 1);
        self.free(page);
    }

    /// Another table over the first `pages` pages of one.
    pub fn share(&mut self, page_table: &PageTable, pages: usize) -> PageTable {
        let shared = page_table.pages[..pages].to_vec();
        shared.iter().for_each(|&page| self.add_ref(page));
        let cached = page_table.cached.min(pages);
        PageTable { pages: shared, cached, node: self.tree.ancestor(page_table.node, page_table.cached - cached) }
    }

    /// Pages that [`PagePool::make_writable`] will take for tokens `from..to` of a table that has those before.
    pub fn needed(&self, page_table: &PageTable, from: usize, to: usize) -> usize {
        let is_shared = page_table.pages.get(from / PAGE_TOKENS).is_some_and(|&page| self.ref_count(page) > 1);
        to.div_ceil(PAGE_TOKENS) - page_table.pages.len() + usize::from(is_shared)
    }

    /// Makes room to write token `position`, the next or an earlier one of the table: a new page after the last, or a page of its own
    /// in place of a shared one; then `copy` gets the pair `(from, to)`.
    pub fn make_writable(&mut self, page_table: &mut PageTable, position: usize, mut copy: impl FnMut(u32, u32)) {
        let place = position / PAGE_TOKENS;
        if place < page_table.cached {
            page_table.node = self.tree.ancestor(page_table.node, page_table.cached - place);
            page_table.cached = place;
        }
        if place == page_table.pages.len() {
            page_table.pages.push(self.take());
            return;
        }
        let shared = page_table.pages[place];
        if self.ref_count(shared) > 1 {
            let own = self.take();
            copy(shared, own);
            self.free(shared);
            page_table.pages[place] = own;
        }
    }

    /// Gives an empty table the pages of the longest prefix of `blocks` that is in the tree; how many pages these are.
    pub fn match_prefix(&mut self, page_table: &mut PageTable, blocks: impl Iterator<Item = PageKey>) -> usize {
        assert!(page_table.pages.is_empty(), "only an empty page table begins anew");
        for block in blocks {
            let Some((node, page)) = self.tree.child(page_table.node, &block) else { break };
            self.add_ref(page);
            page_table.pages.push(page);
            (page_table.node, page_table.cached) = (node, page_table.cached + 1);
        }
        page_table.cached
    }

    /// Inserts the first page of a table that is not in the tree yet, which is full and holds what `block` says. Where the tree has the same
    /// already, the table takes that page in place of its own.
    pub fn insert(&mut self, page_table: &mut PageTable, block: PageKey) {
        let own = page_table.pages[page_table.cached];
        page_table.node = match self.tree.child(page_table.node, &block) {
            Some((node, page)) => {
                self.add_ref(page);
                self.free(own);
                page_table.pages[page_table.cached] = page;
                node
            }
            None => {
                self.add_ref(own);
                self.is_cached[own as usize] = true;
                self.tree.add(page_table.node, block, own)
            }
        };
        page_table.cached += 1;
    }

    /// Frees the pages after a table's first `pages`, which are not in the tree.
    pub fn cut(&mut self, page_table: &mut PageTable, pages: usize) {
        assert!(page_table.cached <= pages, "pages in the tree are full");
        for page in page_table.pages.split_off(pages.min(page_table.pages.len())) {
            self.free(page);
        }
    }

    /// Frees all pages of a table; what is in those that are in the tree can be found again.
    pub fn release(&mut self, page_table: &mut PageTable) {
        if page_table.cached > 0 {
            self.tree.touch(page_table.node);
        }
        for page in std::mem::take(page_table).pages {
            self.free(page);
        }
    }

    /// Takes all pages that no table holds out of the tree.
    pub fn forget_idle(&mut self) {
        while let Some(page) = self.tree.evict(|page| self.ref_counts[page as usize] == 1) {
            self.let_go(page);
        }
    }

    /// Empties the tree: its pages were made by other weights, or are to make room.
    pub fn forget(&mut self) {
        for page in self.tree.clear() {
            self.let_go(page);
        }
    }
}

impl PageTable {
    /// Page numbers in order.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Pages, from the first on, that are in the tree, where others find them.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Where token `position` is stored: `page · PAGE_TOKENS + offset`.
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

    /// Gives the memory back, and forgets what is in it. Panics if a table holds a page.
    pub fn release(&mut self) {
        assert_eq!(self.pages.available(), self.pages.capacity(), "pages are released when nobody holds one");
        self.pages.forget();
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
    pub fn make_writable(&mut self, page_table: &mut PageTable, from: usize, to: usize) {
        let first_of_page = |&position: &usize| position == from || position % PAGE_TOKENS == 0;
        for position in (from..to).filter(first_of_page) {
            let copies = &mut self.copies;
            self.pages.make_writable(page_table, position, |shared, own| copies.push((shared, own)));
        }
    }

    /// Makes up to `tokens` positions from `from` on writable, as far as free pages allow; returns how many. Those before are writable already.
    pub fn make_spare_writable(&mut self, page_table: &mut PageTable, from: usize, tokens: usize) -> usize {
        let room = (page_table.pages.len() + self.pages.available()) * PAGE_TOKENS - from;
        let tokens = tokens.min(room);
        self.make_writable(page_table, from, from + tokens);
        tokens
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
