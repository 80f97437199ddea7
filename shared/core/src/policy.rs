//! The policy: what an account allows, one JSON document in an SSM parameter.
//!
//! Every default lives here, so that the document an account starts with is
//! `{"version":1}` and a release can better a default without touching what
//! users wrote. Unknown fields are refused: a misspelt setting must not turn
//! into a default. Deliberately not here: reading and caching it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::account_setting;
use crate::control::Control;
use crate::controls::{
    default_security_group, encryption_by_default, image_sharing_block, imdsv1, metadata_defaults,
    missing_patches, open_ingress, public_image, public_snapshot, public_subnet, serial_console,
    snapshot_sharing_block, unmanaged_instance, vulnerable_package,
};
use crate::encryption;
use crate::json;
use crate::patching;
use crate::rules::{Common, ControlPolicy, Existing, FightRules, OptOutRules, Rules};
use crate::words::{ControlId, Mode};

/// Most bytes of a policy: the size of an advanced SSM parameter.
pub const MOST_BYTES: usize = 8 * 1024;

/// Where the schema of the policy document is published: its `$id`, and what a
/// document may name as its `$schema`.
pub const SCHEMA_ID: &str =
    "https://raw.githubusercontent.com/backstop-aws/backstop/main/schemas/policy.schema.json";

/// The policy document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The schema that an editor checks the document by; nothing else reads it.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The format's version.
    #[schemars(with = "u32", range(min = 1, max = 1))]
    pub version: Version,
    /// Settings by control.
    #[serde(default)]
    pub controls: Controls,
    /// How patches are installed, whichever control asks for them.
    #[serde(default)]
    pub patching: patching::Settings,
    /// What opt-out tags must say.
    #[serde(default)]
    pub opt_out: OptOutRules,
    /// `true` stops every control within a minute: no run and no step begins.
    /// What is under way is recorded and told, and undo goes on.
    #[serde(default)]
    pub kill_switch: bool,
    /// What is put back again and again.
    #[serde(default)]
    pub fights: FightRules,
    /// Taking changes back.
    #[serde(default)]
    pub undo: UndoRules,
}

/// A control's part of the policy: the one place where a control meets it.
pub trait Governed: Control {
    /// The rules by which the control decides.
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings>;
}

impl Governed for encryption_by_default::EncryptionByDefault {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.encryption_by_default)
    }
}

impl Governed for open_ingress::OpenIngress {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.open_ingress)
    }
}

impl Governed for public_image::PublicImage {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.public_image)
    }
}

impl Governed for public_snapshot::PublicSnapshot {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.public_snapshot)
    }
}

impl Governed for snapshot_sharing_block::SnapshotSharingBlock {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.snapshot_sharing_block)
    }
}

impl Governed for metadata_defaults::MetadataDefaults {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.metadata_defaults)
    }
}

impl Governed for image_sharing_block::ImageSharingBlock {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.image_sharing_block)
    }
}

impl Governed for serial_console::SerialConsole {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.serial_console)
    }
}

impl Governed for default_security_group::DefaultSecurityGroup {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.default_security_group)
    }
}

impl Governed for public_subnet::PublicSubnet {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.public_subnet)
    }
}

impl Governed for imdsv1::ImdsV1 {
    fn rules(policy: &Policy) -> Rules<'_, Self::Settings> {
        policy.rules(&policy.controls.imdsv1)
    }
}

/// The format's version: always 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Version(u32);

impl Default for Version {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, Self::Error> {
        match version {
            1 => Ok(Self(1)),
            other => Err(format!("version {other} is not known here; allowed is `1`")),
        }
    }
}

impl From<Version> for u32 {
    fn from(version: Version) -> Self {
        version.0
    }
}

