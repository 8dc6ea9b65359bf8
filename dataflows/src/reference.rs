//! The reference page of a kind of node, made from the registry.

use std::fmt::Write;

use crate::node::settings::Default;
use crate::node::{Accepts, Effect, NodeKind, Role};

/// The reference page of a kind of node, as Markdown.
pub fn page(kind: &dyn NodeKind) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "<!-- Made from the registry of node kinds: dataflows/src/nodes. -->\n");
    let _ = writeln!(out, "# `{}`\n\n{}\n", kind.name(), kind.about());
    let role = match kind.role() {
        Role::Source => "A source: only the gate reads it.",
        Role::Gate => "The gate: it reads the sources, and every other node reads it.",
        Role::Operator => "An operator.",
        Role::Sink => "A sink: no node reads it.",
    };
    let accepts = match (kind.role(), kind.accepts()) {
        (Role::Source | Role::Gate, _) => "",
        (_, Accepts::Facts) => " It accepts facts.",
        (_, Accepts::Changelog) => " It accepts a changelog.",
        (_, Accepts::Either) => " It accepts facts or a changelog.",
    };
    let inputs = match (kind.role(), kind.reads_several()) {
        (Role::Source, _) => "",
        (_, true) => " Its inputs are the nodes in the list `inputs`.",
        (_, false) => " Its input is the node in `input`.",
    };
    let _ = writeln!(out, "{role}{inputs}{accepts}\n");
    let _ = writeln!(out, "    [[node]]");
    for line in kind.example().lines() {
        // Tables inside a node are written under its name in a topology.
        let line = line.strip_prefix('[').map_or(line.to_owned(), |rest| format!("[node.{rest}"));
        let _ = writeln!(out, "{}", if line.is_empty() { String::new() } else { format!("    {line}") });
    }
    if !kind.settings().is_empty() {
        let _ = writeln!(out, "\n## Settings\n");
        let _ = writeln!(out, "| setting | type | default | effect | meaning |\n|---|---|---|---|---|");
        for setting in kind.settings() {
            let default = match setting.default {
                Default::Required => "required".to_owned(),
                Default::Absent(meaning) => format!("absent: {meaning}"),
                Default::Value(value) => format!("`{value}`"),
            };
            let effect = match setting.effect {
                Effect::Answer => "answer",
                Effect::Wiring => "wiring",
            };
            let _ = writeln!(
                out,
                "| `{}` | {} | {default} | {effect} | {} |",
                setting.key, setting.value, setting.about
            );
        }
        let _ = writeln!(
            out,
            "\nAn *answer* setting can change rows, so the plan digest covers it. A *wiring* setting says where records, \
             files and results are; the same facts give the same rows whatever its value, so the digest leaves it out."
        );
    }
    if !kind.ports().is_empty() {
        let _ = writeln!(out, "\n## Ports\n\n| read as | rows |\n|---|---|");
        for port in kind.ports() {
            let _ = writeln!(out, "| `NODE.{}` | {} |", port.name, port.about);
        }
    }
    if !kind.renamed().is_empty() {
        let _ = writeln!(out, "\n## Renamed settings\n\n| before | now |\n|---|---|");
        for (before, now) in kind.renamed() {
            let _ = writeln!(out, "| `{before}` | `{now}` |");
        }
    }
    let _ = writeln!(
        out,
        "\nVersion {} of the kind; it counts up when the same settings give other rows.",
        kind.version()
    );
    out
}

/// The index of the reference: the page that lists every kind of node.
pub fn index(kinds: &[&dyn NodeKind]) -> String {
    let mut out = String::from(
        "<!-- Made from the registry of node kinds: dataflows/src/nodes. -->\n\n# Node kinds\n\n| kind | role | what it does |\n|---|---|---|\n",
    );
    for kind in kinds {
        let role = match kind.role() {
            Role::Source => "source",
            Role::Gate => "gate",
            Role::Operator => "operator",
            Role::Sink => "sink",
        };
        let first = kind.about().split_inclusive(". ").next().unwrap_or_default().trim_end();
        let _ = writeln!(out, "| [`{}`]({}.md) | {role} | {first} |", kind.name(), kind.name());
    }
    out
}
