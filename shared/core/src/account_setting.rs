//! Facts about a setting that an account has in a Region, and how one is judged
//! that protects more or less. AWS has no ARN, no tags and no owner for it but the
//! account.
//!
//! A setting is restored to exactly what it was before it was weakened, never to
//! something better: what an account never had may be what its workloads need.
//! Only the policy (`wanted`) asks for more. Deliberately not here: what the
//! settings are (`controls`).

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::{ByHand, Control, IsSpared, Subject};
use crate::finding::{Finding, Verdict};
use crate::info::ControlInfo;
use crate::plan::{Change, Exposure, ItemId, State};
use crate::reason::Reason;
use crate::rules::AccountExemption;
use crate::security_group::Tags;
use crate::words::{Severity, digest};

static NO_TAGS: Tags = Tags::new();

/// A setting as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSetting<S> {
    /// An ARN of our own making, which ends with the Region.
    pub arn: String,
    /// The Region: its id among resources.
    pub region: String,
    /// The account.
    pub account: String,
    /// Its name, for people.
    pub name: String,
    /// Its state.
    pub state: S,
    /// Whether a declarative policy of the organisation sets it. The account
    /// cannot change it then.
    pub by_declarative_policy: bool,
}

/// The state of a setting that protects more or less.
pub trait Graded: State {
    /// How much it protects: 0 is nothing, and wrong in itself.
    fn grade(&self) -> u8;

    /// What is wrong with a state that the policy wants: field and problem.
    ///
    /// # Errors
    /// It cannot be set.
    fn check(&self) -> Result<(), (&'static str, String)> {
        Ok(())
    }
}

/// The settings of a control of such a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    default,
    bound(deserialize = "S: Deserialize<'de>")
)]
pub struct Settings<S> {
    /// What the setting should be at least. Without it, it is restored to what it
    /// was before it was weakened, and a setting that was never any better is
    /// reported and left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<S>,
    /// The account is exempt: an account has no tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exemption: Option<AccountExemption>,
}

impl<S> Default for Settings<S> {
    fn default() -> Self {
        Self {
            wanted: None,
            exemption: None,
        }
    }
}

impl<S: Graded> Settings<S> {
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        if self
            .wanted
            .as_ref()
            .is_some_and(|wanted| wanted.grade() == 0)
        {
            let problem = "it protects nothing: leave `wanted` out, or name a value that does";
            return Err(("wanted".to_owned(), problem.to_owned()));
        }
        if let Some(Err((field, problem))) = self.wanted.as_ref().map(Graded::check) {
            return Err((format!("wanted.{field}"), problem));
        }
        check_exemption(self.exemption.as_ref())
    }
}

/// Somebody has to answer for an exemption.
pub(crate) fn check_exemption(
    exemption: Option<&AccountExemption>,
) -> Result<(), (String, String)> {
    match exemption {
        Some(exemption) if exemption.owner.trim().is_empty() => Err((
            "exemption.owner".to_owned(),
            "it is empty: name who answers for it".to_owned(),
        )),
        _ => Ok(()),
    }
}

impl<S> AccountSetting<S> {
    /// A setting by its name, for example `encryption-by-default`.
    #[must_use]
    pub fn new(setting: &str, partition: &str, region: &str, account: &str, state: S) -> Self {
        Self {
            arn: format!("arn:{partition}:ec2:{region}:{account}:{setting}/{region}"),
            region: region.to_owned(),
            account: account.to_owned(),
            name: format!("{} in {region}", setting.replace('-', " ")),
            state,
            by_declarative_policy: false,
        }
    }

    /// The setting as the resource of a control.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            id: &self.region,
            arn: &self.arn,
            name: &self.name,
            owner: &self.account,
            tags: &NO_TAGS,
            inherited: None,
        }
    }
}

