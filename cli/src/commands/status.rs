//! `backstop status`: what each control does now, and what holds it back.

use std::collections::BTreeMap;
use std::process::ExitCode;

use backstop_aws::ledger::Ledger;
use backstop_aws::policy_store::read_versioned;
use backstop_aws::stack::Stack;
use backstop_core::controls;
use backstop_core::message::one_line;
use backstop_core::policy::Policy;
use backstop_core::sweep::LastSweep;
use backstop_core::words::{ControlId, Mode};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::Problem;
use crate::commands::kill_switch;
use crate::context::{Aws, Context, Regions, output};
use crate::table::{Cell, Format, Page, bad, doubtful, good, second, table, terminal_width};

/// How many records that wait to be sent are read to see of which control they are.
const MOST_READ: usize = 100;

/// After how many hours without a sweep that is a problem: as the stack's own alarm
/// says.
const SWEEP_HOURS: i64 = 26;

/// Shows for each control its mode, whether it has tripped, its budget, what is open
/// and what is not sent; the kill switch and the last sweep. Exit code 1: something
/// needs a person.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    regions: Regions,
}

/// How Backstop is.
#[derive(Debug, Serialize)]
struct Report {
    account: String,
    region: String,
    stack: String,
    /// The policy parameter's version.
    policy_version: i64,
    /// What is wrong with the policy; none: it is valid.
    policy_problem: Option<String>,
    kill_switch: bool,
    /// What the last sweep came to; none: none has ended.
    last_sweep: Option<LastSweep>,
    /// Whether no sweep has ended for so long that somebody should see why.
    sweep_overdue: bool,
    controls: Vec<OfControl>,
    /// Records that nobody has been told yet, of all kinds.
    unsent: usize,
}

/// How a control is.
#[derive(Debug, Serialize)]
struct OfControl {
    control: ControlId,
    /// None: the policy is not valid, so nothing is changed.
    mode: Option<Mode>,
    tripped: bool,
    changes_this_hour: u64,
    changes_per_hour: u32,
    /// Findings that the last sweep left open, by reason.
    open: BTreeMap<String, u64>,
    unsent: usize,
}

impl Status {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        if !self.regions.all {
            let aws = context.aws().await?;
            let stack = context.stack(&aws).await?;
            let report = report(&aws, &stack).await?;
            match self.format {
                Format::Json => println!("{}", json!(report)),
                Format::Table => print!("{}", text(&report, terminal_width())),
            }
            return Ok(ExitCode::from(u8::from(report.needs_a_person())));
        }
        self.everywhere(context).await
    }

    /// The stack of that name in each Region that has one.
    async fn everywhere(&self, context: &Context) -> Result<ExitCode, Problem> {
        let (mut reports, mut without, mut unread) = (Vec::new(), Vec::new(), 0);
        for context in self.regions.of(context).await? {
            let region = context.region.clone().unwrap_or_default();
            match in_region(&context).await {
                Ok(Some(report)) => {
                    if self.format == Format::Table {
                        println!("{}", text(&report, terminal_width()));
                    }
                    reports.push(report);
                }
                Ok(None) => without.push(region),
                // The others are shown all the same.
                Err(problem) => {
                    unread += 1;
                    eprintln!("backstop: {region}: {problem}");
                }
            }
        }
        match self.format {
            Format::Json => println!("{}", json!(reports)),
            Format::Table if without.is_empty() => {}
            Format::Table => println!("no stack `{}` in {}", context.stack, without.join(", ")),
        }
        let needs_a_person = reports.iter().any(Report::needs_a_person);
        Ok(ExitCode::from(match (unread, reports.is_empty()) {
            (0, false) => u8::from(needs_a_person),
            _ => 2,
        }))
    }
}

/// How the stack of a Region is, if there is one.
async fn in_region(context: &Context) -> Result<Option<Report>, Problem> {
    let aws = context.aws().await?;
    match context.stack_if_any(&aws).await? {
        Some(stack) => Ok(Some(report(&aws, &stack).await?)),
        None => Ok(None),
    }
}

