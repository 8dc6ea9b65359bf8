//! Record linkage against its definition, and against published answers: people with typing errors,
//! and papers of two bibliographies.
//!
//! The data is not part of this repository: the environment variable `LINKAGE` names the folder
//! with `febrl` (Christen, ANU) and `dblp-acm` (Köpcke, Thor, Rahm, VLDB 2010). The weights were
//! not fitted to the links: `m` is a guess for careful typing, nine in ten for long fields and more
//! for short ones; `u` is one over the number of distinct values, or twice that where a few values
//! are common.

mod chance;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::DataType;
use chance::Chance;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidegate_facts::KeyHash;
use tidegate_facts::digest::key_hash;
use tidegate_operators::core::keys::NULL_KEY;
use tidegate_operators::identity::linkage::{
    Comparator, Comparison, FieldValue, MatchRules, RecordMatch, RecordMatcher, normalize, weights,
};

#[test]
fn a_record_is_linked_with_all_earlier_ones_that_share_a_block_and_reach_the_threshold() {
    for seed in 0..40 {
        let mut chance = Chance(seed);
        let comparisons = [Comparator::Exact, Comparator::Levenshtein, Comparator::Words].map(|comparator| {
            let (agree, disagree) = weights(0.9, 0.3);
            Comparison { comparator, agree_at: 900, disagree_at: 300, agree, disagree }
        });
        let rules =
            MatchRules { comparisons: comparisons.to_vec(), threshold: 500, blocks: 2, block_max: 25 };
        let mut matcher = RecordMatcher::new(rules.clone());
        // By record its id, values and keys; by block the records that entered it before it was
        // full.
        let mut earlier: Vec<(KeyHash, Vec<FieldValue>, [KeyHash; 2])> = Vec::new();
        let mut blocks: Vec<(usize, KeyHash, Vec<KeyHash>)> = Vec::new();
        for step in 0..250 {
            let id = KeyHash::from(chance.below(200));
            let word =
                |chance: &mut Chance| ["one", "two", "three", "four", "fore", ""][chance.below(6) as usize];
            let values: Vec<FieldValue> = rules
                .comparisons
                .iter()
                .map(|c| {
                    FieldValue::of_text(&format!("{} {}", word(&mut chance), word(&mut chance)), c.comparator)
                })
                .collect();
            let mut key = || if chance.below(5) == 0 { NULL_KEY } else { KeyHash::from(chance.below(6)) };
            let keys = [key(), key()];
            earlier.retain(|(other, _, _)| *other != id);
            blocks.iter_mut().for_each(|(_, _, members)| members.retain(|member| *member != id));
            let mut expected: BTreeSet<(KeyHash, i64)> = BTreeSet::new();
            let mut full_blocks = Vec::new();
            for (kind, key) in keys.iter().enumerate().filter(|(_, key)| **key != NULL_KEY) {
                if !blocks.iter().any(|block| (block.0, block.1) == (kind, *key)) {
                    blocks.push((kind, *key, Vec::new()));
                }
                let block =
                    blocks.iter_mut().find(|block| (block.0, block.1) == (kind, *key)).expect("it is there");
                if block.2.len() == rules.block_max {
                    continue;
                }
                for (other, others, _) in earlier.iter().filter(|(other, _, _)| block.2.contains(other)) {
                    let weight: i64 = rules
                        .comparisons
                        .iter()
                        .zip(values.iter().zip(others))
                        .map(|(c, (a, b))| c.weight(a, b))
                        .sum();
                    if weight >= rules.threshold {
                        expected.insert((*other, weight));
                    }
                }
                block.2.push(id);
                if block.2.len() == rules.block_max {
                    full_blocks.push(kind);
                }
            }
            matcher.add(id, values.clone(), &keys);
            earlier.push((id, values, keys));
            let got: Vec<RecordMatch> = matcher.matches().to_vec();
            let weights: BTreeSet<i64> = got.iter().map(|found| found.weight).collect();
            assert_eq!(got.len(), expected.len(), "seed {seed}, step {step}");
            assert_eq!(
                weights,
                expected.iter().map(|(_, weight)| *weight).collect(),
                "seed {seed}, step {step}"
            );
            assert_eq!(matcher.full_blocks(), full_blocks, "seed {seed}, step {step}");
        }
    }
}

