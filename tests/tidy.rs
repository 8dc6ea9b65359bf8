//! What ARCHITECTURE.md promises: who depends on whom, and what operators never do.

use std::path::{Path, PathBuf};

/// Each crate and the crates of this workspace that it may use. The arrows only point down.
const MAY_USE: [(&str, &[&str]); 8] = [
    ("facts", &[]),
    ("operators", &["facts"]),
    ("sources", &["facts"]),
    ("sinks", &["facts"]),
    ("dataflows", &["facts", "operators", "sinks", "sources"]),
    ("queries", &["facts", "sinks", "dataflows", "replay"]),
    ("replay", &["facts", "operators", "sinks", "sources", "dataflows"]),
    ("benches", &["facts", "operators", "sinks", "sources", "dataflows", "queries", "replay"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below a folder, and the lines of each before its tests.
fn sources(folder: &str) -> Vec<(PathBuf, Vec<(usize, String)>)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs")
                && path.file_name().is_some_and(|n| n != "tests.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
                let lines = lines.enumerate().map(|(at, line)| (at + 1, line.to_owned())).collect();
                files.push((path, lines));
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has no Rust files");
    files
}

#[test]
fn the_arrows_only_point_down() {
    for (name, allowed) in MAY_USE {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let manifest = manifest.split("[dev-dependencies]").next().unwrap();
        for (other, _) in MAY_USE {
            let used = manifest.contains(&format!("tidegate-{other}."))
                || manifest.contains(&format!("tidegate-{other} "));
            assert!(!used || allowed.contains(&other), "{name} must not depend on {other}");
        }
    }
}

#[test]
fn operators_touch_nothing_outside() {
    let forbidden = [
        ("SystemTime", "a clock"),
        ("Instant", "a clock"),
        ("std::fs", "files"),
        ("std::net", "sockets"),
        ("std::env", "the environment"),
        ("rand", "chance"),
        ("println!", "the terminal"),
        ("HashMap", "the order of a hash map"),
        ("HashSet", "the order of a hash set"),
        ("RandomState", "chance"),
    ];
    for folder in ["operators/src", "facts/src"] {
        for (path, lines) in sources(folder) {
            for (at, line) in lines.iter().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                for (word, what) in forbidden {
                    let found =
                        line.split(|c: char| !c.is_alphanumeric() && !"_:!".contains(c)).any(|part| {
                            part == word
                                || part.starts_with(&format!("{word}::"))
                                || part.ends_with(&format!("::{word}"))
                        });
                    assert!(!found, "{}:{at}: operators must not use {what}: {line}", path.display());
                }
            }
        }
    }
}

#[test]
fn only_sources_and_the_outer_crates_read_a_clock() {
    for folder in ["facts/src", "operators/src", "sinks/src", "queries/src"] {
        for (path, lines) in sources(folder) {
            for (at, line) in lines {
                assert!(!line.contains("SystemTime::now"), "{}:{at} reads the wall clock", path.display());
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (name, _) in MAY_USE {
        for (path, lines) in sources(&format!("{name}/src")) {
            assert!(
                lines.first().is_some_and(|(_, line)| line.starts_with("//!")),
                "{} has no head",
                path.display()
            );
        }
    }
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let machine = ["/work/", "/root/", "/farm/"];
    for folder in ["src"].into_iter().chain(MAY_USE.map(|(name, _)| name)) {
        let folder = if root().join(folder).join("src").is_dir() {
            format!("{folder}/src")
        } else {
            folder.to_owned()
        };
        if !root().join(&folder).is_dir() {
            continue;
        }
        for (path, lines) in sources(&folder) {
            for (at, line) in lines {
                assert!(
                    !machine.iter().any(|m| line.contains(m)),
                    "{}:{at} names a path of one machine",
                    path.display()
                );
            }
        }
    }
}
