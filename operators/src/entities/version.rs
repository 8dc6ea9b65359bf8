//! The version of a graph: what it is a function of, and nothing else.

use arrow::array::{AsArray, FixedSizeBinaryArray, ListArray};
use arrow::datatypes::UInt64Type;
use tidegate_facts::Digest;
use tidegate_facts::jcs::{push_integer, push_string};
use tidegate_facts::lanes::Digests;

use crate::rows::digest_column;

/// What the form of a graph version is called, inside it.
pub const GRAPH: &str = "tidegate.graph.v1";

/// BLAKE3 over the canonical form of `["tidegate.graph.v1",plan,[basis]]`.
pub fn graph_version(plan: &Digest, basis: &[u64]) -> Digest {
    let mut text = Vec::new();
    push_version(plan, basis, &mut text);
    Digest::of(&text)
}

/// The same of each row's basis.
pub fn graph_versions(plan: &Digest, basis: &ListArray) -> FixedSizeBinaryArray {
    let counts = basis.values().as_primitive::<UInt64Type>().values();
    let mut digests = Digests::with_capacity(basis.value_offsets().len());
    for ends in basis.value_offsets().windows(2) {
        digests.push(|text| push_version(plan, &counts[ends[0] as usize..ends[1] as usize], text));
    }
    digest_column(&digests.finish())
}

fn push_version(plan: &Digest, basis: &[u64], text: &mut Vec<u8>) {
    text.push(b'[');
    push_string(GRAPH, text);
    text.push(b',');
    push_string(&plan.to_hex(), text);
    text.extend_from_slice(b",[");
    for (place, count) in basis.iter().enumerate() {
        text.extend_from_slice(if place == 0 { b"\"" } else { b",\"" });
        push_integer((*count).into(), text);
        text.push(b'"');
    }
    text.extend_from_slice(b"]]");
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListBuilder, UInt64Builder};

    use super::*;

    #[test]
    fn a_version_is_of_the_canonical_form_of_plan_and_basis() {
        let mut basis = ListBuilder::new(UInt64Builder::new());
        basis.append_value([Some(3), Some(0)]);
        basis.append_value([Some(4), Some(0)]);
        let plan = Digest::of(b"a plan");
        let versions = graph_versions(&plan, &basis.finish().slice(1, 1));
        let text = format!(r#"["tidegate.graph.v1","{plan}",["4","0"]]"#);
        assert_eq!(tidegate_facts::json::canonical(&text).expect("JSON"), text, "it is canonical");
        assert_eq!(versions.value(0), Digest::of(text.as_bytes()).0);
        assert_eq!(graph_version(&plan, &[4, 0]), Digest::of(text.as_bytes()));
    }
}