/// The folder with the data, if the environment names one.
fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("LINKAGE").map(PathBuf::from);
    if folder.is_none() {
        println!("not run: set LINKAGE to the folder that holds `febrl` and `dblp-acm`");
    }
    folder
}

/// A Parquet file whose columns are read as texts.
struct Table(RecordBatch);

impl Table {
    fn read(path: &Path) -> Table {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        Table(concat_batches(&batches[0].schema(), &batches).unwrap())
    }

    fn texts(&self, name: &str) -> Vec<Option<String>> {
        let column = self.0.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
        let texts = cast(column, &DataType::Utf8).unwrap();
        texts.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
    }
}

/// One comparison of a column.
fn compare(
    column: &'static str,
    comparator: Comparator,
    agree_at: i64,
    disagree_at: i64,
    m: f64,
    u: f64,
) -> (&'static str, Comparison) {
    let (agree, disagree) = weights(m, u);
    (column, Comparison { comparator, agree_at, disagree_at, agree, disagree })
}

/// A block key: the columns of which it consists, and how many letters of each.
type Key = &'static [(&'static str, usize)];

/// The pairs of ids that are linked among the records of `tables`, which are added one after the
/// other.
fn linked(
    tables: &[Table],
    id: &str,
    comparisons: Vec<(&'static str, Comparison)>,
    keys: &[Key],
    threshold: f64,
) -> BTreeSet<(String, String)> {
    let (columns, comparisons): (Vec<&str>, Vec<Comparison>) = comparisons.into_iter().unzip();
    let rules = MatchRules {
        comparisons,
        threshold: (threshold * 1_000.0) as i64,
        blocks: keys.len(),
        block_max: 500,
    };
    let mut matcher = RecordMatcher::new(rules.clone());
    let mut ids = Vec::new();
    let mut pairs = BTreeSet::new();
    for table in tables {
        let texts: Vec<_> = columns.iter().map(|column| table.texts(column)).collect();
        let parts: Vec<Vec<_>> = keys
            .iter()
            .map(|key| key.iter().map(|(column, letters)| (table.texts(column), *letters)).collect())
            .collect();
        for (row, id) in table.texts(id).into_iter().enumerate() {
            let values = texts.iter().zip(&rules.comparisons).map(|(texts, comparison)| {
                texts[row]
                    .as_ref()
                    .map_or(FieldValue::Absent, |text| FieldValue::of_text(text, comparison.comparator))
            });
            let key = |parts: &Vec<(Vec<Option<String>>, usize)>| {
                let parts: Option<Vec<String>> = parts
                    .iter()
                    .map(|(texts, letters)| {
                        Some(normalize(texts[row].as_ref()?).chars().take(*letters).collect())
                    })
                    .collect();
                parts.map_or(NULL_KEY, |parts| key_hash("block", parts.join("|").as_bytes()))
            };
            let own: Vec<KeyHash> = parts.iter().map(key).collect();
            let id = id.expect("records have ids");
            matcher.add(key_hash("text", id.as_bytes()), values.collect(), &own);
            pairs.extend(matcher.matches().iter().map(|found| {
                let other: &String = &ids[found.with as usize];
                (id.clone().min(other.clone()), id.clone().max(other.clone()))
            }));
            ids.push(id);
        }
    }
    pairs
}

/// The pairs of a file of true links.
fn truth(path: &Path) -> BTreeSet<(String, String)> {
    let table = Table::read(path);
    let names: Vec<String> = table.0.schema().fields().iter().map(|field| field.name().clone()).collect();
    let ids = table.texts(&names[0]).into_iter().zip(table.texts(&names[1]));
    ids.map(|(one, other)| (one.expect("an id"), other.expect("an id")))
        .map(|(a, b)| (a.clone().min(b.clone()), a.max(b)))
        .collect()
}

/// The F1 of the links found; prints precision and recall too.
fn score(name: &str, found: &BTreeSet<(String, String)>, expected: &BTreeSet<(String, String)>) -> f64 {
    let right = found.intersection(expected).count() as f64;
    let (precision, recall) = (right / found.len() as f64, right / expected.len() as f64);
    let f1 = 2.0 * precision * recall / (precision + recall);
    println!("{name}: {} links, precision {precision:.4}, recall {recall:.4}, F1 {f1:.4}", found.len());
    f1
}

const WHOLE: usize = usize::MAX;

fn people(folder: &Path, files: &[&str]) -> BTreeSet<(String, String)> {
    use Comparator::{Exact, JaroWinkler, Levenshtein};
    let tables: Vec<Table> = files.iter().map(|file| Table::read(&folder.join(file))).collect();
    let comparisons = vec![
        compare("given_name", JaroWinkler, 920, 700, 0.9, 0.02),
        compare("surname", JaroWinkler, 920, 700, 0.9, 0.01),
        compare("street_number", Exact, 1_000, 0, 0.9, 0.02),
        compare("address_1", JaroWinkler, 920, 700, 0.9, 0.002),
        compare("suburb", JaroWinkler, 920, 700, 0.9, 0.002),
        compare("postcode", Levenshtein, 1_000, 500, 0.9, 0.002),
        compare("state", Exact, 1_000, 0, 0.95, 0.3),
        compare("date_of_birth", Levenshtein, 1_000, 600, 0.9, 0.0002),
        compare("soc_sec_id", Levenshtein, 1_000, 600, 0.9, 0.0001),
    ];
    let keys: [Key; 6] = [
        &[("soc_sec_id", WHOLE)],
        &[("date_of_birth", WHOLE)],
        &[("surname", 4), ("postcode", WHOLE)],
        &[("given_name", 4), ("suburb", 6)],
        &[("surname", 4), ("given_name", 4)],
        &[("address_1", 6), ("street_number", WHOLE)],
    ];
    // The threshold is odds of 2^10 to one, since few of all pairs are matches.
    linked(&tables, "rec_id", comparisons, &keys, 10.0)
}

#[test]
fn people_with_typing_errors_are_linked() {
    let Some(folder) = folder().map(|folder| folder.join("febrl")) else { return };
    for (files, links, least) in [
        (&["febrl1.parquet"][..], "febrl1_links.parquet", 0.95),
        (&["febrl2.parquet"], "febrl2_links.parquet", 0.95),
        (&["febrl3.parquet"], "febrl3_links.parquet", 0.95),
        (&["febrl4a.parquet", "febrl4b.parquet"], "febrl4_links.parquet", 0.95),
    ] {
        let f1 = score(files[0], &people(&folder, files), &truth(&folder.join(links)));
        assert!(f1 >= least, "{links}: {f1}");
    }
}

#[test]
fn papers_of_two_bibliographies_are_linked() {
    use Comparator::{Within, Words};
    let Some(folder) = folder().map(|folder| folder.join("dblp-acm")) else { return };
    let tables = ["dblp.parquet", "acm.parquet"].map(|file| Table::read(&folder.join(file)));
    let comparisons = vec![
        compare("title", Words, 900, 300, 0.9, 0.0005),
        compare("authors", Words, 900, 200, 0.9, 0.0005),
        compare("year", Within(2), 1_000, 500, 0.95, 0.1),
    ];
    let keys: [Key; 3] = [&[("title", 12)], &[("authors", 12)], &[("title", 5), ("year", WHOLE)]];
    let found = linked(&tables, "id", comparisons, &keys, 10.0);
    // The true links are between the bibliographies; links within one bibliography do not count.
    let own: BTreeSet<String> = tables[0].texts("id").into_iter().flatten().collect();
    let found: BTreeSet<_> = found.into_iter().filter(|(a, b)| own.contains(a) != own.contains(b)).collect();
    let f1 = score("dblp-acm", &found, &truth(&folder.join("links.parquet")));
    assert!(f1 >= 0.90, "{f1}");
}
