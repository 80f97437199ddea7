//! How patches are installed: the policy's part that `vulnerable-package` and
//! `missing-patches` share, for they end in the same command.

use std::borrow::Cow;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, MapAccess};
use serde::{Deserialize, Deserializer, Serialize};

use crate::prose::quoted;
use crate::windows::{self, Window};

/// For how long a command may be at work: those that were sent since are looked
/// at, however short the cool-down is. Longer than a run waits for its own, or
/// one that hangs would be followed by a second.
const LONGEST_COMMAND: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Whether an instance may restart for its patches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reboot {
    /// Patches are installed, and some take effect only when somebody restarts
    /// it.
    #[default]
    Never,
    /// Restarted once something was installed, or when an earlier patch waits for
    /// it; only inside a maintenance window.
    IfNeeded,
}

impl Reboot {
    /// As the document's parameter `RebootOption` wants it.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Never => "NoReboot",
            Self::IfNeeded => "RebootIfNeeded",
        }
    }
}

/// What is done about members of Auto Scaling groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AutoScaling {
    /// Told: they are to be replaced from a patched image.
    #[default]
    Replace,
    /// Patched like any other.
    Patch,
}

/// For how many days at most snapshots may be kept before the sweep deletes them:
/// the ledger's records, which say how the run ended, are kept for little longer.
const MOST_KEPT_DAYS: u32 = 365;

/// The snapshots that are taken before patches are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshots {
    /// Whether they are taken.
    pub take: bool,
    /// After how many days the sweep deletes them; 0: never.
    pub delete_after_days: u32,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            take: true,
            delete_after_days: 30,
        }
    }
}

impl<'de> Deserialize<'de> for Snapshots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Snapshots;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean, or an object with `take` and `delete_after_days`")
            }

            fn visit_bool<E: serde::de::Error>(self, take: bool) -> Result<Snapshots, E> {
                Ok(Snapshots {
                    take,
                    ..Snapshots::default()
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Snapshots, A::Error> {
                let mut all = Snapshots::default();
                while let Some(field) = map.next_key::<String>()? {
                    match field.as_str() {
                        "take" => all.take = map.next_value()?,
                        "delete_after_days" => all.delete_after_days = map.next_value()?,
                        other => {
                            return Err(A::Error::unknown_field(
                                other,
                                &["take", "delete_after_days"],
                            ));
                        }
                    }
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Snapshots {
    fn schema_name() -> Cow<'static, str> {
        "Snapshots".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The snapshots that are taken before patches are installed.",
            "oneOf": [
                { "type": "boolean", "description": "Short for `take`." },
                {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "take": {
                            "type": "boolean",
                            "default": true,
                            "description": "Whether they are taken.",
                        },
                        "delete_after_days": {
                            "type": "integer",
                            "minimum": 0,
                            "maximum": MOST_KEPT_DAYS,
                            "default": Self::default().delete_after_days,
                            "description": "After how many days the sweep deletes those of runs that ended well; 0: never.",
                        },
                    },
                },
            ],
        })
    }
}

/// How patches are installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// When patches may be installed (UTC); none: at any time. `if-needed` needs
    /// at least one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// Whether instances may restart.
    pub reboot: Reboot,
    /// For how many minutes an instance has to be running: a restart in the
    /// middle of its bootstrap kills it.
    #[schemars(range(min = 0, max = 10080))]
    pub min_age_minutes: u32,
    /// For how many hours an instance is not patched again.
    #[schemars(range(min = 1, max = 720))]
    pub cool_down_hours: u32,
    /// What is done about members of Auto Scaling groups.
    pub auto_scaling: AutoScaling,
    /// Snapshots of the instance's volumes that are taken first. They are
    /// crash-consistent: what was only in memory is not in them.
    pub snapshots: Snapshots,
    /// On how many instances a command runs at a time: a number, or a share
    /// like `10%`.
    #[schemars(regex(pattern = r"^([1-9][0-9]{0,6}|[1-9][0-9]?%|100%)$"))]
    pub max_concurrency: String,
    /// After how many failures a command is sent to no further instance: a
    /// number, or a share like `10%`.
    #[schemars(regex(pattern = r"^(0|[1-9][0-9]{0,6}|[0-9]%|[1-9][0-9]%|100%)$"))]
    pub max_errors: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            windows: Vec::new(),
            reboot: Reboot::Never,
            min_age_minutes: 60,
            cool_down_hours: 24,
            auto_scaling: AutoScaling::Replace,
            snapshots: Snapshots::default(),
            max_concurrency: "10%".to_owned(),
            max_errors: "10%".to_owned(),
        }
    }
}