impl<S: Graded> AccountSetting<S> {
    /// A setting that protects less than the policy wants, or than it did before,
    /// is set to that. One that protects nothing and never did is reported.
    #[must_use]
    pub fn judge(
        &self,
        item: &str,
        settings: &Settings<S>,
        former: Option<&S>,
        spared: &IsSpared<'_>,
    ) -> Verdict<S> {
        let better = |than: &&S| than.grade() > self.state.grade();
        let target = settings.wanted.as_ref().or(former).filter(better);
        if target.is_none() && self.state.grade() > 0 {
            return Verdict::Compliant;
        }
        let left = match target {
            _ if self.by_declarative_policy => Some(Reason::DeclarativePolicy),
            None => Some(Reason::NeverSet),
            Some(_) => None,
        };
        let set = |to: &S| Change::set(item, self.state.clone(), to.clone());
        let changes = target.filter(|_| left.is_none() && !spared(item)).map(set);
        Verdict::Violates(Finding {
            severity: match left {
                Some(Reason::NeverSet) => Severity::Low,
                _ => Severity::Medium,
            },
            severities: BTreeMap::new(),
            exposures: vec![Exposure::of(item, self.state.clone())],
            changes: changes.into_iter().collect(),
            notes: Vec::new(),
            left,
        })
    }

    /// The state to keep: the last that protected as much as the one that is kept.
    #[must_use]
    pub fn keeps(&self, former: Option<&S>) -> Option<S> {
        let worth = self.state.grade() > 0 && former != Some(&self.state);
        let as_good = former.is_none_or(|former| former.grade() <= self.state.grade());
        (worth && as_good).then(|| self.state.clone())
    }
}

/// A control of a setting that protects more or less: all that differs from one to
/// the next.
pub trait GradedSetting: Send + Sync + 'static {
    /// What is fixed about it.
    const INFO: ControlInfo;
    /// The setting's state.
    type State: Graded;

    /// [`Control::SHOWN_WITHIN`].
    const SHOWN_WITHIN: Duration = Duration::ZERO;

    /// The state in one line for people.
    fn line(state: &Self::State) -> String;

    /// The AWS CLI commands that set it to this state.
    fn commands(region: &str, to: &Self::State) -> Vec<String>;
}

impl<C: GradedSetting> Control for C {
    const INFO: ControlInfo = <C as GradedSetting>::INFO;
    const SHOWN_WITHIN: Duration = <C as GradedSetting>::SHOWN_WITHIN;

    type Settings = Settings<C::State>;
    type Facts = AccountSetting<C::State>;
    type State = C::State;

    fn subject(setting: &Self::Facts) -> Subject<'_> {
        setting.subject()
    }

    /// The one item is named like the control.
    fn items(setting: &Self::Facts) -> BTreeMap<ItemId, C::State> {
        BTreeMap::from([(C::INFO.id.name().to_owned(), setting.state.clone())])
    }

    fn judge(
        setting: &Self::Facts,
        settings: &Self::Settings,
        former: Option<&C::State>,
        spared: &IsSpared<'_>,
    ) -> Verdict<C::State> {
        setting.judge(C::INFO.id.name(), settings, former, spared)
    }

    fn keeps(setting: &Self::Facts, former: Option<&C::State>) -> Option<C::State> {
        setting.keeps(former)
    }

    fn line(_item: &str, state: &C::State) -> String {
        C::line(state)
    }

    fn remaining(exposure: &Exposure<C::State>) -> String {
        format!("still {}", C::line(&exposure.state))
    }

    fn name(_item: &str) -> String {
        "the setting".to_owned()
    }

    fn commands(back: &ByHand<'_, C::State>) -> Vec<String> {
        let to = back.to.as_ref();
        to.map_or_else(Vec::new, |to| C::commands(back.region, to))
    }

    fn bars_undo(setting: &Self::Facts) -> Option<String> {
        setting.by_declarative_policy.then(|| {
            "a declarative policy of the organisation sets it, so the account cannot change it: change it in the organisation".to_owned()
        })
    }

    fn exemption(settings: &Self::Settings) -> Option<&AccountExemption> {
        settings.exemption.as_ref()
    }

    /// With the grade: the baseline spares a setting as weak as it noted it, and
    /// nothing weaker.
    fn fingerprint(region: &str, item: &str, state: &C::State) -> String {
        let grade = state.grade().to_string();
        digest([C::INFO.id.name(), region, item, &grade])
    }
}
