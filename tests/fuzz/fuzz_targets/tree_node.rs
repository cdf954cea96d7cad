//! Tree nodes of all three types.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plakar_core::format::tree::{LeafWriter, Node, encode_content_node, encode_inner, is_plain_name};

fuzz_target!(|bytes: &[u8]| {
    let Ok(node) = Node::decode(bytes) else { return };
    let encoded = match &node {
        Node::Inner(children) => encode_inner(children),
        Node::Content(items) => encode_content_node(items),
        Node::Leaf(entries) => {
            assert!(entries.iter().all(|entry| is_plain_name(&entry.name)));
            let mut leaf = LeafWriter::default();
            entries.iter().for_each(|entry| leaf.push(entry));
            leaf.take()
        }
    };
    assert_eq!(Node::decode(&encoded).as_ref(), Ok(&node));
});
