//! A topology as a picture: Mermaid, DOT or SVG.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::topology::{Node, NodeKind, Place, TableFormat, Topology, node_of};

/// How a picture is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Picture {
    /// Mermaid, for Markdown.
    Mermaid,
    /// Graphviz.
    Dot,
    /// A drawing that any browser shows.
    Svg,
}

/// The kind of a node as its file names it.
pub fn kind_name(kind: &NodeKind) -> &'static str {
    match kind {
        NodeKind::Source(source) => match source.place {
            Place::Parquet(_) => "source.parquet",
            Place::Csv(_, _) => "source.csv",
            Place::Jsonl(_, _) => "source.jsonl",
            Place::World(_, _) | Place::Lattice(_, _) => "source.world",
        },
        NodeKind::Gate { .. } => "gate",
        NodeKind::Filter { .. } => "filter",
        NodeKind::Project { .. } => "project",
        NodeKind::Union => "union",
        NodeKind::Unknown => "unknown",
        NodeKind::Windows(_) => "windows",
        NodeKind::AsOf(_) => "as_of",
        NodeKind::Drift(_) => "drift",
        NodeKind::Credibility(_) => "credibility",
        NodeKind::Expire(_) => "expire",
        NodeKind::Quorum(_) => "quorum",
        NodeKind::Families(_) => "families",
        NodeKind::Entities(_) => "entities",
        NodeKind::Linkage(_) => "linkage",
        NodeKind::Decide { .. } => "decide",
        NodeKind::Seal { .. } => "seal",
        NodeKind::Table(table) => match table.format {
            TableFormat::Parquet => "sink.parquet",
            TableFormat::Jsonl => "sink.jsonl",
            TableFormat::Sealed => "sink.seal",
        },
    }
}

/// The edges of a topology: from, to, and whether it is a look-up rather than a flow of rows.
fn edges(topology: &Topology) -> Vec<(&str, &str, bool)> {
    let mut edges = Vec::new();
    for node in &topology.nodes {
        for input in &node.inputs {
            edges.push((node_of(&input.value), node.name.as_str(), false));
        }
        let looked_up: Vec<&str> = match &node.kind {
            NodeKind::Windows(windows) => {
                windows.groups.iter().filter_map(|g| Some(node_of(&g.over.as_ref()?.value))).collect()
            }
            NodeKind::AsOf(as_of) => vec![node_of(&as_of.timeline.value)],
            NodeKind::Drift(drift) => drift.over().map(|over| node_of(&over.value)).collect(),
            NodeKind::Credibility(credibility) => {
                credibility.over().map(|over| node_of(&over.value)).collect()
            }
            NodeKind::Quorum(quorum) => quorum.also_reads().map(|name| node_of(&name.value)).collect(),
            NodeKind::Entities(entities) => entities.also_reads().map(|name| node_of(&name.value)).collect(),
            _ => Vec::new(),
        };
        for from in looked_up {
            if !edges.contains(&(from, node.name.as_str(), false))
                && !edges.contains(&(from, node.name.as_str(), true))
            {
                edges.push((from, node.name.as_str(), true));
            }
        }
    }
    edges
}

/// The nodes whose rows a node takes or looks up, in the order of its file.
pub fn inputs_of(topology: &Topology, node: &str) -> Vec<String> {
    edges(topology).into_iter().filter(|(_, to, _)| *to == node).map(|(from, ..)| from.to_owned()).collect()
}

/// Draws a topology.
pub fn draw(topology: &Topology, picture: Picture) -> String {
    match picture {
        Picture::Mermaid => mermaid(topology),
        Picture::Dot => dot(topology),
        Picture::Svg => svg(topology),
    }
}

fn mermaid(topology: &Topology) -> String {
    let mut out = String::from("flowchart LR\n");
    for node in &topology.nodes {
        let (open, close) = match node.kind {
            NodeKind::Source(_) => ("([", "])"),
            NodeKind::Gate { .. } => ("{{", "}}"),
            NodeKind::Table(_) => ("[(", ")]"),
            _ => ("[", "]"),
        };
        let _ = writeln!(
            out,
            "  {}{open}\"{}<br/><small>{}</small>\"{close}",
            node.name,
            node.name,
            kind_name(&node.kind)
        );
    }
    for (from, to, looked_up) in edges(topology) {
        let _ = writeln!(out, "  {from} {} {to}", if looked_up { "-.->" } else { "-->" });
    }
    out
}

