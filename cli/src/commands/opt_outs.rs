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
use crate::table::{Format, bad, doubtful, good, table};

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
            Format::Table => {
                let mut table = table(&["resource", "state", "until", "owner", "why", "tag"]);
                for one in &seen {
                    let state = match one.state.as_str() {
                        "malformed" | "ended" => bad(&one.state),
                        "ends soon" | "endless" => doubtful(&one.state),
                        state => good(state),
                    };
                    let text = |of: &Option<String>| one_line(of.as_deref().unwrap_or("-"), 100);
                    table.add_row(vec![
                        (&one.resource).into(),
                        state,
                        one.until
                            .map_or("-".to_owned(), |day| day.to_string())
                            .into(),
                        text(&one.owner).into(),
                        text(&one.why).into(),
                        one_line(&one.value, 100).into(),
                    ]);
                }
                println!("{table}");
            }
        }
        let attention = seen.iter().any(wants_attention);
        Ok(ExitCode::from(u8::from(attention)))
    }
}