/// A number, or a share of at most 100 %.
fn is_amount(text: &str, least: u32) -> bool {
    let (digits, most) = match text.strip_suffix('%') {
        Some(share) => (share, 100),
        None => (text, 9_999_999),
    };
    let plain = !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'));
    plain
        && digits
            .parse::<u32>()
            .is_ok_and(|n| (least..=most).contains(&n))
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let problem = |field: &str, problem: String| Err((field.to_owned(), problem));
        windows::check(&self.windows)?;
        if self.reboot == Reboot::IfNeeded && self.windows.is_empty() {
            return problem(
                "windows",
                "`\"reboot\": \"if-needed\"` restarts instances, and only inside a maintenance window: name one, for example [{\"days\": [\"sat\"], \"from\": \"02:00\", \"to\": \"05:00\"}] (UTC)".to_owned(),
            );
        }
        for (field, value, least, most) in [
            ("min_age_minutes", self.min_age_minutes, 0, 10_080),
            ("cool_down_hours", self.cool_down_hours, 1, 720),
        ] {
            if !(least..=most).contains(&value) {
                return problem(
                    field,
                    format!("{value} is out of range; allowed is {least} to {most}"),
                );
            }
        }
        let days = self.snapshots.delete_after_days;
        if days > MOST_KEPT_DAYS {
            return problem(
                "snapshots.delete_after_days",
                format!("{days} is out of range; allowed is 0 (never) to {MOST_KEPT_DAYS}"),
            );
        }
        for (field, text, least) in [
            ("max_concurrency", &self.max_concurrency, 1),
            ("max_errors", &self.max_errors, 0),
        ] {
            if !is_amount(text, least) {
                return problem(
                    field,
                    format!(
                        "`{}` is neither a number from {least} on nor a share like `10%`",
                        quoted(text)
                    ),
                );
            }
        }
        Ok(())
    }

    /// Whether patches may be installed at a time.
    #[must_use]
    pub fn in_window(&self, at: Timestamp) -> bool {
        self.windows.is_empty() || windows::is_open(&self.windows, at)
    }

    /// When a window opens next; none: there is none.
    #[must_use]
    pub fn next_window(&self, after: Timestamp) -> Option<Timestamp> {
        windows::opens(&self.windows, after)
    }

    /// Within how many seconds a command has to have begun on an instance: not
    /// after its window has closed. Without a window there is time for all that
    /// `max_concurrency` lets wait.
    #[must_use]
    pub fn begin_within(&self, now: Timestamp) -> i64 {
        // The least that SendCommand takes.
        const LEAST: i64 = 30;
        const MOST: i64 = 6 * 3600;
        let closes = windows::closes(&self.windows, now);
        closes.map_or(MOST, |closes| {
            closes.duration_since(now).as_secs().clamp(LEAST, MOST)
        })
    }

    /// For how long an instance has to be running.
    #[must_use]
    pub fn min_age(&self) -> SignedDuration {
        SignedDuration::from_mins(i64::from(self.min_age_minutes))
    }

    /// For how long an instance is not patched again.
    #[must_use]
    pub fn cool_down(&self) -> SignedDuration {
        SignedDuration::from_hours(i64::from(self.cool_down_hours))
    }

    /// How far back an instance's commands are looked at: as far as the cool-down
    /// reaches, and as far as one may still be at work.
    #[must_use]
    pub fn looks_back(&self) -> SignedDuration {
        self.cool_down().max(LONGEST_COMMAND)
    }
}
