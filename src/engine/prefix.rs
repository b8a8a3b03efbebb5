//! What sequences left in pages, found again by its content: a tree whose edges are pages full of tokens. A path from the root spells the
//! beginning of some sequence; where it leads, its keys and values lie. A token's keys and values depend, to the bit, on the tokens and
//! images before it alone, so whoever begins alike may read them.

use std::collections::{BTreeMap, BTreeSet};

use crate::ops::attention::PAGE_TOKENS;

/// What a page is found by: for each of its tokens the id, or a number that is unique to an image's placeholder.
pub type PageKey = [u128; PAGE_TOKENS];

/// A place in the tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Node(u64);

/// The beginning of all sequences, which has no page.
pub const ROOT: Node = Node(0);

/// The tree of cached pages: each node is found by the tokens of its page and of those before it.
#[derive(Debug)]
pub struct PrefixTree {
    nodes: BTreeMap<Node, CachedPage>,
    /// Nodes without children by their last use, oldest first.
    leaves: BTreeSet<(u64, Node)>,
    /// Nodes that there ever were.
    made: u64,
    /// Uses that there ever were.
    uses: u64,
}

/// A node: a cached page.
#[derive(Debug)]
struct CachedPage {
    parent: Node,
    block: PageKey,
    page: u32,
    children: BTreeMap<PageKey, Node>,
    used: u64,
}

impl Default for PrefixTree {
    fn default() -> PrefixTree {
        let root =
            CachedPage { parent: ROOT, block: [0; PAGE_TOKENS], page: u32::MAX, children: BTreeMap::new(), used: 0 };
        PrefixTree { nodes: BTreeMap::from([(ROOT, root)]), leaves: BTreeSet::new(), made: 0, uses: 0 }
    }
}

impl PrefixTree {
    /// Where `block` leads from a node, and its page.
    pub fn child(&self, node: Node, block: &PageKey) -> Option<(Node, u32)> {
        let child = *self.page_at(node).children.get(block)?;
        Some((child, self.page_at(child).page))
    }

    /// The node `steps` above another.
    pub fn ancestor(&self, node: Node, steps: usize) -> Node {
        (0..steps).fold(node, |node, _| self.page_at(node).parent)
    }

    /// A new child of `parent`, which has none for `block` yet.
    pub fn add(&mut self, parent: Node, block: PageKey, page: u32) -> Node {
        self.made += 1;
        let node = Node(self.made);
        self.leaves.remove(&(self.page_at(parent).used, parent));
        let earlier = self.page_at_mut(parent).children.insert(block, node);
        assert!(earlier.is_none(), "a block leads to one node");
        self.nodes.insert(node, CachedPage { parent, block, page, children: BTreeMap::new(), used: 0 });
        self.leaves.insert((0, node));
        self.touch(node);
        node
    }

    /// Notes that a path down to `node` was used.
    pub fn touch(&mut self, node: Node) {
        self.uses += 1;
        let used = self.uses;
        let edge = self.page_at_mut(node);
        let before = std::mem::replace(&mut edge.used, used);
        if self.leaves.remove(&(before, node)) {
            self.leaves.insert((used, node));
        }
    }

    /// Cuts off the leaf that was not used for longest among those whose page is idle; its page.
    pub fn evict(&mut self, is_idle: impl Fn(u32) -> bool) -> Option<u32> {
        let mut looked_at = 0;
        let (used, node) = loop {
            let &(used, node) = self.leaves.first().filter(|_| looked_at < self.leaves.len())?;
            if is_idle(self.page_at(node).page) {
                break (used, node);
            }
            // It is in use, and need not be looked at again soon.
            self.touch(node);
            looked_at += 1;
        };
        self.leaves.remove(&(used, node));
        let CachedPage { parent, block, page, .. } = self.nodes.remove(&node).expect("a leaf is a node");
        let above = self.page_at_mut(parent);
        above.children.remove(&block);
        // Whoever used a leaf used all that leads to it.
        above.used = above.used.max(used);
        let (used, is_leaf) = (above.used, above.children.is_empty());
        if is_leaf && parent != ROOT {
            self.leaves.insert((used, parent));
        }
        Some(page)
    }

    /// Forgets all; the pages that it had.
    pub fn clear(&mut self) -> Vec<u32> {
        let nodes = std::mem::take(self).nodes;
        nodes.into_iter().filter(|(node, _)| *node != ROOT).map(|(_, edge)| edge.page).collect()
    }

    fn page_at(&self, node: Node) -> &CachedPage {
        &self.nodes[&node]
    }

    fn page_at_mut(&mut self, node: Node) -> &mut CachedPage {
        self.nodes.get_mut(&node).expect("a node is there while somebody holds its page")
    }
}
