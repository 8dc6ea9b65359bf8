//! A start records its plan in the store, and notices when a text that an earlier start recorded there
//! was changed.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate_dataflows::Plan;
use tidegate_sinks::store::{Store, StoreError};

/// The texts of policy and bundles in the store in `folder`.
fn texts(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("plans")).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_none()).collect()
}

/// Asserts that a plan that a store has recorded is read back with its digest.
fn check_read_back(plan: &Plan) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    plan.record(&store).unwrap();
    let read = Plan::from_store(&plan.digest, &store, &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read.digest, plan.digest, "{}", plan.topology.name);
}

#[test]
fn the_plans_of_shipped_topologies_are_read_back() {
    for name in ["fraud", "credibility"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{name}.toml"));
        check_read_back(
            &Plan::read(&file, &[]).unwrap_or_else(|diagnostics| panic!("{name}: {diagnostics:#?}")),
        );
    }
}

#[test]
fn names_and_texts_with_any_character_are_read_back() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fraud.toml");
    let text = fs::read_to_string(&file).unwrap();
    let odd = "\n[[node]]\nname = \"odd\"\nkind = \"project\"\ninput = \"payments\"\n\
               columns = { \"a\\n\\\"b\\u007f\\\\é\" = \"concat('x\\n', '\\t\\u007f')\" }\n\
               [[node]]\nname = \"odd_table\"\nkind = \"sink.parquet\"\ninput = \"odd\"\n";
    let plan = Plan::parse(&file, text + odd).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    check_read_back(&plan);
}

#[test]
fn a_text_in_another_layout_is_the_same_and_a_changed_one_is_refused_by_name() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fraud.toml");
    let plan = Plan::read(&file, &[]).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    plan.record(&store).unwrap();
    let texts = texts(folder.path());
    assert!(texts.len() >= 2, "a policy and a bundle: {texts:?}");
    for text in texts {
        let recorded = fs::read_to_string(&text).unwrap();
        fs::write(&text, format!("# Only a comment is new.\n{recorded}")).unwrap();
        plan.record(&store).unwrap();
        for changed in [&recorded[..recorded.len() / 2], "damaged"] {
            fs::write(&text, changed).unwrap();
            let name = text.file_name().unwrap().to_str().unwrap();
            match plan.record(&store) {
                Err(StoreError::Conflict { object, .. }) => assert!(object.ends_with(name), "{object}"),
                other => panic!("{other:?}"),
            }
        }
        fs::write(&text, recorded).unwrap();
        plan.record(&store).unwrap();
    }
}
