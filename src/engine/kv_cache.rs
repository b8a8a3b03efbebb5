//! Pages of keys and values: reference-counted, copied when a shared one is written to, and kept for whoever begins alike until they are
//! wanted for something else.

use super::prefix::{Block, Node, PrefixTree, ROOT};
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

/// Counts the holders of each page, and keeps what sequences leave until its page is wanted for something else.
#[derive(Debug)]
pub struct PagePool {
    holders: Vec<u32>,
    free: Vec<u32>,
    tree: PrefixTree,
    /// Pages that the tree holds.
    is_kept: Vec<bool>,
    /// Pages that the tree alone holds.
    idle: usize,
}

/// A sequence's pages in order. Only its pool can give them back.
#[derive(Debug)]
pub struct PageTable {
    pages: Vec<u32>,
    /// Of these, so many are in the tree.
    kept: usize,
    /// Where the last of them is there.
    node: Node,
}

impl Default for PageTable {
    fn default() -> PageTable {
        PageTable { pages: Vec::new(), kept: 0, node: ROOT }
    }
}

impl PagePool {
    /// `pages` free pages.
    pub fn new(pages: usize) -> PagePool {
        PagePool {
            holders: vec![0; pages],
            free: (0..pages as u32).rev().collect(),
            tree: PrefixTree::default(),
            is_kept: vec![false; pages],
            idle: 0,
        }
    }

    /// Pages in all.
    pub fn capacity(&self) -> usize {
        self.holders.len()
    }

    /// Pages that no table holds: what is in some of them is kept until the page is taken.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle
    }

    /// How many hold `page`: tables, and the tree.
    pub fn holders(&self, page: u32) -> u32 {
        self.holders[page as usize]
    }

    fn take(&mut self) -> u32 {
        if self.free.is_empty() {
            let holders = &self.holders;
            let page = self.tree.evict(|page| holders[page as usize] == 1);
            self.let_go(page.expect("pages are taken when some are available"));
        }
        let page = self.free.pop().expect("a page was let go if there was none");
        self.holders[page as usize] = 1;
        page
    }

    fn hold(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        self.idle -= usize::from(self.is_kept[page as usize] && *holders == 1);
        *holders += 1;
    }

    fn give_back(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders = holders.checked_sub(1).expect("a page is given back once by each holder");
        match *holders {
            0 => self.free.push(page),
            1 => self.idle += usize::from(self.is_kept[page as usize]),
            _ => {}
        }
    }

    /// The tree's hold on a page ends.
    fn let_go(&mut self, page: u32) {
        self.is_kept[page as usize] = false;
        self.idle -= usize::from(self.holders[page as usize] == 1);
        self.give_back(page);
    }

    /// Another table over the first `pages` pages of one.
    pub fn share(&mut self, table: &PageTable, pages: usize) -> PageTable {
        let shared = table.pages[..pages].to_vec();
        shared.iter().for_each(|&page| self.hold(page));
        let kept = table.kept.min(pages);
        PageTable { pages: shared, kept, node: self.tree.ancestor(table.node, table.kept - kept) }
    }

    /// Pages that [`PagePool::make_writable`] will take for tokens `from..to` of a table that has those before.
    pub fn needed(&self, table: &PageTable, from: usize, to: usize) -> usize {
        let is_shared = table.pages.get(from / PAGE_TOKENS).is_some_and(|&page| self.holders(page) > 1);
        to.div_ceil(PAGE_TOKENS) - table.pages.len() + usize::from(is_shared)
    }

    /// Makes room to write token `position`, the next or an earlier one of the table: a new page behind the last, or a page of its own
    /// in place of a shared one; then `copy` gets the pair `(from, to)`.
    pub fn make_writable(&mut self, table: &mut PageTable, position: usize, mut copy: impl FnMut(u32, u32)) {
        let place = position / PAGE_TOKENS;
        if place < table.kept {
            table.node = self.tree.ancestor(table.node, table.kept - place);
            table.kept = place;
        }
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

    /// Gives an empty table the pages of those of `blocks`, from the first on, that somebody left; how many these are.
    pub fn find(&mut self, table: &mut PageTable, blocks: impl Iterator<Item = Block>) -> usize {
        assert!(table.pages.is_empty(), "only an empty table begins anew");
        for block in blocks {
            let Some((node, page)) = self.tree.child(table.node, &block) else { break };
            self.hold(page);
            table.pages.push(page);
            (table.node, table.kept) = (node, table.kept + 1);
        }
        table.kept
    }

    /// Keeps the first page of a table that is not kept yet, which is full and holds what `block` says. Where somebody left the same before,
    /// the table takes that page in place of its own.
    pub fn keep(&mut self, table: &mut PageTable, block: Block) {
        let own = table.pages[table.kept];
        table.node = match self.tree.child(table.node, &block) {
            Some((node, page)) => {
                self.hold(page);
                self.give_back(own);
                table.pages[table.kept] = page;
                node
            }
            None => {
                self.hold(own);
                self.is_kept[own as usize] = true;
                self.tree.add(table.node, block, own)
            }
        };
        table.kept += 1;
    }

    /// Takes the pages behind a table's first `pages` back, which are not kept.
    pub fn cut(&mut self, table: &mut PageTable, pages: usize) {
        assert!(table.kept <= pages, "pages that are kept are full");
        for page in table.pages.split_off(pages.min(table.pages.len())) {
            self.give_back(page);
        }
    }

    /// Takes all pages of a table back; what is in those that are kept can be found again.
    pub fn release(&mut self, table: &mut PageTable) {
        if table.kept > 0 {
            self.tree.touch(table.node);
        }
        for page in std::mem::take(table).pages {
            self.give_back(page);
        }
    }

    /// Keeps no page any more that no table holds.
    pub fn forget_idle(&mut self) {
        while let Some(page) = self.tree.evict(|page| self.holders[page as usize] == 1) {
            self.let_go(page);
        }
    }

    /// Keeps nothing any more: it was made by other weights, or is to make room.
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

    /// Pages, from the first on, that can be found by others.
    pub fn kept(&self) -> usize {
        self.kept
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
    pub fn make_writable(&mut self, table: &mut PageTable, from: usize, to: usize) {
        let first_of_page = |&position: &usize| position == from || position % PAGE_TOKENS == 0;
        for position in (from..to).filter(first_of_page) {
            let copies = &mut self.copies;
            self.pages.make_writable(table, position, |shared, own| copies.push((shared, own)));
        }
    }

    /// Makes as many of the `tokens` behind a table's first `from`, which are writable, writable as pages are left for; how many these are.
    pub fn make_spare_writable(&mut self, table: &mut PageTable, from: usize, tokens: usize) -> usize {
        let room = (table.pages.len() + self.pages.available()) * PAGE_TOKENS - from;
        let tokens = tokens.min(room);
        self.make_writable(table, from, from + tokens);
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
