//! The declaration of a setting: its type, default, effect and meaning.

/// The effect of a setting of a node: whether it can change an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It decides rows or their order, so the plan digest covers it.
    Answer,
    /// It says where records come from and where results go, or how large something is. The same
    /// facts give the same rows whatever its value, so the plan digest leaves it out.
    Wiring,
}

/// The default of a setting of a node: what it is when a topology does not write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// It must be written.
    Required,
    /// Absent: the second text says what that means.
    Absent(&'static str),
    /// This TOML value.
    Value(&'static str),
}

/// The declaration of one setting of a kind of node.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key. Keys inside tables are joined with `.`; `*` is a name that the topology chooses.
    pub key: &'static str,
    /// The type of its value, in words.
    pub value: &'static str,
    /// What it is when it is not written.
    pub default: Default,
    /// Whether it can change an answer.
    pub effect: Effect,
    /// What it means, in one sentence.
    pub about: &'static str,
    /// Two different TOML values of it, for the tests of the plan digest.
    pub samples: [&'static str; 2],
}

impl Setting {
    /// A setting that the plan digest covers.
    pub const fn answer(
        key: &'static str,
        value: &'static str,
        default: Default,
        about: &'static str,
        samples: [&'static str; 2],
    ) -> Setting {
        Setting { key, value, default, effect: Effect::Answer, about, samples }
    }

    /// A setting that the plan digest leaves out.
    pub const fn wiring(
        key: &'static str,
        value: &'static str,
        default: Default,
        about: &'static str,
        samples: [&'static str; 2],
    ) -> Setting {
        Setting { key, value, default, effect: Effect::Wiring, about, samples }
    }

    /// Whether a resolved setting of this path is one of those that `self` declares.
    pub fn covers(&self, path: &[&str]) -> bool {
        let mut own = self.key.split('.');
        let begins = path.iter().all(|part| own.next().is_some_and(|own| own == "*" || own == *part));
        begins && own.next().is_none()
    }
}

/// The settings of a node in their resolved form, without those that change no answer.
///
/// `resolved` is what [`crate::config::Section::resolved`] gives.
pub fn answers_of(resolved: serde_json::Value, settings: &[Setting]) -> serde_json::Value {
    let wiring: Vec<&Setting> = settings.iter().filter(|s| s.effect == Effect::Wiring).collect();
    without(resolved, &wiring, &mut Vec::new())
}

fn without(value: serde_json::Value, wiring: &[&Setting], path: &mut Vec<String>) -> serde_json::Value {
    use serde_json::Value;
    let is_wiring = |path: &[String]| {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        wiring.iter().any(|setting| setting.covers(&path))
    };
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(key, value)| {
                path.push(key.clone());
                let kept = (!is_wiring(path)).then(|| (key, without(value, wiring, path)));
                path.pop();
                kept
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => {
            let kept = items.into_iter().filter_map(|item| match item {
                Value::Array(mut pair) if pair.len() == 2 && pair[0].is_string() => {
                    let value = pair.pop().expect("it has two");
                    let name = pair.pop().expect("it has two");
                    path.push(name.as_str().unwrap_or_default().to_owned());
                    let kept =
                        (!is_wiring(path)).then(|| Value::Array(vec![name, without(value, wiring, path)]));
                    path.pop();
                    kept
                }
                other => Some(other),
            });
            Value::Array(kept.collect())
        }
        other => other,
    }
}
