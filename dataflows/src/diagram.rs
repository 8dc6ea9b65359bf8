//! Draws a topology as a diagram: Mermaid, DOT or SVG.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::node::Role;
use crate::node::plan_context::node_of_input;
use crate::topology::{Node, Topology};

/// The format in which a topology is drawn as a diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiagramFormat {
    /// Mermaid, for Markdown.
    Mermaid,
    /// DOT, for Graphviz.
    Dot,
    /// SVG, which every browser shows.
    Svg,
}

/// The edges of a topology: from, to, and whether it is a look-up rather than a flow of rows.
fn edges(topology: &Topology) -> Vec<(&str, &str, bool)> {
    let mut edges = Vec::new();
    for node in &topology.nodes {
        for input in &node.inputs {
            edges.push((node_of_input(&input.value), node.name.as_str(), false));
        }
        for input in node.spec.iter().flat_map(|spec| spec.inputs()) {
            let from = node_of_input(&input.node.value);
            if !edges.contains(&(from, node.name.as_str(), false))
                && !edges.contains(&(from, node.name.as_str(), true))
            {
                edges.push((from, node.name.as_str(), true));
            }
        }
    }
    edges
}

/// Draws a topology as a diagram.
pub fn draw(topology: &Topology, format: DiagramFormat) -> String {
    match format {
        DiagramFormat::Mermaid => mermaid(topology),
        DiagramFormat::Dot => dot(topology),
        DiagramFormat::Svg => svg(topology),
    }
}

fn mermaid(topology: &Topology) -> String {
    let mut out = String::from("flowchart LR\n");
    for node in &topology.nodes {
        let (open, close) = match node.role() {
            Some(Role::Source) => ("([", "])"),
            Some(Role::Gate) => ("{{", "}}"),
            Some(Role::Sink) => ("[(", ")]"),
            _ => ("[", "]"),
        };
        let _ = writeln!(
            out,
            "  {}{open}\"{}<br/><small>{}</small>\"{close}",
            node.name,
            node.name,
            node.kind_name()
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
        let _ = writeln!(out, "  {:?} [label=\"{}\\n{}\"];", node.name, node.name, node.kind_name());
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
    // A node is drawn one column right of the rightmost node that it reads.
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
    let mut position: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (column, nodes) in &rows {
        let free = (tallest - nodes.len()) * (BOX_HEIGHT + GAP_Y) / 2;
        for (row, node) in nodes.iter().enumerate() {
            let at = (MARGIN + column * (BOX_WIDTH + GAP_X), MARGIN + free + row * (BOX_HEIGHT + GAP_Y));
            position.insert(&node.name, at);
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
        let (Some((x1, y1)), Some((x2, y2))) = (position.get(from), position.get(to)) else { continue };
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
        let (x, y) = position[node.name.as_str()];
        let class = match node.role() {
            Some(Role::Source) => "box source",
            Some(Role::Gate) => "box gate",
            Some(Role::Sink) => "box sink",
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
            node.kind_name()
        );
    }
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