/// Settings by control.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Controls {
    /// Security groups that admit too much of the internet.
    pub open_ingress: ControlPolicy<open_ingress::Settings>,
    /// Volumes whose data lies on disk unencrypted.
    pub unencrypted_volume: ControlPolicy<encryption::Settings>,
    /// The account setting that encrypts new volumes.
    pub encryption_by_default: ControlPolicy<encryption_by_default::Settings>,
    /// Packages with known holes.
    pub vulnerable_package: ControlPolicy<vulnerable_package::Settings>,
    /// Instances that lack approved patches.
    pub missing_patches: ControlPolicy<missing_patches::Settings>,
    /// Instances that Systems Manager does not manage. Nothing is changed about
    /// them in any mode.
    pub unmanaged_instance: ControlPolicy<unmanaged_instance::Settings>,
    /// EBS snapshots that everyone can use.
    pub public_snapshot: ControlPolicy<public_snapshot::Settings>,
    /// Machine images that everyone can launch instances from.
    pub public_image: ControlPolicy<public_image::Settings>,
    /// The account's block of public sharing of snapshots.
    pub snapshot_sharing_block:
        ControlPolicy<account_setting::Settings<snapshot_sharing_block::Block>>,
    /// The account's defaults for the metadata service of new instances.
    pub metadata_defaults: ControlPolicy<account_setting::Settings<metadata_defaults::Defaults>>,
    /// The account's access to the serial console of instances.
    pub serial_console: ControlPolicy<account_setting::Settings<serial_console::Access>>,
    /// Default security groups of VPCs that have rules.
    pub default_security_group: ControlPolicy<default_security_group::Settings>,
    /// The account's block of public sharing of images.
    pub image_sharing_block: ControlPolicy<account_setting::Settings<image_sharing_block::Block>>,
    /// Subnets that assign public addresses by themselves.
    pub public_subnet: ControlPolicy<public_subnet::Settings>,
    /// Instances whose metadata service answers requests without a token. Only a mode
    /// that is named here enforces it: what still asks without one fails from then on.
    pub imdsv1: ControlPolicy<imdsv1::Settings>,
}

impl Controls {
    fn common(&self, control: ControlId) -> Common {
        match control {
            ControlId::OpenIngress => self.open_ingress.common(),
            ControlId::UnencryptedVolume => self.unencrypted_volume.common(),
            ControlId::EncryptionByDefault => self.encryption_by_default.common(),
            ControlId::VulnerablePackage => self.vulnerable_package.common(),
            ControlId::MissingPatches => self.missing_patches.common(),
            ControlId::UnmanagedInstance => self.unmanaged_instance.common(),
            ControlId::PublicSnapshot => self.public_snapshot.common(),
            ControlId::PublicImage => self.public_image.common(),
            ControlId::SnapshotSharingBlock => self.snapshot_sharing_block.common(),
            ControlId::MetadataDefaults => self.metadata_defaults.common(),
            ControlId::SerialConsole => self.serial_console.common(),
            ControlId::DefaultSecurityGroup => self.default_security_group.common(),
            ControlId::ImageSharingBlock => self.image_sharing_block.common(),
            ControlId::PublicSubnet => self.public_subnet.common(),
            ControlId::ImdsV1 => self.imdsv1.common(),
        }
    }

    /// A control's own mode, where the policy names one.
    #[must_use]
    pub fn mode(&self, control: ControlId) -> Option<Mode> {
        self.common(control).mode
    }

    /// What a control does about what was there before `enforce`.
    #[must_use]
    pub fn existing(&self, control: ControlId) -> Existing {
        self.common(control).existing
    }

    /// A control's budget.
    #[must_use]
    pub fn budget(&self, control: ControlId) -> u32 {
        self.common(control).changes_per_hour
    }
}

/// Taking changes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UndoRules {
    /// For how many days at most what is put back is opted out.
    #[schemars(range(min = 1, max = 365))]
    pub most_opt_out_days: u32,
}

impl Default for UndoRules {
    fn default() -> Self {
        Self {
            most_opt_out_days: 30,
        }
    }
}

/// A policy that cannot be used: which field, what is wrong, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy is not valid: {0}")]
pub struct InvalidPolicy(String);

impl Policy {
    /// Reads a policy document.
    ///
    /// # Errors
    /// Names the field, what is wrong with it and what is allowed.
    pub fn parse(document: &str) -> Result<Self, InvalidPolicy> {
        if document.len() > MOST_BYTES {
            return Err(InvalidPolicy(format!(
                "it has {} bytes; at most {MOST_BYTES} are allowed",
                document.len()
            )));
        }
        let policy: Self = json::parse(document.as_bytes()).map_err(InvalidPolicy)?;
        policy
            .check()
            .map_err(|(path, problem)| InvalidPolicy(format!("`{path}`: {problem}")))?;
        Ok(policy)
    }

    fn rules<'a, S: Default>(&'a self, control: &'a ControlPolicy<S>) -> Rules<'a, S> {
        Rules {
            control,
            opt_out: &self.opt_out,
            fights: &self.fights,
            kill_switch: self.kill_switch,
        }
    }

