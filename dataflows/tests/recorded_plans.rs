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
