//! What remediations of `imdsv1` broke: instances that refused requests without a
//! token within a day after one. Told once for each remediation.

use backstop_core::controls::imdsv1::REFUSED;
use backstop_core::notice::{About, RequestsRefused};
use backstop_core::words::ControlId;
use jiff::{Timestamp, ToSpan};

use super::{Failure, Handler, Place};

/// For how many hours after a remediation requests are looked at.
const HOURS: i64 = 24;

/// How many hours back remediations are looked at: also a sweep once a day sees the
/// last hour of each.
const MOST_HOURS: i64 = 2 * HOURS;

impl Handler {
    /// Tells of each instance that refused requests since IMDSv2 was required of it.
    pub(super) async fn tell_refused_requests(&self, place: &Place) -> Result<(), Failure> {
        let control = ControlId::ImdsV1;
        let since = place.now.saturating_sub(MOST_HOURS.hours());
        let since = since.unwrap_or(Timestamp::MIN);
        let remediated = self.ledger.remediations_since(control, since, place.now);
        let remediated = remediated.await?;
        let id_of = |arn: &str| arn.rsplit('/').next().unwrap_or_default().to_owned();
        let ids: Vec<String> = remediated.keys().map(|arn| id_of(arn)).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let span = (since, place.now);
        let sums = self
            .clients
            .cloudwatch
            .hourly_sums(REFUSED, &ids, span, &place.deadline);
        let sums = sums.await?;
        for (resource, last) in remediated {
            let points = sums.get(&id_of(&resource)).map_or(&[][..], Vec::as_slice);
            // The hour that it falls into counts: nothing is refused ahead of it.
            let until = last
                .at
                .saturating_add(HOURS.hours())
                .unwrap_or(Timestamp::MAX);
            let of_day = points.iter().filter(|(hour, _)| *hour <= until);
            let of_day = of_day.filter(|(hour, _)| last.at.as_second() < hour.as_second() + 3600);
            let requests = of_day.map(|(_, sum)| sum).sum::<f64>().ceil() as u64;
            if requests == 0 || self.ledger.undone_by(&last.entry).await?.is_some() {
                continue;
            }
            let record = self.ledger.read(&last.entry).await?;
            let team = record.and_then(|stored| stored.record.head()?.team.clone());
            let notice = self.new_notice(
                place,
                About::RequestsRefused(RequestsRefused {
                    control,
                    resource,
                    remediation: last.entry,
                    since: last.at,
                    requests,
                    team,
                }),
            );
            self.tell_notice(&notice).await?;
        }
        Ok(())
    }
}