    /// The rules by which `unencrypted-volume` decides.
    #[must_use]
    pub fn unencrypted_volume(&self) -> Rules<'_, encryption::Settings> {
        self.rules(&self.controls.unencrypted_volume)
    }

    /// The rules by which the controls that look at an instance's packages decide.
    #[must_use]
    pub fn patching(&self) -> patching::decide::Rules<'_> {
        let mode = |control: &ControlId| Some((*control, self.controls.mode(*control)?));
        let spares = |control: &ControlId| self.controls.existing(*control) == Existing::Notify;
        patching::decide::Rules {
            modes: ControlId::PATCHING.iter().filter_map(mode).collect(),
            spares_existing: ControlId::PATCHING.iter().copied().filter(spares).collect(),
            least_severity: self.controls.vulnerable_package.settings.severity,
            settings: &self.patching,
            opt_out: &self.opt_out,
            kill_switch: self.kill_switch,
        }
    }

    /// What no single type can tell.
    ///
    /// # Errors
    /// The first field that is wrong, by its path, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let Controls {
            open_ingress,
            unencrypted_volume,
            encryption_by_default,
            vulnerable_package: _,
            missing_patches: _,
            unmanaged_instance: _,
            public_snapshot: _,
            public_image: _,
            snapshot_sharing_block,
            metadata_defaults,
            serial_console,
            default_security_group: _,
            image_sharing_block,
            public_subnet: _,
            imdsv1: _,
        } = &self.controls;
        for control in ControlId::ALL {
            if self.controls.budget(*control) == 0 {
                return Err((
                    format!("controls.{control}.budget.changes_per_hour"),
                    "0 would never change anything; allowed is 1 and more (`\"mode\": \"notify\"` changes nothing)".to_owned(),
                ));
            }
        }
        self.patching
            .check()
            .map_err(|(field, problem)| (format!("patching.{field}"), problem))?;
        for (control, settings) in [
            (
                ControlId::OpenIngress,
                open_ingress
                    .settings
                    .check()
                    .map_err(|(field, problem)| (field.to_owned(), problem)),
            ),
            (
                ControlId::UnencryptedVolume,
                unencrypted_volume.settings.check(),
            ),
            (
                ControlId::EncryptionByDefault,
                encryption_by_default.settings.check(),
            ),
            (
                ControlId::SnapshotSharingBlock,
                snapshot_sharing_block.settings.check(),
            ),
            (
                ControlId::MetadataDefaults,
                metadata_defaults.settings.check(),
            ),
            (ControlId::SerialConsole, serial_console.settings.check()),
            (
                ControlId::ImageSharingBlock,
                image_sharing_block.settings.check(),
            ),
        ] {
            settings.map_err(|(field, problem)| {
                (format!("controls.{control}.settings.{field}"), problem)
            })?;
        }
        let FightRules {
            escalate_after,
            escalate_after_in_week,
            trip_after,
        } = self.fights;
        for (name, value) in [
            ("escalate_after", escalate_after),
            ("escalate_after_in_week", escalate_after_in_week),
            ("trip_after", trip_after),
        ] {
            if !(2..=FightRules::MOST).contains(&value) {
                return Err((
                    format!("fights.{name}"),
                    format!(
                        "{value} is out of range; allowed is 2 to {}",
                        FightRules::MOST
                    ),
                ));
            }
        }
        if trip_after <= escalate_after {
            return Err((
                "fights.trip_after".to_owned(),
                format!(
                    "{trip_after} must be more than `fights.escalate_after` ({escalate_after}), or nobody would be warned before"
                ),
            ));
        }
        let days = self.undo.most_opt_out_days;
        if !(1..=365).contains(&days) {
            return Err((
                "undo.most_opt_out_days".to_owned(),
                format!("{days} is out of range; allowed is 1 to 365"),
            ));
        }
        let OptOutRules {
            require_end,
            longest_days,
        } = self.opt_out;
        let refused = |problem: String| Err(("opt_out.longest_days".to_owned(), problem));
        if !(1..=OptOutRules::MOST_DAYS).contains(&longest_days) {
            return refused(format!(
                "{longest_days} is out of range; allowed is 1 to {}",
                OptOutRules::MOST_DAYS
            ));
        }
        if !require_end && longest_days != OptOutRules::default().longest_days {
            return refused(
                "it needs `\"require_end\": true` beside it, or an opt-out without an end would get past it"
                    .to_owned(),
            );
        }
        // Else what an undo sets would be held at once.
        if require_end && longest_days < days {
            return refused(format!(
                "{longest_days} must be at least `undo.most_opt_out_days` ({days})"
            ));
        }
        Ok(())
    }

    /// The JSON Schema of the policy document.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        let mut schema = schemars::schema_for!(Self);
        schema.insert("$id".to_owned(), SCHEMA_ID.into());
        schema.to_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(document: &str) -> String {
        Policy::parse(document).expect_err(document).to_string()
    }

    #[test]
    fn the_document_an_account_starts_with_means_all_defaults() {
        assert_eq!(
            Policy::parse(r#"{"version":1}"#).unwrap(),
            Policy::default()
        );
    }

    #[test]
    fn errors_name_the_field_and_what_is_allowed() {
        for (document, parts) in [
            (r#"{}"#, &["missing field `version`"][..]),
            (r#"{"version":2}"#, &["`version`", "allowed is `1`"]),
            (r#"[1]"#, &["expected an object"]),
            (
                r#"{"version":1,"controls":{"open-ingress":["enforce"]}}"#,
                &["`controls.open-ingress`", "expected an object"],
            ),
            (
                r#"{"version":1,"opt_out":[true]}"#,
                &["`opt_out`", "expected an object"],
            ),
            (
                r#"{"version":1,"patching":{"windows":[[[],"02:00","05:00"]]}}"#,
                &["`patching.windows[0]`", "expected an object"],
            ),
            (
                r#"{"version":1,"control":{}}"#,
                &["`control`", "`controls`", "`opt_out`"],
            ),
            (
                r#"{"version":1,"controls":{"open-ingress":{"mode":"enfroce"}}}"#,
                &[
                    "`controls.open-ingress.mode`",
                    "enfroce",
                    "`off`",
                    "`notify`",
                    "`enforce`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"open-ingres":{}}}"#,
                &["open-ingres", "`open-ingress`"],
            ),
            (
                r#"{"version":1,"controls":{"open-ingress":{"budget":{"changes_per_hour":0}}}}"#,
                &[
                    "`controls.open-ingress.budget.changes_per_hour`",
                    "1 and more",
                ],
            ),
            (
                r#"{"version":1,"controls":{"open-ingress":{"budget":{"changes_per_hour":"10"}}}}"#,
                &["`controls.open-ingress.budget.changes_per_hour`", "u32"],
            ),
            (
                r#"{"version":1,"controls":{"open-ingress":{"settings":{"allow":"some"}}}}"#,
                &[
                    "`controls.open-ingress.settings.allow`",
                    "`authorised-ports`",
                    "`high-risk-ports`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"open-ingress":{"settings":{"max_public_bits":{"ipv4":33}}}}}"#,
                &[
                    "`controls.open-ingress.settings.max_public_bits.ipv4`",
                    "0 to 32",
                ],
            ),
            (
                r#"{"version":1,"controls":{"open-ingress":{"settings":{"authorised_ports":{"tcp":["443-80"]}}}}}"#,
                &[
                    "`controls.open-ingress.settings.authorised_ports.tcp[0]`",
                    "443-80",
                ],
            ),
            (
                r#"{"version":1,"kill_switch":"on"}"#,
                &["`kill_switch`", "boolean"],
            ),
            (
                r#"{"version":1,"controls":{"open-ingress":{"existing":"fix"}}}"#,
                &["`controls.open-ingress.existing`", "`notify`", "`enforce`"],
            ),
            (
                r#"{"version":1,"fights":{"escalate_after":1}}"#,
                &["`fights.escalate_after`", "2 to 100"],
            ),
            (
                r#"{"version":1,"fights":{"escalate_after_in_week":101}}"#,
                &["`fights.escalate_after_in_week`", "2 to 100"],
            ),
            (
                r#"{"version":1,"controls":{"open-ingress":{"settings":{"protocols":[256]}}}}"#,
                &["`controls.open-ingress.settings.protocols[0]`", "0 to 255"],
            ),
            (
                r#"{"version":1,"controls":{"open-ingress":{"settings":{"protocols":["ipsec"]}}}}"#,
                &["`controls.open-ingress.settings.protocols[0]`", "\"esp\""],
            ),
            (
                r#"{"version":1,"controls":{"open-ingress":{"settings":{"protocols":[47,6]}}}}"#,
                &[
                    "`controls.open-ingress.settings.protocols`",
                    "`authorised_ports.tcp`",
                ],
            ),
            (
                r#"{"version":1,"opt_out":{"require_end":true,"longest_days":0}}"#,
                &["`opt_out.longest_days`", "1 to 3650"],
            ),
            (
                r#"{"version":1,"opt_out":{"longest_days":90}}"#,
                &["`opt_out.longest_days`", "require_end"],
            ),
            (
                r#"{"version":1,"opt_out":{"require_end":true,"longest_days":29}}"#,
                &["`opt_out.longest_days`", "`undo.most_opt_out_days` (30)"],
            ),
            (
                r#"{"version":1,"fights":{"escalate_after":12}}"#,
                &["`fights.trip_after`", "must be more than"],
            ),
            (
                r#"{"version":1,"undo":{"most_opt_out_days":0}}"#,
                &["`undo.most_opt_out_days`", "1 to 365"],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"mode":"on"}}}"#,
                &["`controls.unencrypted-volume.mode`", "`enforce`"],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"budget":{"changes_per_hour":0}}}}"#,
                &[
                    "`controls.unencrypted-volume.budget.changes_per_hour`",
                    "1 and more",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"attached":"always"}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.attached`",
                    "`notify`",
                    "`when-stopped`",
                    "`swap`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"attached":"swap"}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.windows`",
                    "maintenance window",
                    "\"from\": \"02:00\"",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"attached":"swap","windows":[]}}}}"#,
                &["`controls.unencrypted-volume.settings.windows`"],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"windows":[{"from":"02:00"}]}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.windows[0]`",
                    "missing field `to`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"windows":[{"from":"02:00","to":"05:00"},{"from":"2:00","to":"05:00"}]}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.windows[1].from`",
                    "`2:00`",
                    "`02:00`",
                    "UTC",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"windows":[{"from":"02:00","to":"24:00"}]}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.windows[0].to`",
                    "`24:00`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"windows":[{"from":"02:60","to":"05:00"}]}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.windows[0].from`",
                    "`02:60`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"windows":[{"from":"02:00:00","to":"05:00"}]}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.windows[0].from`",
                    "`02:00:00`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"windows":[{"from":"+2:00","to":"05:00"}]}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.windows[0].from`",
                    "`+2:00`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"windows":[{"days":["saturday"],"from":"02:00","to":"05:00"}]}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.windows[0].days[0]`",
                    "saturday",
                    "`sat`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"windows":[{"from":"02:00","to":"05:00","zone":"CET"}]}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.windows[0].zone`",
                    "`days`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"settling_minutes":1441}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.settling_minutes`",
                    "1441",
                    "0 to 1440",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"settling_minutes":-1}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.settling_minutes`",
                    "-1",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"max_downtime_minutes":4}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.max_downtime_minutes`",
                    "5 to 1440",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"health_minutes":1}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.health_minutes`",
                    "2 to 120",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"release_public_ipv4":"yes"}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.release_public_ipv4`",
                    "boolean",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"kms_key":""}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.kms_key`",
                    "leave it out",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"kms_key":" "}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.kms_key`",
                    "leave it out",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"originals":{"delete_after_days":0}}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.originals.delete_after_days`",
                    "1 to 365",
                    "never",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"originals":{"delete_after_days":3651}}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.originals.delete_after_days`",
                    "1 to 365",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"originals":{"delete":30}}}}}"#,
                &[
                    "`controls.unencrypted-volume.settings.originals.delete`",
                    "`delete_after_days`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unencrypted-volume":{"settings":{"window":[]}}}}"#,
                &["`controls.unencrypted-volume.settings.window`", "`windows`"],
            ),
            (
                r#"{"version":1,"controls":{"encryption-by-default":{"budget":{"changes_per_hour":0}}}}"#,
                &[
                    "`controls.encryption-by-default.budget.changes_per_hour`",
                    "1 and more",
                ],
            ),
            (
                r#"{"version":1,"controls":{"encryption-by-default":{"settings":{"exemption":{"owner":"platform"}}}}}"#,
                &[
                    "`controls.encryption-by-default.settings.exemption`",
                    "missing field `until`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"encryption-by-default":{"settings":{"exemption":{"until":"2027-01-31"}}}}}"#,
                &[
                    "`controls.encryption-by-default.settings.exemption`",
                    "missing field `owner`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"encryption-by-default":{"settings":{"exemption":{"until":"2027-01-31","owner":" "}}}}}"#,
                &[
                    "`controls.encryption-by-default.settings.exemption.owner`",
                    "who answers for it",
                ],
            ),
            (
                r#"{"version":1,"controls":{"encryption-by-default":{"settings":{"exemption":{"until":"31.01.2027","owner":"platform"}}}}}"#,
                &[
                    "`controls.encryption-by-default.settings.exemption.until`",
                    "`31.01.2027`",
                    "`2027-01-31`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"encryption-by-default":{"settings":{"exemption":{"until":"20270131","owner":"platform"}}}}}"#,
                &[
                    "`controls.encryption-by-default.settings.exemption.until`",
                    "`20270131`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"encryption-by-default":{"settings":{"exemption":{"until":"2027-01-31","owner":"platform","because":"x"}}}}}"#,
                &[
                    "`controls.encryption-by-default.settings.exemption.because`",
                    "`reason`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"encryption-by-default":{"settings":{"exempt":true}}}}"#,
                &[
                    "`controls.encryption-by-default.settings.exempt`",
                    "`exemption`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"windows":[{"from":"02:00","to":"25:00"}]}}"#,
                &["`patching.windows[0].to`", "`25:00`", "`02:00`", "UTC"],
            ),
            (
                r#"{"version":1,"patching":{"windows":[{"from":"02:00","to":"05:00"},{"days":["tuesday"],"from":"02:00","to":"05:00"}]}}"#,
                &["`patching.windows[1].days[0]`", "tuesday", "`tue`"],
            ),
            (
                r#"{"version":1,"patching":{"reboot":"if-needed"}}"#,
                &[
                    "`patching.windows`",
                    "maintenance window",
                    "\"from\": \"02:00\"",
                ],
            ),
            (
                r#"{"version":1,"patching":{"reboot":"always"}}"#,
                &["`patching.reboot`", "`never`", "`if-needed`"],
            ),
            (
                r#"{"version":1,"patching":{"auto_scaling":"allow"}}"#,
                &["`patching.auto_scaling`", "`replace`", "`patch`"],
            ),
            (
                r#"{"version":1,"patching":{"min_age_minutes":10081}}"#,
                &["`patching.min_age_minutes`", "10081", "0 to 10080"],
            ),
            (
                r#"{"version":1,"patching":{"min_age_minutes":-1}}"#,
                &["`patching.min_age_minutes`", "-1"],
            ),
            (
                r#"{"version":1,"patching":{"cool_down_hours":0}}"#,
                &[
                    "`patching.cool_down_hours`",
                    "0 is out of range",
                    "1 to 720",
                ],
            ),
            (
                r#"{"version":1,"patching":{"cool_down_hours":721}}"#,
                &["`patching.cool_down_hours`", "721", "1 to 720"],
            ),
            (
                r#"{"version":1,"patching":{"snapshots":"no"}}"#,
                &["`patching.snapshots`", "boolean", "`delete_after_days`"],
            ),
            (
                r#"{"version":1,"patching":{"snapshots":[true]}}"#,
                &["`patching.snapshots`", "sequence"],
            ),
            (
                r#"{"version":1,"patching":{"snapshots":{"keep":30}}}"#,
                &["`patching.snapshots", "`keep`", "`delete_after_days`"],
            ),
            (
                r#"{"version":1,"patching":{"snapshots":{"delete_after_days":-1}}}"#,
                &["`patching.snapshots.delete_after_days`", "-1"],
            ),
            (
                r#"{"version":1,"patching":{"snapshots":{"delete_after_days":366}}}"#,
                &[
                    "`patching.snapshots.delete_after_days`",
                    "366",
                    "0 (never) to 365",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_concurrency":"0"}}"#,
                &[
                    "`patching.max_concurrency`",
                    "`0`",
                    "a number from 1 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_concurrency":"0%"}}"#,
                &[
                    "`patching.max_concurrency`",
                    "`0%`",
                    "a number from 1 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_concurrency":"101%"}}"#,
                &[
                    "`patching.max_concurrency`",
                    "`101%`",
                    "a number from 1 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_concurrency":""}}"#,
                &[
                    "`patching.max_concurrency`",
                    "``",
                    "a number from 1 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_concurrency":"%"}}"#,
                &[
                    "`patching.max_concurrency`",
                    "`%`",
                    "a number from 1 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_concurrency":"10 %"}}"#,
                &[
                    "`patching.max_concurrency`",
                    "`10 %`",
                    "a number from 1 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_concurrency":"1.5"}}"#,
                &[
                    "`patching.max_concurrency`",
                    "`1.5`",
                    "a number from 1 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_concurrency":"01"}}"#,
                &[
                    "`patching.max_concurrency`",
                    "`01`",
                    "a number from 1 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_concurrency":"ten"}}"#,
                &[
                    "`patching.max_concurrency`",
                    "`ten`",
                    "a number from 1 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_errors":"101%"}}"#,
                &[
                    "`patching.max_errors`",
                    "`101%`",
                    "a number from 0 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_errors":"-1"}}"#,
                &[
                    "`patching.max_errors`",
                    "`-1`",
                    "a number from 0 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_errors":"00"}}"#,
                &[
                    "`patching.max_errors`",
                    "`00`",
                    "a number from 0 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_errors":"5%%"}}"#,
                &[
                    "`patching.max_errors`",
                    "`5%%`",
                    "a number from 0 on",
                    "`10%`",
                ],
            ),
            (
                r#"{"version":1,"patching":{"max_concurrency":10}}"#,
                &["`patching.max_concurrency`", "string"],
            ),
            (
                r#"{"version":1,"patching":{"window":[]}}"#,
                &["`patching.window`", "`windows`"],
            ),
            (
                r#"{"version":1,"controls":{"vulnerable-package":{"settings":{"severity":"HIGH"}}}}"#,
                &[
                    "`controls.vulnerable-package.settings.severity`",
                    "HIGH",
                    "`low`",
                    "`critical`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"vulnerable-package":{"settings":{"windows":[]}}}}"#,
                &[
                    "`controls.vulnerable-package.settings.windows`",
                    "`severity`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"missing-patches":{"settings":{"reboot":"never"}}}}"#,
                &[
                    "`controls.missing-patches.settings.reboot`",
                    "unknown field",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unmanaged-instance":{"mode":"on"}}}"#,
                &[
                    "`controls.unmanaged-instance.mode`",
                    "`off`",
                    "`notify`",
                    "`enforce`",
                ],
            ),
            (
                r#"{"version":1,"controls":{"vulnerable-package":{"budget":{"changes_per_hour":0}}}}"#,
                &[
                    "`controls.vulnerable-package.budget.changes_per_hour`",
                    "1 and more",
                ],
            ),
            (
                r#"{"version":1,"controls":{"missing-patches":{"budget":{"changes_per_hour":0}}}}"#,
                &[
                    "`controls.missing-patches.budget.changes_per_hour`",
                    "1 and more",
                ],
            ),
            (
                r#"{"version":1,"controls":{"unmanaged-instance":{"budget":{"changes_per_hour":0}}}}"#,
                &[
                    "`controls.unmanaged-instance.budget.changes_per_hour`",
                    "1 and more",
                ],
            ),
            (r#"{"version":1} trailing"#, &["trailing"]),
            ("", &["EOF"]),
        ] {
            let error = error(document);
            for part in parts {
                assert!(error.contains(part), "{document}: {error} lacks {part}");
            }
        }
    }

    #[test]
    fn a_policy_that_names_every_setting_of_encryption_is_taken() {
        let document = r#"{
            "version": 1,
            "controls": {
                "unencrypted-volume": {
                    "mode": "enforce",
                    "budget": { "changes_per_hour": 5 },
                    "existing": "enforce",
                    "settings": {
                        "attached": "swap",
                        "windows": [
                            { "days": ["sat", "sun"], "from": "22:00", "to": "02:00" },
                            { "from": "00:00", "to": "23:59" }
                        ],
                        "settling_minutes": 0,
                        "max_downtime_minutes": 45,
                        "health_minutes": 5,
                        "release_public_ipv4": true,
                        "replace_stack_volumes": true,
                        "kms_key": "alias/volumes",
                        "originals": { "delete_after_days": 30 }
                    }
                },
                "encryption-by-default": {
                    "settings": { "exemption": { "until": "2027-01-31", "owner": "platform", "reason": "migration" } }
                }
            }
        }"#;
        let policy = Policy::parse(document).unwrap();
        let read = serde_json::to_string(&policy).unwrap();
        assert_eq!(Policy::parse(&read).unwrap(), policy);
        assert_eq!(policy.controls.unencrypted_volume.settings.windows.len(), 2);
    }

    #[test]
    fn snapshots_before_patches_are_a_switch_or_what_becomes_of_them() {
        let read = |written: &str| {
            let document = format!(r#"{{"version":1,"patching":{{"snapshots":{written}}}}}"#);
            let policy = Policy::parse(&document).unwrap();
            let again = serde_json::to_string(&policy).unwrap();
            assert_eq!(Policy::parse(&again).unwrap(), policy, "{written}");
            let snapshots = policy.patching.snapshots;
            (snapshots.take, snapshots.delete_after_days)
        };
        assert_eq!(read("true"), (true, 30));
        assert_eq!(read("false"), (false, 30));
        assert_eq!(read("{}"), (true, 30));
        assert_eq!(read(r#"{"take":false}"#), (false, 30));
        assert_eq!(read(r#"{"delete_after_days":0}"#), (true, 0));
        assert_eq!(
            read(r#"{"take":true,"delete_after_days":365}"#),
            (true, 365)
        );
    }

    #[test]
    fn the_defaults_of_patching_are_the_careful_ones() {
        let policy = Policy::parse(r#"{"version":1}"#).unwrap();
        let patching = &policy.patching;
        assert!(patching.windows.is_empty());
        assert_eq!(patching.reboot, patching::Reboot::Never);
        assert_eq!(patching.min_age_minutes, 60);
        assert_eq!(patching.cool_down_hours, 24);
        assert_eq!(patching.auto_scaling, patching::AutoScaling::Replace);
        assert!(patching.snapshots.take);
        assert_eq!(patching.snapshots.delete_after_days, 30);
        assert_eq!(patching.max_concurrency, "10%");
        assert_eq!(patching.max_errors, "10%");
        let severity = policy.controls.vulnerable_package.settings.severity;
        assert_eq!(severity, crate::words::Severity::High);
        for control in ControlId::PATCHING {
            assert_eq!(policy.controls.mode(*control), None, "{control}");
            assert_eq!(policy.controls.existing(*control), Existing::Notify);
            assert_eq!(policy.controls.budget(*control), 50, "{control}");
        }
    }

    #[test]
    fn a_policy_that_names_every_setting_of_patching_is_taken() {
        let document = r#"{
            "version": 1,
            "controls": {
                "vulnerable-package": { "mode": "enforce", "existing": "enforce", "settings": { "severity": "medium" } },
                "missing-patches": { "mode": "notify", "budget": { "changes_per_hour": 5 }, "settings": {} },
                "unmanaged-instance": { "mode": "off", "settings": {} }
            },
            "patching": {
                "windows": [{ "days": ["sat", "sun"], "from": "22:00", "to": "04:00" }],
                "reboot": "if-needed",
                "min_age_minutes": 0,
                "cool_down_hours": 720,
                "auto_scaling": "patch",
                "snapshots": false,
                "max_concurrency": "100%",
                "max_errors": "0"
            }
        }"#;
        let policy = Policy::parse(document).unwrap();
        let read = serde_json::to_string(&policy).unwrap();
        assert_eq!(Policy::parse(&read).unwrap(), policy);
        assert_eq!(policy.patching.reboot, patching::Reboot::IfNeeded);
        assert_eq!(policy.patching.cool_down().as_hours(), 720);
        assert_eq!(
            policy.controls.mode(ControlId::UnmanagedInstance),
            Some(Mode::Off)
        );
        assert_eq!(policy.controls.budget(ControlId::MissingPatches), 5);
        for amount in ["1", "50", "1%", "99%"] {
            let document = format!(
                r#"{{"version":1,"patching":{{"max_concurrency":"{amount}","max_errors":"{amount}"}}}}"#
            );
            assert!(Policy::parse(&document).is_ok(), "{amount}");
        }
        assert!(Policy::parse(r#"{"version":1,"patching":{"max_errors":"0%"}}"#).is_ok());
    }

    #[test]
    fn more_than_eight_kilobytes_are_refused() {
        let document = format!(r#"{{"version":1{}}}"#, " ".repeat(MOST_BYTES));
        assert!(error(&document).contains("at most 8192 are allowed"));
    }
}