async fn report(aws: &Aws, stack: &Stack) -> Result<Report, Problem> {
    let parameter = output(stack, "PolicyParameterName")?;
    let ledger = aws.ledger(stack)?;
    let (document, tripped, spent, last_sweep, unsent) = tokio::join!(
        read_versioned(&aws.clients.ssm, parameter, &aws.deadline),
        ledger.tripped_controls(),
        ledger.spent_by_control(),
        ledger.last_sweep(),
        ledger.untold(),
    );
    let (document, policy_version) = document?;
    let (tripped, spent, last_sweep, unsent) = (tripped?, spent?, last_sweep?, unsent?);
    let ids: Vec<String> = unsent.into_iter().map(|of| of.id).collect();
    let unsent_of = by_control(&ledger, &ids).await?;
    let (policy, policy_problem) = match Policy::parse(&document) {
        Ok(policy) => (Some(policy), None),
        Err(problem) => (None, Some(problem.to_string())),
    };
    let default = stack
        .parameters
        .get("Mode")
        .and_then(|mode| mode.parse().ok());
    let by_default = Policy::default();
    let controls = ControlId::ALL.iter().map(|control| {
        let open = last_sweep.as_ref().and_then(|last| last.open.get(control));
        OfControl {
            control: *control,
            mode: policy.as_ref().and_then(|of| mode(*control, of, default)),
            tripped: tripped.contains(control),
            changes_this_hour: spent.get(control).copied().unwrap_or(0),
            changes_per_hour: policy
                .as_ref()
                .unwrap_or(&by_default)
                .controls
                .budget(*control),
            open: open
                .into_iter()
                .flatten()
                .map(|(why, open)| (why.clone(), open.count))
                .collect(),
            unsent: unsent_of.get(control).copied().unwrap_or(0),
        }
    });
    Ok(Report {
        account: aws.account.clone(),
        region: aws.region.clone(),
        stack: stack.name.clone(),
        policy_version,
        policy_problem,
        kill_switch: kill_switch::is_on(&document),
        sweep_overdue: overdue(last_sweep.as_ref(), aws.clients.clock.now()),
        controls: controls.collect(),
        last_sweep,
        unsent: ids.len(),
    })
}

/// The mode that a control has, where the stack's is `default`.
pub(crate) fn mode(control: ControlId, policy: &Policy, default: Option<Mode>) -> Option<Mode> {
    let only_by_name = controls::of(control).is_some_and(|of| of.info().enforce_by_name_only);
    match (policy.controls.mode(control), default) {
        (Some(named), _) => Some(named),
        (None, Some(Mode::Enforce)) if only_by_name => Some(Mode::Notify),
        (None, default) => default,
    }
}

/// How many of these records each control has.
async fn by_control(
    ledger: &Ledger,
    ids: &[String],
) -> Result<BTreeMap<ControlId, usize>, Problem> {
    let mut counts = BTreeMap::new();
    for id in ids.iter().take(MOST_READ) {
        let stored = ledger.read(id).await?;
        let control = stored.and_then(|of| ControlId::from_name(of.record.control()));
        if let Some(control) = control {
            *counts.entry(control).or_default() += 1;
        }
    }
    Ok(counts)
}

fn overdue(last: Option<&LastSweep>, now: Timestamp) -> bool {
    last.is_none_or(|last| now.duration_since(last.at).as_hours() >= SWEEP_HOURS)
}

impl Report {
    fn needs_a_person(&self) -> bool {
        self.kill_switch
            || self.policy_problem.is_some()
            || self.sweep_overdue
            || self.controls.iter().any(|of| of.tripped)
    }
}

/// A report, for people, as it fits a terminal of so many columns.
fn text(report: &Report, terminal: Option<usize>) -> String {
    let mut page = Page::new(terminal);
    page.line(&format!(
        "account {}, Region {}, stack {}, policy version {}",
        report.account, report.region, report.stack, report.policy_version
    ));
    if let Some(problem) = &report.policy_problem {
        page.line(&format!(
            "{problem}; no control changes anything until it is corrected"
        ));
    }
    page.line(match report.kill_switch {
        true => "the kill switch is on: nothing is changed (backstop kill-switch off)",
        false => "the kill switch is off",
    });
    match &report.last_sweep {
        Some(last) => {
            page.line(&format!("the last sweep ended at {}", second(last.at)));
            if !last.unseen.is_empty() {
                page.line("it could not see:");
            }
            for unseen in &last.unseen {
                page.led("  - ", &one_line(unseen, 500));
            }
        }
        None => page.line("no sweep has ended yet: backstop sweep"),
    }
    if report.sweep_overdue && report.last_sweep.is_some() {
        page.line(&format!(
            "that is more than {SWEEP_HOURS} hours ago: backstop doctor"
        ));
    }
    page.blank();
    let mut rows = table(&[
        "control",
        "mode",
        "tripped",
        "changes this hour",
        "open",
        "unsent",
    ]);
    for of in &report.controls {
        rows.add_row(row(of));
    }
    page.table(&rows);
    page.blank();
    match report.unsent {
        0 => {}
        1 => page.line("1 message is not sent yet; the next sweep sends it"),
        many => page.line(&format!(
            "{many} messages are not sent yet; the next sweep sends them"
        )),
    }
    for of in report.controls.iter().filter(|of| of.tripped) {
        page.line(&format!(
            "{} has tripped and changes nothing; find out why, then re-arm it:",
            of.control
        ));
        page.led("  ", "backstop history");
        page.led("  ", &format!("backstop re-arm {}", of.control));
    }
    page.into_text()
}

