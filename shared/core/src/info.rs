//! What is fixed about a control, as data: triggers, messages, the command line
//! and the checks of template and corpus derive from it.
//!
//! Deliberately not here: what a control judges (`control`).

use crate::words::ControlId;

/// Whether an undo restores everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reversal {
    /// Everything is as it was before.
    Yes,
    /// Something stays lost: what, as a sentence for people.
    Partly(&'static str),
    /// Nothing can be put back: why, as a sentence for people.
    No(&'static str),
}

/// Where the opt-out of what an undo restores stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptOutOn {
    /// On each item.
    Item,
    /// On the resource.
    Resource,
    /// In the policy, as an exemption that a person writes: an account's settings
    /// carry no tags.
    Policy,
}

/// A call that CloudTrail records and that can lead to a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// Where the event's `detail` names the resource, in the order of trying; a path
    /// may lead through lists, and then there may be several. None: the resource is
    /// the account's Region.
    pub resource: &'static [&'static [&'static str]],
}

/// What may carry a control's opt-out tag, in words.
#[derive(Clone, Copy, Debug)]
pub struct Tagged {
    /// Everything: `the rule, the security group, or its VPC where this account owns it`.
    pub any: &'static str,
    /// The resource, and what it belongs to: `the group or its VPC`.
    pub resource: &'static str,
}

/// Another kind of resource whose change concerns resources of a control: a prefix
/// list, and the security groups that name it; the account's block of public
/// sharing, and the snapshots that it hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expands {
    /// The kind of resource: `prefix list`.
    pub resource: &'static str,
    /// How its ids begin: `pl-`; none: it is a setting of the account, and its id
    /// the Region.
    pub prefix: Option<&'static str>,
    /// The calls that change it, and where they name it.
    pub calls: &'static [Call],
    /// Whether a `Check Requested` may name one, as when its opt-out is removed.
    pub on_request: bool,
}

/// The words that messages about a control's findings use.
#[derive(Clone, Copy, Debug)]
pub struct Phrases {
    /// The kind of resource: `security group`.
    pub resource: &'static str,
    /// The kind of item: `rule`.
    pub item: &'static str,
    /// What may carry the opt-out tag; none: an exemption stands in the policy.
    pub tagged: Option<Tagged>,
    /// What is found, as it follows `What was`, `What is` or `What may still be`:
    /// `open`.
    pub found: &'static str,
    /// What is true after a remediation: `the exposure is closed`.
    pub closed: &'static str,
    /// What a person does, by hand if need be: `close it`.
    pub remedy: &'static str,
    /// What a team states as the reason of an opt-out: `why it must stay open`.
    pub why_exempt: &'static str,
    /// What is good to know once something was changed, one sentence each.
    pub afterwards: &'static [&'static str],
}

/// What a person is told about a control before it acts, in sentences.
#[derive(Clone, Copy, Debug)]
pub struct Guide {
    /// Why a finding matters.
    pub why: &'static str,
    /// What is changed about a finding.
    pub changes: &'static str,
    /// What the control never does, one sentence each.
    pub never: &'static [&'static str],
}

/// What is fixed about a control whose remediation takes minutes, for people: its
/// rules and rights are written down by hand.
#[derive(Clone, Copy, Debug)]
pub struct StepwiseInfo {
    /// Its id.
    pub id: ControlId,
    /// The function that remediates it.
    pub function: &'static str,
    /// The Security Hub controls that find the same.
    pub hub: &'static [&'static str],
    /// What may carry its opt-out tag: `the volume or its instance`.
    pub tagged: &'static str,
    /// Whether an undo restores everything.
    pub reversal: Reversal,
    /// What a person is told about it.
    pub guide: Guide,
}

/// What is fixed about a control.
#[derive(Clone, Copy, Debug)]
pub struct ControlInfo {
    /// Its id.
    pub id: ControlId,
    /// The function that remediates it.
    pub function: &'static str,
    /// How the ids of its resources begin (`sg-`); none: the resource is the
    /// account's Region.
    pub prefix: Option<&'static str>,
    /// The calls that can lead to a finding.
    pub calls: &'static [Call],
    /// The Security Hub controls that find the same.
    pub hub: &'static [&'static str],
    /// The IAM actions that it reads with.
    pub reads: &'static [&'static str],
    /// The IAM actions that begin a change: granted to the function's role, and
    /// denied on what an endless opt-out stands on.
    pub begins: &'static [&'static str],
    /// The IAM actions that the undo role needs beside those that begin a change.
    pub undoes: &'static [&'static str],
    /// Whether an undo restores everything.
    pub reversal: Reversal,
    /// Where the opt-out of what an undo restores stands.
    pub opt_out_on: OptOutOn,
    /// Whether the stack's mode never makes it `enforce`: only the policy does.
    pub enforce_by_name_only: bool,
    /// What a person is told about it.
    pub guide: Guide,
    /// Words for messages.
    pub phrases: Phrases,
}
