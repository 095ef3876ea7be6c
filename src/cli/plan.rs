//! What `hsup plan` says: what a control file would change, dyno by dyno. A pure function of the answer.

use std::fmt::Write as _;

use super::ps_table::{NOTHING, align};
use crate::control::wire::{PlanResponse, PlannedConfig};

/// The plan for people.
pub(super) fn plan(plan: &PlanResponse) -> String {
    let mut text = match &plan.live {
        Some(live) if plan.rolled_back => {
            format!("the release of the file was rolled back: release {} would run on in place of it", live)
        }
        Some(live) if *live == plan.release => format!("release {live}, which is live"),
        Some(live) => format!("release {} in place of {live}", plan.release),
        None => format!("release {}, the first one", plan.release),
    };
    text.push_str("; nothing has been changed\n");
    let vars = config_vars(&plan.config);
    if !vars.is_empty() {
        _ = writeln!(text, "config vars: {vars}");
    }
    if plan.release_phase {
        text.push_str("release phase: its command would be run first\n");
    }
    if plan.drain {
        text.push_str("log lines would go elsewhere\n");
    }
    if plan.dynos.is_empty() {
        text.push_str("no dynos\n");
        return text;
    }
    let mut rows = vec![["DYNO", "CHANGE", "WHY"].map(str::to_owned)];
    rows.extend(plan.dynos.iter().map(|dyno| {
        let why = if dyno.why.is_empty() { NOTHING.to_owned() } else { dyno.why.join(", ") };
        [dyno.name.to_string(), dyno.change.clone(), why]
    }));
    text + &align(&rows)
}

/// `+ADDED ~CHANGED -REMOVED`.
fn config_vars(config: &PlannedConfig) -> String {
    let PlannedConfig { added, changed, removed } = config;
    let all = [('+', added), ('~', changed), ('-', removed)];
    let signed = all.iter().flat_map(|(sign, names)| names.iter().map(move |name| format!("{sign}{name}")));
    signed.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(more: serde_json::Value) -> String {
        let mut response = json!({
            "Release": "v4", "Live": "v3", "RolledBack": false, "ReleasePhase": false, "Drain": false,
            "Config": {"Added": [], "Changed": [], "Removed": []}, "Dynos": [],
        });
        response.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        plan(&serde_json::from_value(response).unwrap())
    }

    #[test]
    fn a_plan_says_what_becomes_of_each_dyno_and_why() {
        let text = shown(json!({
            "ReleasePhase": true,
            "Config": {"Added": ["NEW"], "Changed": ["GREETING"], "Removed": ["OLD"]},
            "Dynos": [
                {"Name": "web.1", "Change": "replaced", "Why": ["code", "config vars"]},
                {"Name": "worker.1", "Change": "unchanged", "Why": []},
            ],
        }));
        let expected = "\
release v4 in place of v3; nothing has been changed
config vars: +NEW ~GREETING -OLD
release phase: its command would be run first
DYNO      CHANGE     WHY
web.1     replaced   code, config vars
worker.1  unchanged  -
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_first_the_same_and_one_that_was_rolled_back_are_told_apart() {
        assert_eq!(
            shown(json!({"Live": null})),
            "release v4, the first one; nothing has been changed\nno dynos\n"
        );
        assert!(shown(json!({"Live": "v4"})).starts_with("release v4, which is live; "));
        let text = shown(json!({"Live": "v3", "Release": "v3", "RolledBack": true}));
        assert!(
            text.starts_with("the release of the file was rolled back: release v3 would run on"),
            "{text}"
        );
    }
}
