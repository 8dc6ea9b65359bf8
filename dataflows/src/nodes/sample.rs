//! `sample`: a share of the rows, the same keys on every machine.

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use tidegate_facts::KeyHash;
use tidegate_operators::core::keys::keys_of;
use tidegate_operators::core::rows::RowStream;

use crate::config::{Section, Spanned};
use crate::node::settings::Default;
use crate::node::{
    Accepts, ColumnSet, InputSchemas, NodeKind, NodeSpec, OutputSpec, PlanContext, PlannedNode, ReadContext,
    RenderContext, Setting,
};

/// The kind of node `sample`.
pub struct Sample;

const SETTINGS: &[Setting] = &[
    Setting::answer(
        "key",
        "column",
        Default::Required,
        "All rows of a key pass, or none.",
        ["\"customer_id\"", "\"terminal_id\""],
    ),
    Setting::answer(
        "share",
        "number from 0 to 1",
        Default::Required,
        "The share of keys whose rows pass.",
        ["0.1", "0.2"],
    ),
    Setting::answer(
        "seed",
        "whole number",
        Default::Value("0"),
        "Samples with different seeds choose keys independently of each other.",
        ["1", "2"],
    ),
];

impl NodeKind for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "Passes the rows of a share of the keys. Whether a key is in the sample follows from the key and the seed \
         alone, so a replay, another machine and another number of workers choose the same keys, and a greater share \
         contains a smaller one."
    }

    fn accepts(&self) -> Accepts {
        Accepts::Either // A retraction has the key of its row, so both pass or neither.
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"some_customers\"\nkind = \"sample\"\ninput = \"payments\"\nkey = \"customer_id\"\nshare = 0.01\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let share = section.number("share");
        if !section.has("share") {
            section.missing("share", "the share of keys whose rows pass, such as 0.01");
        }
        if share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            let what = format!("`share` of {} must be from 0 to 1, such as 0.01", section.name());
            section.diagnostics().add(section.line(), what);
        }
        Box::new(Spec {
            key: section.required_text("key", "the column that holds the key"),
            share: share.unwrap_or(0.0),
            seed: section.seed_or("seed", 0),
        })
    }
}

struct Spec {
    key: Spanned,
    share: f64,
    seed: u64,
}

impl NodeSpec for Spec {
    fn schema_despite_faults(&self, input: &SchemaRef) -> Option<SchemaRef> {
        Some(SchemaRef::clone(input))
    }

    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let input = cx.input()?;
        let key = cx.key_column(&self.key, input, cx.input_name())?;
        Some(Box::new(Planned { key, share: self.share, seed: self.seed, schema: SchemaRef::clone(input) }))
    }
}

struct Planned {
    key: usize,
    share: f64,
    seed: u64,
    schema: SchemaRef,
}

/// Whether `sample` chooses a key: whether it is among the `share` of all keys that the seed
/// chooses.
pub fn is_in_sample(key: KeyHash, share: f64, seed: u64) -> bool {
    let point = mix(key as u64 ^ mix((key >> 64) as u64 ^ mix(seed)));
    // 53 bits, so that the quotient is exact.
    ((point >> 11) as f64) < share * (1u64 << 53) as f64
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit of `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl PlannedNode for Planned {
    fn outputs(&self) -> Vec<OutputSpec> {
        vec![OutputSpec::own(SchemaRef::clone(&self.schema))]
    }

    fn reads(&self, wanted: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        let mut reads = wanted[0].clone();
        reads.insert(inputs.schema().field(self.key).name().clone());
        vec![(inputs.name().to_owned(), reads)]
    }

    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        let (key, share, seed) = (self.key, self.share, self.seed);
        vec![cx.map_every_row(cx.input(), "", move |rows| {
            let keys = keys_of(rows.column(key));
            let passes: BooleanArray = keys.iter().map(|key| Some(is_in_sample(*key, share, seed))).collect();
            filter_record_batch(&rows, &passes).expect("one flag for each row")
        })]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_keys_is_as_large_as_it_says_and_grows_with_it() {
        for (share, least, most) in
            [(0.0, 0, 0), (0.01, 850, 1150), (0.5, 49_500, 50_500), (1.0, 100_000, 100_000)]
        {
            let chosen = (0..100_000u128).filter(|key| is_in_sample(*key, share, 7)).count();
            assert!((least..=most).contains(&chosen), "{chosen} of 100,000 keys at a share of {share}");
        }
        for key in 0..10_000 {
            assert!(
                !is_in_sample(key, 0.1, 7) || is_in_sample(key, 0.2, 7),
                "key {key} left a greater share"
            );
        }
    }

    #[test]
    fn seeds_choose_independently() {
        let both = (0..100_000u128).filter(|key| is_in_sample(*key, 0.5, 1) && is_in_sample(*key, 0.5, 2));
        assert!((24_000..26_000).contains(&both.count()));
    }

    #[test]
    fn the_chosen_keys_never_change() {
        let chosen: Vec<u128> = (0..1_000).filter(|key| is_in_sample(*key, 0.01, 0)).collect();
        assert_eq!(chosen, [28, 238, 264, 272, 351, 556, 655, 839, 842, 941]);
    }
}