fn row(of: &OfControl) -> Vec<Cell> {
    let open: Vec<String> = of
        .open
        .iter()
        .map(|(why, count)| format!("{count}: {why}"))
        .collect();
    vec![
        of.control.name().into(),
        match of.mode {
            Some(Mode::Off) => doubtful("off"),
            Some(Mode::Notify) => "notify".into(),
            Some(Mode::Enforce) => good("enforce"),
            None => bad("not known"),
        },
        match of.tripped {
            true => bad("TRIPPED"),
            false => good("no"),
        },
        format!("{} of {}", of.changes_this_hour, of.changes_per_hour).into(),
        match open.join("\n") {
            none if none.is_empty() => "0".to_owned(),
            open => open,
        }
        .into(),
        of.unsent.to_string().into(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::screens;

    fn report() -> Report {
        Report {
            account: "111122223333".into(),
            region: "eu-central-1".into(),
            stack: "backstop".into(),
            policy_version: 1,
            policy_problem: None,
            kill_switch: false,
            last_sweep: None,
            sweep_overdue: false,
            controls: vec![OfControl {
                control: ControlId::OpenIngress,
                mode: Some(Mode::Enforce),
                tripped: false,
                changes_this_hour: 3,
                changes_per_hour: 50,
                open: BTreeMap::new(),
                unsent: 0,
            }],
            unsent: 0,
        }
    }

    #[test]
    fn a_trip_the_kill_switch_a_wrong_policy_and_a_missing_sweep_need_a_person() {
        assert!(!report().needs_a_person());
        let mut tripped = report();
        tripped.controls[0].tripped = true;
        let needy = [
            tripped,
            Report {
                kill_switch: true,
                ..report()
            },
            Report {
                policy_problem: Some("wrong".into()),
                ..report()
            },
            Report {
                sweep_overdue: true,
                ..report()
            },
        ];
        assert!(needy.iter().all(Report::needs_a_person));
    }

    #[test]
    fn a_sweep_is_overdue_after_26_hours_and_before_the_first() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let last = LastSweep {
            at: at("2026-11-24T10:00:00Z"),
            open: BTreeMap::new(),
            unseen: Vec::new(),
        };
        assert!(overdue(None, at("2026-11-24T10:00:00Z")));
        assert!(!overdue(Some(&last), at("2026-11-25T11:59:59Z")));
        assert!(overdue(Some(&last), at("2026-11-25T12:00:00Z")));
    }

    #[test]
    fn the_policys_mode_counts_before_the_stacks() {
        let policy =
            Policy::parse(r#"{"version":1,"controls":{"public-image":{"mode":"off"}}}"#).unwrap();
        let of = |control| mode(control, &policy, Some(Mode::Enforce));
        assert_eq!(of(ControlId::PublicImage), Some(Mode::Off));
        assert_eq!(of(ControlId::OpenIngress), Some(Mode::Enforce));
    }

    #[test]
    fn the_status_of_every_control_is_the_screen_in_the_documents() {
        let policy = Policy::default();
        let sweep: Value = serde_json::from_str(include_str!(
            "../../../shared/aws/tests/stored/state/sweep.json"
        ))
        .unwrap();
        let last: LastSweep = serde_json::from_value(sweep["document"].clone()).unwrap();
        let controls = ControlId::ALL.iter().map(|control| {
            let open = last.open.get(control).into_iter().flatten();
            OfControl {
                control: *control,
                mode: mode(*control, &policy, Some(Mode::Enforce)),
                tripped: *control == ControlId::PublicSnapshot,
                changes_this_hour: u64::from(*control == ControlId::OpenIngress),
                changes_per_hour: policy.controls.budget(*control),
                open: open.map(|(why, open)| (why.clone(), open.count)).collect(),
                unsent: usize::from(*control == ControlId::OpenIngress),
            }
        });
        let report = Report {
            policy_version: 3,
            controls: controls.collect(),
            last_sweep: Some(last.clone()),
            unsent: 1,
            ..report()
        };
        screens::check("status", |terminal| text(&report, terminal));
    }
}
