//! Graph version: a digest of the plan and the basis, of which alone an entity graph is a function.

use arrow::array::{AsArray, FixedSizeBinaryArray, ListArray};
use tidegate_facts::columns::OffsetType;
use tidegate_facts::jcs::{push_integer, push_string};
use tidegate_facts::{Digest, DigestBatch};

use crate::core::rows::digest_column;

/// The name of the format of an entity graph's version, with which its canonical form begins.
pub const GRAPH: &str = "tidegate.graph.v1";

/// The version of an entity graph for a plan and a basis: BLAKE3 over the canonical form of
/// `["tidegate.graph.v1",plan,[basis]]`.
pub fn graph_version(plan: &Digest, basis: &[i64]) -> Digest {
    let mut text = Vec::new();
    push_version(plan, basis, &mut text);
    Digest::of(&text)
}

/// The entity graph's version at the basis of each row; see [`graph_version`].
pub fn graph_versions(plan: &Digest, basis: &ListArray) -> FixedSizeBinaryArray {
    let counts = basis.values().as_primitive::<OffsetType>().values();
    let mut digests = DigestBatch::with_capacity(basis.value_offsets().len());
    for ends in basis.value_offsets().windows(2) {
        digests.push(|text| push_version(plan, &counts[ends[0] as usize..ends[1] as usize], text));
    }
    digest_column(&digests.finish())
}

fn push_version(plan: &Digest, basis: &[i64], text: &mut Vec<u8>) {
    text.push(b'[');
    push_string(GRAPH, text);
    text.push(b',');
    push_string(&plan.to_hex(), text);
    text.extend_from_slice(b",[");
    for (partition, count) in basis.iter().enumerate() {
        text.extend_from_slice(if partition == 0 { b"\"" } else { b",\"" });
        push_integer((*count).into(), text);
        text.push(b'"');
    }
    text.extend_from_slice(b"]]");
}

#[cfg(test)]
mod tests {
    use arrow::array::ListBuilder;
    use tidegate_facts::columns::OffsetBuilder;

    use super::*;

    #[test]
    fn a_version_is_the_digest_of_the_canonical_form_of_plan_and_basis() {
        let mut basis = ListBuilder::new(OffsetBuilder::new());
        basis.append_value([Some(3), Some(0)]);
        basis.append_value([Some(4), Some(0)]);
        let plan = Digest::of(b"a plan");
        let versions = graph_versions(&plan, &basis.finish().slice(1, 1));
        let text = format!(r#"["tidegate.graph.v1","{plan}",["4","0"]]"#);
        assert_eq!(tidegate_facts::strict_json::canonical(&text).expect("JSON"), text, "it is canonical");
        assert_eq!(versions.value(0), Digest::of(text.as_bytes()).0);
        assert_eq!(graph_version(&plan, &[4, 0]), Digest::of(text.as_bytes()));
    }
}
