//! What ARCHITECTURE.md promises: who depends on whom, and what operators never do.

use std::path::{Path, PathBuf};

/// Each crate and the crates of this workspace that it may use. The arrows only point down.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("facts/batch_hash", &[]),
    ("facts/derive", &[]),
    ("facts", &["facts/batch_hash", "facts/derive"]),
    ("sinks/host", &[]),
    ("sinks/dedupe", &["facts", "sinks/host"]),
    ("operators", &["facts", "facts/batch_hash"]),
    ("sources", &["facts", "sinks/host"]),
    ("sinks", &["facts", "sinks/dedupe", "sinks/host"]),
    ("dataflows", &["facts", "operators", "sinks", "sinks/dedupe", "sinks/host", "sources"]),
    ("replay", &["facts", "operators", "sinks", "sinks/host", "sources", "dataflows"]),
    ("queries", &["facts", "sinks", "sinks/host", "dataflows", "replay"]),
    ("queries/postgres", &["facts", "queries"]),
    (
        "benches",
        &[
            "facts",
            "operators",
            "sinks",
            "sinks/dedupe",
            "sinks/host",
            "sources",
            "dataflows",
            "queries",
            "replay",
        ],
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The package in a folder: `facts/batch_hash` has `tidegate-batch-hash`.
fn package_of(folder: &str) -> String {
    let name = folder.rsplit('/').next().expect("a path has a last part");
    format!("tidegate-{}", name.replace('_', "-"))
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
            let package = package_of(other);
            let used = manifest.contains(&format!("{package}.")) || manifest.contains(&format!("{package} "));
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

/// The crates whose clocks, files and threads are those of `sinks/host`, so that a simulation can
/// drive them.
const ON_THE_HOST: [&str; 7] =
    ["facts/batch_hash", "facts/derive", "facts", "operators", "sinks", "sinks/dedupe", "dataflows"];

/// What is part of the machine.
const MACHINE: [&str; 5] = ["SystemTime::now", "Instant::now", "std::fs", "unix::fs", "std::thread"];

/// Where these crates reach the machine directly: the file, what it uses, and why. The list only
/// gets shorter.
const AROUND_THE_HOST: [(&str, &str, &str); 11] = [
    ("dataflows/src/commit/writer.rs", "std::thread", "asks whether its own job panics"),
    ("dataflows/src/config/settings.rs", "std::fs", "a plan is read before there is a host"),
    ("dataflows/src/node/plan_context.rs", "std::fs", "a plan is read before there is a host"),
    ("dataflows/src/render/workers.rs", "std::thread", "timely starts, parks and wakes its workers"),
    ("dataflows/src/run/gate.rs", "Instant::now", "traces compare it with instants of HTTP threads"),
    ("dataflows/src/run/serve.rs", "Instant::now", "traces compare it with instants of HTTP threads"),
    ("dataflows/src/serve/decisions.rs", "Instant::now", "traces compare it with instants of HTTP threads"),
    ("dataflows/src/thread_priority.rs", "std::fs", "the kernel shows the CPU time of a thread in a file"),
    ("operators/src/core/testing.rs", "std::thread", "tests yield to another worker of theirs"),
    ("sinks/src/commits/buffer.rs", "std::thread", "yields between two columns of many rows"),
    (
        "sinks/src/store/object_store_backend.rs",
        "std::thread",
        "a client's future wakes the thread that waits",
    ),
];

/// The parts of the machine that a line of code uses.
fn machine_in(line: &str) -> impl Iterator<Item = &'static str> {
    let imports = line.trim_start().strip_prefix("use std::{").unwrap_or_default();
    let imported: Vec<&str> = identifiers(imports).collect();
    MACHINE.into_iter().filter(move |part| {
        let is_named = line.match_indices(part).any(|(at, _)| {
            let behind = line[at + part.len()..].chars().next();
            !behind.is_some_and(|c| c.is_alphanumeric() || c == '_')
        });
        is_named || part.strip_prefix("std::").is_some_and(|module| imported.contains(&module))
    })
}

#[test]
fn clocks_files_and_threads_are_those_of_the_host() {
    let mut found = std::collections::BTreeMap::new();
    for folder in ON_THE_HOST {
        for (path, lines) in sources(&format!("{folder}/src")) {
            let file = path.strip_prefix(root()).expect("it lies below the root").display().to_string();
            for (at, line) in code(&lines) {
                for part in machine_in(&line) {
                    found.entry((file.clone(), part)).or_insert(at);
                }
            }
        }
    }
    for (file, part, _) in AROUND_THE_HOST {
        let is_needed = found.remove(&(file.to_owned(), part)).is_some();
        assert!(is_needed, "{file} uses no `{part}` any more: take it off the list of exceptions");
    }
    let found: Vec<String> =
        found.into_iter().map(|((file, part), at)| format!("{file}:{at}: `{part}`")).collect();
    assert!(found.is_empty(), "take clock, files and threads from the host:\n{}", found.join("\n"));
}

#[test]
fn queries_read_no_wall_clock() {
    for (path, lines) in sources("queries/src") {
        for (at, line) in lines {
            assert!(!line.contains("SystemTime::now"), "{}:{at} reads the wall clock", path.display());
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

/// The code of a file before its tests, without comments and with texts emptied.
fn code(lines: &[(usize, String)]) -> Vec<(usize, String)> {
    let mut in_text = false;
    let mut raw_end: Option<String> = None;
    let mut code = Vec::new();
    for (at, line) in lines {
        let mut out = String::new();
        let mut rest = line.as_str();
        while !rest.is_empty() {
            if let Some(end) = &raw_end {
                let Some(found) = rest.find(end.as_str()) else { break };
                rest = &rest[found + end.len()..];
                (raw_end, out) = (None, out + "\"");
                continue;
            }
            let c = rest.chars().next().expect("it is not empty");
            match c {
                '\\' if in_text => rest = rest.get(2..).unwrap_or_default(),
                '"' => {
                    in_text = !in_text;
                    out.push('"');
                    rest = &rest[1..];
                }
                _ if in_text => rest = &rest[c.len_utf8()..],
                '/' if rest.starts_with("//") => break,
                'r' if rest.starts_with("r\"")
                    || rest.starts_with("r#") && rest.trim_start_matches(['r', '#']).starts_with('"') =>
                {
                    let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
                    raw_end = Some(format!("\"{}", "#".repeat(hashes)));
                    out.push('"');
                    rest = &rest[2 + hashes..];
                }
                '\'' if rest.starts_with("'\"'") || rest.starts_with("'\\") => {
                    rest = rest[1..].split_once('\'').map_or("", |(_, behind)| behind);
                }
                c => {
                    out.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        code.push((*at, out));
    }
    code
}

/// The words of a line of code.
fn identifiers(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The parts of an identifier, split at `_` and where a capital letter begins.
fn parts(identifier: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for c in identifier.chars() {
        if c == '_' || c.is_uppercase() && !parts.last().is_some_and(String::is_empty) {
            parts.push(String::new());
        }
        if c != '_' {
            parts.last_mut().expect("there is one").extend(c.to_lowercase());
        }
    }
    parts
}

/// The folders with the sources of every crate, and of the command.
fn source_folders() -> Vec<String> {
    let crates = MAY_USE.iter().map(|(name, _)| format!("{name}/src"));
    crates.chain(["src".to_owned()]).collect()
}

#[test]
fn identifiers_use_the_words_of_the_field() {
    const BANNED: [&str; 11] =
        ["said", "heard", "told", "shelf", "crumbs", "beat", "door", "standing", "kin", "twins", "asks"];
    let mut found = Vec::new();
    for folder in source_folders() {
        for (path, lines) in sources(&folder) {
            for (at, line) in code(&lines) {
                for word in identifiers(&line) {
                    if parts(word).iter().any(|part| BANNED.contains(&part.as_str())) {
                        found.push(format!("{}:{at}: {word}", path.display()));
                    }
                }
            }
        }
    }
    assert!(found.is_empty(), "see the glossary in CONTRIBUTING.md:\n{}", found.join("\n"));
}

#[test]
fn no_two_public_types_of_a_crate_have_one_name() {
    let mut found = Vec::new();
    for folder in source_folders() {
        let mut seen: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
        for (path, lines) in sources(&folder) {
            for (at, line) in code(&lines) {
                let line = line.trim_start();
                let item = ["pub struct ", "pub enum ", "pub trait ", "pub type ", "pub union "]
                    .iter()
                    .find_map(|item| line.strip_prefix(item));
                let Some(name) = item.and_then(|item| identifiers(item).next()) else { continue };
                // An associated type belongs to its impl.
                let here = format!("{}:{at}", path.display());
                if let Some(first) = seen.insert(name.to_owned(), here.clone()) {
                    found.push(format!("`{name}`: {first} and {here}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "two public types of one name:\n{}", found.join("\n"));
}

#[test]
fn functions_fit_on_a_screen_or_two() {
    const LONGEST: usize = 120;
    const LONG: usize = 70;
    let mut lengths = Vec::new();
    for folder in source_folders() {
        for (path, lines) in sources(&folder) {
            let mut open: Option<(usize, usize)> = None; // Where it begins, and how far it is indented.
            for (at, line) in code(&lines) {
                let indent = line.len() - line.trim_start().len();
                let is_function =
                    identifiers(&line).any(|word| word == "fn") && !line.trim_end().ends_with(';');
                match open {
                    None if is_function => open = Some((at, indent)),
                    Some((from, depth)) if indent == depth && line.trim() == "}" => {
                        lengths.push((at - from + 1, format!("{}:{from}", path.display())));
                        open = None;
                    }
                    Some((from, depth)) if at == from && line.trim_end().ends_with('}') => {
                        let _ = depth;
                        open = None;
                    }
                    _ => {}
                }
            }
        }
    }
    lengths.sort();
    let long: Vec<String> = lengths
        .iter()
        .filter(|(lines, _)| *lines > LONGEST)
        .map(|(lines, at)| format!("{at}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "functions of more than {LONGEST} lines:\n{}", long.join("\n"));
    let p99 = lengths[lengths.len() * 99 / 100].0;
    assert!(p99 <= LONG, "one function in a hundred has {p99} lines or more; at most {LONG}");
}

#[test]
fn comments_have_at_most_a_hundred_columns() {
    let mut found = Vec::new();
    for folder in source_folders() {
        for (path, lines) in sources(&folder) {
            for (at, line) in lines {
                let is_table = line.trim_start().trim_start_matches(['/', '!', ' ']).starts_with('|');
                if line.trim_start().starts_with("//") && line.chars().count() > 100 && !is_table {
                    found.push(format!("{}:{at}", path.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{} comment lines are too long:\n{}", found.len(), found.join("\n"));
}

/// A module, as a path below its crate; the crate itself is empty.
type Module = Vec<String>;

/// Lines and their numbers.
type Lines = Vec<(usize, String)>;

/// The module of a file.
fn module_of(folder: &Path, file: &Path) -> Vec<String> {
    let below = file.strip_prefix(folder).expect("it lies in the folder").with_extension("");
    let mut parts: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// The modules that a module uses, without those above and below it: see [`FAMILIES`].
fn uses(module: &[String], code: &[(usize, String)], modules: &[Module]) -> Vec<Module> {
    let mut used = named(module, code, modules);
    used.retain(|other| !other.starts_with(module) && !module.starts_with(other));
    used
}

/// The modules that a module names by paths from the crate, or from the module above it.
fn named(module: &[String], code: &[(usize, String)], modules: &[Module]) -> Vec<Module> {
    let text: String = code.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join(" ");
    let mut used = Vec::new();
    for (root, marker) in [(&[][..], "crate::"), (&module[..module.len().saturating_sub(1)], "super::")] {
        for (at, _) in text.match_indices(marker) {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let path =
                text[at + marker.len()..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c));
            let path: String = path.collect();
            let mut names: Vec<String> = path.split("::").map(str::to_owned).collect();
            if names.last().is_some_and(String::is_empty) {
                // A list of names in braces: each may be a module.
                names.pop();
                let list = text[at + marker.len() + path.len()..].strip_prefix('{').unwrap_or_default();
                let list = list.split('}').next().unwrap_or_default();
                for name in list.split(',').filter_map(|name| identifiers(name).next()) {
                    let whole = [root, &names, &[name.to_owned()][..]].concat();
                    used.extend(nearest(&whole, modules));
                }
                continue;
            }
            used.extend(nearest(&[root, &names].concat(), modules));
        }
    }
    used.retain(|other| other != module);
    used.sort();
    used.dedup();
    used
}

/// The deepest module on a path.
fn nearest(path: &[String], modules: &[Vec<String>]) -> Option<Vec<String>> {
    (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|path| modules.contains(path))
}

#[test]
fn the_modules_of_a_crate_form_layers() {
    let mut found = Vec::new();
    for folder in source_folders() {
        let files = files_of(&folder);
        let modules: Vec<Vec<String>> = files.iter().map(|(module, _)| module.clone()).collect();
        let mut left: std::collections::BTreeMap<Vec<String>, Vec<Vec<String>>> = files
            .iter()
            .filter(|(module, _)| !module.is_empty())
            .map(|(module, code)| (module.clone(), uses(module, code, &modules)))
            .collect();
        // Takes away what uses nothing that is left; a circle stays.
        loop {
            let free: Vec<Vec<String>> = left
                .iter()
                .filter(|(_, used)| used.iter().all(|other| !left.contains_key(other)))
                .map(|(module, _)| module.clone())
                .collect();
            if free.is_empty() {
                break;
            }
            free.iter().for_each(|module| drop(left.remove(module)));
        }
        // What only uses a circle is not on it.
        loop {
            let above: Vec<Vec<String>> = left
                .keys()
                .filter(|module| !left.values().any(|used| used.contains(module)))
                .cloned()
                .collect();
            if above.is_empty() {
                break;
            }
            above.iter().for_each(|module| drop(left.remove(module)));
        }
        for (module, used) in &left {
            let used: Vec<String> =
                used.iter().filter(|other| left.contains_key(*other)).map(|other| other.join("::")).collect();
            found.push(format!("{folder}: {} uses {}", module.join("::"), used.join(", ")));
        }
    }
    assert!(found.is_empty(), "modules that use each other:\n{}", found.join("\n"));
}

/// The files of a crate: the module of each, and its code.
fn files_of(folder: &str) -> Vec<(Module, Lines)> {
    let root = root().join(folder);
    let files = sources(folder).into_iter();
    files.map(|(path, lines)| (module_of(&root, &path), code(&lines))).collect()
}

/// Whether code names something in a module below its own, by a path that begins there.
fn names_child(code: &[(usize, String)], child: &str) -> bool {
    code.iter().any(|(_, line)| {
        line.match_indices(&format!("{child}::")).any(|(at, _)| {
            let before = line[..at].strip_suffix("self::").unwrap_or(&line[..at]);
            !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
        })
    })
}

/// Modules whose children use what they define, while they use or export the children: the source
/// folder of the crate, the module, and why. The list only gets shorter.
const FAMILIES: [(&str, &str, &str); 8] = [
    ("operators/src", "credibility::copy_detection", "the file holds the state that the operator drives"),
    ("operators/src", "credibility::drift", "the file holds the measurements that each statistic reads"),
    ("operators/src", "credibility::quorum", "the file holds the state that the operator drives"),
    ("sinks/src", "archive", "the file holds the list of ranges that every command reads"),
    ("sinks/src", "commits", "the file holds the chain of commits that the sweep walks"),
    ("dataflows/src", "node", "the file holds the traits that contexts hand to kinds"),
    ("dataflows/src", "plan", "the file holds the plan that its parts make"),
    ("dataflows/src", "serve", "the file holds the state that live reads answer from"),
];

#[test]
fn a_module_and_the_one_above_it_do_not_use_each_other() {
    let mut found: std::collections::BTreeMap<(String, String), Vec<String>> =
        std::collections::BTreeMap::new();
    for folder in source_folders() {
        let files = files_of(&folder);
        let modules: Vec<Module> = files.iter().map(|(module, _)| module.clone()).collect();
        for (module, code) in files.iter().filter(|(module, _)| module.len() > 1) {
            let (child, above) = module.split_last().expect("it is not empty");
            let Some((_, above_code)) = files.iter().find(|(other, _)| other == above) else { continue };
            let uses_above = named(module, code, &modules).iter().any(|other| other == above);
            let is_used =
                names_child(above_code, child) || named(above, above_code, &modules).contains(module);
            if uses_above && is_used {
                found.entry((folder.clone(), above.join("::"))).or_default().push(child.clone());
            }
        }
    }
    for (folder, module, _) in FAMILIES {
        let is_needed = found.remove(&(folder.to_owned(), module.to_owned())).is_some();
        assert!(is_needed, "{folder}: take {module} off the list of exceptions");
    }
    let found: Vec<String> = found
        .into_iter()
        .map(|((folder, module), children)| format!("{folder}: {module} and {}", children.join(", ")))
        .collect();
    assert!(found.is_empty(), "modules that use each other:\n{}", found.join("\n"));
}

#[test]
fn nodes_of_shipped_topologies_have_plain_names() {
    for folder in ["dataflows", "tests/topologies", "examples/transfers", "benches/topologies"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for node in text.split("[[node]]").skip(1) {
                let name = node.lines().find_map(|line| line.strip_prefix("name = \"")?.split('"').next());
                let name = name.unwrap_or_default();
                let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase())
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
                assert!(is_plain, "{}: node `{name}`", path.display());
            }
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