fn dot(topology: &Topology) -> String {
    let mut out = format!(
        "digraph {:?} {{\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n",
        topology.name
    );
    for node in &topology.nodes {
        let _ = writeln!(out, "  {:?} [label=\"{}\\n{}\"];", node.name, node.name, kind_name(&node.kind));
    }
    for (from, to, looked_up) in edges(topology) {
        let style = if looked_up { " [style=dashed]" } else { "" };
        let _ = writeln!(out, "  {from:?} -> {to:?}{style};");
    }
    out.push_str("}\n");
    out
}

const BOX_WIDTH: usize = 168;
const BOX_HEIGHT: usize = 46;
const GAP_X: usize = 56;
const GAP_Y: usize = 26;
const MARGIN: usize = 24;

fn svg(topology: &Topology) -> String {
    let edges = edges(topology);
    // A node stands one column right of the rightmost node it reads.
    let mut column: BTreeMap<&str, usize> = topology.nodes.iter().map(|n| (n.name.as_str(), 0)).collect();
    for _ in 0..topology.nodes.len() {
        for (from, to, _) in &edges {
            let after = column.get(from).map_or(0, |c| c + 1);
            if let Some(own) = column.get_mut(to) {
                *own = (*own).max(after);
            }
        }
    }
    let mut rows: BTreeMap<usize, Vec<&Node>> = BTreeMap::new();
    for node in &topology.nodes {
        rows.entry(column[node.name.as_str()]).or_default().push(node);
    }
    let tallest = rows.values().map(Vec::len).max().unwrap_or(0);
    let mut place: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (column, nodes) in &rows {
        let free = (tallest - nodes.len()) * (BOX_HEIGHT + GAP_Y) / 2;
        for (row, node) in nodes.iter().enumerate() {
            let at = (MARGIN + column * (BOX_WIDTH + GAP_X), MARGIN + free + row * (BOX_HEIGHT + GAP_Y));
            place.insert(&node.name, at);
        }
    }
    let width = 2 * MARGIN + rows.len() * (BOX_WIDTH + GAP_X) - GAP_X;
    let height = 2 * MARGIN + tallest * (BOX_HEIGHT + GAP_Y) - GAP_Y;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\">\n<title>{}</title>\n<style>\n\
         .box {{ fill: #f6f8fa; stroke: #57606a; }} .source {{ fill: #ddf4ff; }} .gate {{ fill: #fff8c5; }} \
         .sink {{ fill: #dafbe1; }}\n.name {{ font-size: 14px; fill: #1f2328; }} .kind {{ font-size: 11px; fill: #57606a; }}\n\
         .flow {{ fill: none; stroke: #57606a; stroke-width: 1.5; }} .look-up {{ stroke-dasharray: 4 4; }}\n</style>\n\
         <defs><marker id=\"to\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0 L8 4 L0 8 z\" fill=\"#57606a\"/></marker></defs>\n",
        escape(&topology.name)
    );
    for (from, to, looked_up) in &edges {
        let (Some((x1, y1)), Some((x2, y2))) = (place.get(from), place.get(to)) else { continue };
        let (x1, y1, y2) = (x1 + BOX_WIDTH, y1 + BOX_HEIGHT / 2, y2 + BOX_HEIGHT / 2);
        let middle = x1 + (x2.saturating_sub(x1)) / 2;
        let class = if *looked_up { "flow look-up" } else { "flow" };
        let _ = writeln!(
            out,
            "<path class=\"{class}\" marker-end=\"url(#to)\" d=\"M{x1} {y1} C{middle} {y1} {middle} {y2} {} {y2}\"/>",
            x2 - 2
        );
    }
    for node in &topology.nodes {
        let (x, y) = place[node.name.as_str()];
        let class = match node.kind {
            NodeKind::Source(_) => "box source",
            NodeKind::Gate { .. } => "box gate",
            NodeKind::Table(_) => "box sink",
            _ => "box",
        };
        let middle = x + BOX_WIDTH / 2;
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"7\"/>\
             <text class=\"name\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text class=\"kind\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            y + 20,
            escape(&node.name),
            y + 36,
            kind_name(&node.kind)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
