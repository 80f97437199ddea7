//! What there is to know about a control before it acts: `backstop explain`, and
//! the README's table of controls, which a test compares with it.
//!
//! Deliberately not here: what is fixed about a control (`info`), and how it is
//! printed (the command line).

use serde::Serialize;

use crate::controls::{self, STEPWISE};
use crate::exemption::OPT_OUT_TAG;
use crate::info::{Guide, OptOutOn, Reversal};
use crate::policy_fields::{Field, Fields};
use crate::words::ControlId;

/// What there is to know about a control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The control.
    pub control: ControlId,
    /// What it finds.
    pub finds: &'static str,
    /// Why that matters.
    pub why: &'static str,
    /// The Security Hub controls that find the same.
    pub security_hub: Vec<&'static str>,
    /// The function that remediates it.
    pub function: &'static str,
    /// What it changes.
    pub changes: &'static str,
    /// What it never does, one sentence each.
    pub never: Vec<&'static str>,
    /// Its settings in the policy.
    pub settings: Vec<Field>,
    /// The mode that it has where the policy names none.
    pub default_mode: &'static str,
    /// How to opt out, one sentence each.
    pub opt_out: Vec<String>,
    /// How to undo a change, one sentence each.
    pub undo: Vec<String>,
}

/// Explains a control. `None`: nothing is known about it.
#[must_use]
pub fn explain(control: ControlId) -> Option<Explanation> {
    let about = About::of(control)?;
    let Guide {
        why,
        changes,
        never,
    } = about.guide;
    let fields = Fields::new();
    let mut settings = fields.under(&["controls", control.name()]);
    if ControlId::PATCHING.contains(&control) {
        settings.extend(fields.under(&["patching"]));
    }
    Some(Explanation {
        control,
        finds: control.title(),
        why,
        security_hub: about.hub.to_vec(),
        function: about.function,
        changes,
        never: never.to_vec(),
        settings,
        default_mode: match about.enforce_by_name_only {
            true => "notify, whatever the stack's Mode is",
            false => "the stack's Mode",
        },
        opt_out: about.opt_out(),
        undo: about.undo(),
    })
}

/// What is fixed about a control of either kind.
struct About {
    control: ControlId,
    function: &'static str,
    hub: &'static [&'static str],
    guide: Guide,
    reversal: Reversal,
    /// What may carry its opt-out tag; none: an exemption stands in the policy.
    tagged: Option<&'static str>,
    /// What an undo opts out: `rule`.
    opts_out: &'static str,
    enforce_by_name_only: bool,
}

impl About {
    fn of(control: ControlId) -> Option<Self> {
        if let Some(of) = controls::of(control) {
            let info = of.info();
            return Some(Self {
                control,
                function: info.function,
                hub: info.hub,
                guide: info.guide,
                reversal: info.reversal,
                tagged: info.phrases.tagged.map(|tagged| tagged.any),
                opts_out: match info.opt_out_on {
                    OptOutOn::Item => info.phrases.item,
                    OptOutOn::Resource | OptOutOn::Policy => info.phrases.resource,
                },
                enforce_by_name_only: info.enforce_by_name_only,
            });
        }
        let info = STEPWISE.iter().find(|info| info.id == control)?;
        Some(Self {
            control,
            function: info.function,
            hub: info.hub,
            guide: info.guide,
            reversal: info.reversal,
            tagged: Some(info.tagged),
            opts_out: "volume",
            enforce_by_name_only: false,
        })
    }

    fn opt_out(&self) -> Vec<String> {
        let control = self.control;
        let mut ways = vec![match self.tagged {
            Some(tagged) => format!(
                "Tag {tagged} with the key `{OPT_OUT_TAG}` and the value `{control} until=YYYY-MM-DD owner=<team> reason=<why>` (`all` instead of `{control}`: every control)."
            ),
            None => format!(
                "An account has no tags: set `controls.{control}.settings.exemption` in the policy to {{\"until\": \"YYYY-MM-DD\", \"owner\": \"<team>\", \"reason\": \"<why>\"}}."
            ),
        }];
        ways.extend(
            control
                .honours()
                .map(|other| format!("An opt-out of `{other}` counts for `{control}` as well.")),
        );
        ways.push(format!(
            "To be notified only, set `controls.{control}.mode` in the policy to `notify`; `off` switches the control off."
        ));
        ways
    }

    fn undo(&self) -> Vec<String> {
        let command = "`backstop undo <entry> --reason <why>` restores what the entry changed (`backstop history` lists the entries).";
        let mut ways = match self.reversal {
            Reversal::No(why) => return vec![why.to_owned()],
            Reversal::Partly(lost) => vec![command.to_owned(), lost.to_owned()],
            Reversal::Yes => vec![command.to_owned()],
        };
        ways.push(match self.tagged {
            Some(_) => format!(
                "Each {} that it restores is opted out for 7 days (`--opt-out-days`), or it would be remediated again.",
                self.opts_out
            ),
            None => "The policy has to hold the exemption first, or it would be remediated again: `undo` refuses without it.".to_owned(),
        });
        ways
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_is_explained_in_every_part() {
        for control in ControlId::ALL {
            let explained = explain(*control).unwrap_or_else(|| panic!("{control}"));
            let Explanation {
                why,
                changes,
                never,
                opt_out,
                undo,
                ..
            } = &explained;
            let sentences = [*why, *changes].into_iter().chain(never.iter().copied());
            let ways = opt_out.iter().chain(undo).map(String::as_str);
            for sentence in sentences.chain(ways) {
                assert!(sentence.ends_with('.'), "{control}: {sentence}");
            }
            assert!(!never.is_empty() && !undo.is_empty(), "{control}");
            let own = format!("controls.{control}.budget.changes_per_hour");
            assert!(
                explained.settings.iter().any(|field| field.path == own),
                "{control}: {:?}",
                explained.settings
            );
            assert!(
                explained
                    .settings
                    .iter()
                    .all(|field| !field.about.is_empty()),
                "{control}: {:?}",
                explained.settings
            );
        }
    }

    #[test]
    fn a_setting_of_the_account_is_exempted_in_the_policy_and_everything_else_by_a_tag() {
        for control in ControlId::ALL {
            let opt_out = explain(*control).unwrap().opt_out.join(" ");
            let by_tag = opt_out.contains(OPT_OUT_TAG);
            assert_eq!(by_tag, !control.is_of_account(), "{opt_out}");
        }
        let other = explain(ControlId::DefaultSecurityGroup).unwrap();
        assert!(
            other
                .opt_out
                .join(" ")
                .contains("opt-out of `open-ingress`")
        );
    }
}
