//! A lattice of claims as a source is written.

use std::path::Path;
use std::rc::Rc;

use tidegate_facts::names::choices;
use tidegate_sources::{LatticeConfig, LatticeStream};

use super::{Place, read_start};
use crate::settings::{Faults, Section};

/// The stream of a name; `None` for a name that is no stream of a lattice.
pub fn stream_of(name: &str) -> Option<LatticeStream> {
    Some(match name {
        "claims" => LatticeStream::Claims,
        "sources" => LatticeStream::Sources,
        "evidence" => LatticeStream::Evidence,
        "beacons" => LatticeStream::Beacons,
        _ => return None,
    })
}

/// Reads `world` of a source: its settings, or whose it shares.
pub fn read_lattice(
    section: &Section<'_>,
    stream: LatticeStream,
    paths: &[(String, &Section<'_>)],
    faults: &Rc<Faults>,
) -> Place {
    let Some(world) = section.section("world") else {
        if !section.has("world") {
            section.missing("world", "a table of its settings, or { same_as = .. }");
        }
        return Place::Lattice(LatticeConfig::default(), stream);
    };
    let Some(other) = world.text("same_as") else {
        return Place::Lattice(read_config(&world, faults), stream);
    };
    world.finish();
    let twin =
        paths.iter().find(|(name, _)| *name == other.value).and_then(|(_, twin)| twin.section("world"));
    let config = match twin {
        // The faults of the twin's own settings are found where they stand.
        Some(twin) => read_config(&twin, &Faults::new(Path::new(""), "")),
        None => {
            if !other.is_absent() {
                let known: Vec<&str> = paths.iter().map(|(name, _)| name.as_str()).collect();
                let mend = choices(&other.value, &known);
                faults.add(other.line, format!("no node `{}` has a world to share; {mend}", other.value));
            }
            LatticeConfig::default()
        }
    };
    Place::Lattice(config, stream)
}

fn read_config(world: &Section<'_>, faults: &Rc<Faults>) -> LatticeConfig {
    let mut config = LatticeConfig::default();
    let small = |key, slot: &mut u32| {
        if let Some(count) = world.count(key, 1) {
            *slot = u32::try_from(count).unwrap_or(u32::MAX);
        }
    };
    small("percent", &mut config.percent);
    small("hours", &mut config.hours);
    config.seed = world.count("seed", 0).unwrap_or(config.seed);
    config.incidents = world.flag("incidents").unwrap_or(config.incidents);
    config.start = read_start(world, faults).unwrap_or(config.start);
    world.finish();
    config
}
