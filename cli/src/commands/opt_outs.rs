//! `backstop opt-outs`: every opt-out, what needs attention first.

use std::process::ExitCode;

use backstop_aws::opt_outs::all;
use backstop_core::exemption::opt_out_tags;
use backstop_core::message::one_line;
use backstop_core::notice::OptOutSeen;
use backstop_core::rules::OptOutRules;
use backstop_core::sweep::{opt_out_seen, sort_opt_outs, wants_attention};
use clap::Args;
use jiff::tz::Offset;

use crate::Problem;
use crate::context::Context;
use crate::table::{Format, NOTHING, Table, bad, doubtful, good, table};

/// Shows every opt-out, what needs attention first.
#[derive(Debug, Args)]
pub(crate) struct OptOuts {
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Count opt-outs without an end, and those that hold for more than
    /// `--longest-days`, as malformed, as `opt_out.require_end` does
    #[arg(long)]
    require_end: bool,
    /// For how many days from today an opt-out may hold, as `opt_out.longest_days`
    #[arg(long, value_name = "DAYS", requires = "require_end",
        default_value_t = OptOutRules::default().longest_days,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(OptOutRules::MOST_DAYS)))]
    longest_days: u32,
}

impl OptOuts {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Problem> {
        let aws = context.aws().await?;
        let today = Offset::UTC.to_datetime(aws.clients.clock.now()).date();
        let rules = OptOutRules {
            require_end: self.require_end,
            longest_days: self.longest_days,
        };
        let mut seen: Vec<OptOutSeen> = all(&aws.clients.ec2, &aws.deadline)
            .await?
            .iter()
            .flat_map(|(id, tags)| opt_out_tags(tags).map(move |tag| (id, tag)))
            .map(|(id, tag)| opt_out_seen(id, tag, today, &rules))
            .collect();
        sort_opt_outs(&mut seen);
        match self.format {
            Format::Json => println!("{}", serde_json::json!(seen)),
            Format::Table if seen.is_empty() => println!("no resource is opted out"),
            Format::Table => println!("{}", rows(&seen)),
        }
        let attention = seen.iter().any(wants_attention);
        Ok(ExitCode::from(u8::from(attention)))
    }
}

/// A row for each opt-out.
fn rows(seen: &[OptOutSeen]) -> Table {
    let mut rows = table(&["resource", "state", "until", "owner", "why", "tag"]);
    for one in seen {
        let state = match one.state.as_str() {
            "malformed" | "ended" => bad(&one.state),
            "ends soon" | "endless" => doubtful(&one.state),
            state => good(state),
        };
        let text = |of: &Option<String>| one_line(of.as_deref().unwrap_or(NOTHING), 100);
        rows.add_row(vec![
            (&one.resource).into(),
            state,
            one.until
                .map_or(NOTHING.to_owned(), |day| day.to_string())
                .into(),
            text(&one.owner).into(),
            text(&one.why).into(),
            one_line(&one.value, 100).into(),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use backstop_core::exemption::OPT_OUT_TAG;

    use super::*;
    use crate::screens;

    #[test]
    fn opt_outs_of_every_state_are_the_screen_in_the_documents() {
        let today = "2026-11-24".parse().unwrap();
        let rules = OptOutRules::default();
        let mut seen: Vec<OptOutSeen> = [
            (
                "sg-0a3f5c7e91b2d4f60",
                "open-ingress until=2027-01-31 owner=team-web reason=vendor access",
            ),
            (
                "vol-0e5c8a1f3b7d92462",
                "unencrypted-volume until=2026-11-28 owner=team-db reason=vendor audit",
            ),
            (
                "snap-0f6d9b2a4c8e13573",
                "public-snapshot until=2026-10-31 owner=team-data",
            ),
            ("i-0d2b7c9e4f6a81351", "all owner=team-db"),
            ("ami-0123456789abcdef0", "public-image until=soon"),
        ]
        .into_iter()
        .map(|(id, value)| opt_out_seen(id, (OPT_OUT_TAG, value), today, &rules))
        .collect();
        sort_opt_outs(&mut seen);
        screens::check("opt-outs", |terminal| rows(&seen).print(terminal) + "\n");
    }
}
