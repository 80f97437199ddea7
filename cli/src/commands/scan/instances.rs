//! The part of a scan that is about instances: what Systems Manager says of
//! their patches, and what Inspector reported to the stack's ledger.
//!
//! Instances come in pages, as for the sweep. Which commands are under way is on
//! no page: what would be done to one right now is said by `backstop plan`.

use std::collections::{BTreeMap, BTreeSet};

use backstop_aws::error::AwsError;
use backstop_aws::security_groups::arn;
use backstop_aws::{instance_pages, patching};
use backstop_core::controls::{missing_patches, unmanaged_instance, vulnerable_package};
use backstop_core::patching::decide::{Circumstances, Decision, decide};
use backstop_core::patching::{
    Agent, Host, Operation, PatchFacts, PatchState, Reports, Vulnerability,
};
use backstop_core::sweep::volumes::reason;
use backstop_core::words::{ControlId, Mode, Status, digest};

use super::{Found, FoundPatching, Scanned};
use crate::context::Aws;
use crate::judging::Basis;

/// What the instances are judged by.
struct Look<'a> {
    aws: &'a Aws,
    basis: &'a Basis,
}

/// Looks at every running instance.
pub(super) async fn look(aws: &Aws, basis: &Basis, scanned: &mut Scanned) {
    let is_off = |control: &ControlId| basis.policy.controls.mode(*control) == Some(Mode::Off);
    if ControlId::PATCHING.iter().all(is_off) {
        return;
    }
    let look = Look { aws, basis };
    let walked = instance_pages::walk(&aws.clients.ec2, &aws.deadline, async |page| {
        scanned.instances += page.len() as u64;
        look.at_page(page, scanned).await;
    })
    .await;
    if let Err(stopped) = walked {
        scanned.unseen.push(format!("instances: {stopped}"));
    }
}

impl Look<'_> {
    async fn at_page(&self, page: Vec<Host>, scanned: &mut Scanned) {
        let ids: Vec<String> = page.iter().map(|host| host.id.clone()).collect();
        if ids.is_empty() {
            return;
        }
        // Without it a patched instance would look like one that lacks something.
        let (mut agents, mut states) = match self.managed(&ids).await {
            Ok(managed) => managed,
            Err(error) => {
                return unseen(scanned, format!("the patches of instances: {error}"));
            }
        };
        let (mut reports, mut ledger_is_read) = (BTreeMap::new(), true);
        if let Some(ledger) = &self.basis.ledger {
            match ledger.reports(&ids).await {
                Ok(read) => reports = read,
                Err(error) => {
                    ledger_is_read = false;
                    unseen(
                        scanned,
                        format!(
                            "what Inspector reported: {error}; trips and the baseline are not known either"
                        ),
                    );
                }
            }
        }
        for host in page {
            let id = host.id.clone();
            let reports: Reports = reports.remove(&id).unwrap_or_default();
            let facts = PatchFacts {
                agent: agents.remove(&id),
                state: states.remove(&id),
                findings: reports.active.into_values().collect(),
                unpatchable: reports.unpatchable,
                host: Some(host),
                ..PatchFacts::default()
            };
            self.at(facts, ledger_is_read, scanned).await;
        }
    }

    /// What Systems Manager says of instances. Only of those that it manages it
    /// knows patches.
    async fn managed(
        &self,
        ids: &[String],
    ) -> Result<(BTreeMap<String, Agent>, BTreeMap<String, PatchState>), AwsError> {
        let (ssm, deadline) = (&self.aws.clients.ssm, &self.aws.deadline);
        let agents = patching::agents(ssm, ids, deadline).await?;
        let managed: Vec<String> = agents.keys().cloned().collect();
        let states = match managed.is_empty() {
            true => BTreeMap::new(),
            false => patching::states(ssm, &managed, deadline).await?,
        };
        Ok((agents, states))
    }

    /// Looks at one instance, and closely at one that is not managed.
    async fn at(&self, mut facts: PatchFacts, ledger_is_read: bool, scanned: &mut Scanned) {
        let policy = &self.basis.policy;
        let mut guards = BTreeMap::new();
        let unguarded = Circumstances {
            mode: self.basis.mode,
            now: self.aws.clients.clock.now(),
            guards: &guards,
        };
        let decision = decide(&facts, &policy.patching(), &unguarded);
        let id = facts.host.as_ref().map(|host| &host.id);
        // Of what is in order nothing is to be held back.
        if let (true, Some(_), Some(id)) = (ledger_is_read, decision.control(), id) {
            match self.basis.patching_guards(id).await {
                Ok(read) => guards = read,
                Err(problem) => unseen(
                    scanned,
                    format!("trips and baseline of instances (judged without them): {problem}"),
                ),
            }
        }
        let circumstances = Circumstances {
            mode: self.basis.mode,
            now: self.aws.clients.clock.now(),
            guards: &guards,
        };
        let mut decision = decide(&facts, &policy.patching(), &circumstances);
        let managed = facts.agent.as_ref().is_some_and(Agent::is_online);
        if let (Some(_), false, Some(host)) = (decision.control(), managed, &facts.host) {
            let Aws {
                clients,
                region,
                deadline,
                ..
            } = self.aws;
            match patching::reach(&clients.ec2, &clients.ssm, host, region, deadline).await {
                Ok(reach) => {
                    facts.reach = Some(reach);
                    decision = decide(&facts, &policy.patching(), &circumstances);
                }
                // Told without what only a closer look tells.
                Err(error) => unseen(
                    scanned,
                    format!("how instances could reach Systems Manager: {error}"),
                ),
            }
        }
        scanned.found.extend(found(&facts, &decision, scanned));
    }
}

/// What is so of one page is so of the next: said once.
fn unseen(scanned: &mut Scanned, problem: String) {
    if !scanned.unseen.contains(&problem) {
        scanned.unseen.push(problem);
    }
}

fn found(facts: &PatchFacts, decision: &Decision, scanned: &Scanned) -> Option<Found> {
    let (control, host) = (decision.control()?, facts.host.as_ref()?);
    let of_findings = |patchable: bool| {
        let findings = decision.findings.iter();
        names(findings.filter(move |finding| finding.is_patchable() == patchable))
    };
    let managed = facts.agent.as_ref().is_some_and(Agent::is_online);
    let lacks = match managed {
        true => Vec::new(),
        false => unmanaged_instance::lacks(host, facts.agent.as_ref(), facts.reach.as_ref()),
    };
    let lacks = lacks.into_iter().map(|(_, why)| why).collect();
    let name = Some(host.name()).filter(|name| *name != host.id);
    Some(Found {
        control,
        severity: decision.severity,
        resource: arn(&scanned.region, &scanned.account, &host.id),
        id: host.id.clone(),
        name: name.unwrap_or_default().to_owned(),
        open: Vec::new(),
        volumes: Vec::new(),
        patching: Some(FoundPatching {
            missing: facts.state.as_ref().map(|state| state.missing),
            failed: facts.state.as_ref().map_or(0, |state| state.failed),
            never_scanned: managed && facts.state.is_none(),
            cves: of_findings(true),
            only_told: of_findings(false),
            lacks,
        }),
        fingerprints: fingerprints(control, &host.id, &decision.findings),
        state: state(decision),
        opted_out: decision.status == Status::Exempt,
    })
}

/// The CVEs of findings, each once; of what has none its title.
fn names<'a>(findings: impl Iterator<Item = &'a Vulnerability>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    findings
        .map(|finding| finding.cves.first().unwrap_or(&finding.title))
        .filter(|name| seen.insert(*name))
        .cloned()
        .collect()
}

fn fingerprints(control: ControlId, id: &str, findings: &[Vulnerability]) -> Vec<String> {
    match control {
        ControlId::VulnerablePackage => findings
            .iter()
            .map(|finding| vulnerable_package::fingerprint(&finding.arn))
            .collect(),
        ControlId::MissingPatches => vec![missing_patches::fingerprint(id)],
        other => vec![digest([other.name(), id])],
    }
}

/// What Backstop would do about it.
fn state(decision: &Decision) -> String {
    let why = || decision.reasons.join("; ");
    match decision.status {
        Status::InProgress if decision.operation == Operation::Scan => {
            "would be scanned for missing patches".to_owned()
        }
        Status::InProgress => "would be remediated".to_owned(),
        Status::Pending => format!("would be remediated later: {}", why()),
        // What it lacks is said already.
        Status::Notified | Status::Refused => {
            let first = decision.reasons.first().map_or("", String::as_str);
            format!("would be left: {first}")
        }
        other => format!("would be left: {}", reason(Some(other.name()))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use backstop_aws::clients::{Clients, EncryptionClients, OperationsClients};
    use backstop_aws::deadline::Deadline;
    use backstop_core::patching::{OS, Package};
    use backstop_core::words::Severity;
    use backstop_wire::{Call, Reply, Wire};
    use serde_json::{Value, json};

    use backstop_aws::ledger::Ledger;
    use backstop_core::policy::Policy;

    use super::*;

    /// One that lacks nothing.
    const PATCHED: &str = "i-00000000000000001";
    /// One that lacks approved patches.
    const LACKING: &str = "i-00000000000000002";
    /// The same, and opted out.
    const SPARED: &str = "i-00000000000000003";
    /// One that was never scanned.
    const UNSCANNED: &str = "i-00000000000000004";
    /// One that Inspector found something on.
    const HOLED: &str = "i-00000000000000005";
    /// One that Systems Manager does not manage.
    const UNMANAGED: &str = "i-00000000000000006";

    fn answer(operation: &str, content: &str) -> Reply {
        Reply::ok(format!(
            "<{operation}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{content}</{operation}Response>"
        ))
    }

    fn instance(id: &str, tags: &[(&str, &str)]) -> String {
        let tags: String = tags
            .iter()
            .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
            .collect();
        format!(
            "<item><instanceId>{id}</instanceId><instanceState><code>16</code><name>running</name></instanceState>\
             <launchTime>2026-01-20T10:00:00.000Z</launchTime><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId><tagSet>{tags}</tagSet></item>"
        )
    }

    fn account(call: &Call) -> Reply {
        let asked = |field: &str, id: &str| call.json[field].to_string().contains(id);
        match call.operation.as_str() {
            "DescribeInstances" => {
                let instances = [
                    instance(PATCHED, &[]),
                    instance(LACKING, &[("Name", "web-1")]),
                    instance(SPARED, &[("backstop:opt-out", "missing-patches")]),
                    instance(UNSCANNED, &[]),
                    instance(HOLED, &[]),
                    instance(UNMANAGED, &[]),
                ]
                .concat();
                answer(
                    "DescribeInstances",
                    &format!(
                        "<reservationSet><item><instancesSet>{instances}</instancesSet></item></reservationSet>"
                    ),
                )
            }
            "DescribeInstanceInformation" => {
                let managed = [PATCHED, LACKING, SPARED, UNSCANNED, HOLED]
                    .map(|id| json!({ "InstanceId": id, "PingStatus": "Online" }));
                Reply::ok(json!({ "InstanceInformationList": managed }).to_string())
            }
            "DescribeInstancePatchStates" => {
                assert!(!asked("InstanceIds", UNMANAGED), "it has no patch state");
                let state = |id: &str, missing: u32, failed: u32| {
                    json!({
                        "InstanceId": id, "PatchGroup": "", "BaselineId": "pb-1", "Operation": "Scan",
                        "OperationStartTime": 1_768_903_000, "OperationEndTime": 1_768_903_200,
                        "MissingCount": missing, "FailedCount": failed,
                    })
                };
                let states = [
                    state(PATCHED, 0, 0),
                    state(LACKING, 3, 1),
                    state(SPARED, 2, 0),
                    state(HOLED, 0, 0),
                ];
                Reply::ok(json!({ "InstancePatchStates": states }).to_string())
            }
            "DescribeRouteTables" => answer("DescribeRouteTables", "<routeTableSet/>"),
            "DescribeVpcEndpoints" => answer("DescribeVpcEndpoints", "<vpcEndpointSet/>"),
            "GetServiceSetting" => Reply::json_error("ServiceSettingNotFound", "no"),
            other => panic!("{other}"),
        }
    }

    fn finding(arn: &str, cve: Option<&str>, manager: &str) -> Vulnerability {
        let package = Package {
            name: "openssl".into(),
            fixed_in: Some("3.0.8".into()),
            manager: manager.into(),
            ..Package::default()
        };
        Vulnerability {
            arn: arn.into(),
            severity: Severity::Critical,
            title: format!("the title of {arn}"),
            cves: cve.into_iter().map(str::to_owned).collect(),
            packages: vec![package],
            remediation: None,
            reported_at: None,
            installed_by: None,
            unmended: false,
        }
    }

    /// What Inspector reported of one instance.
    fn reported() -> Reports {
        let mut reports = Reports::default();
        reports.report(finding("arn-1", Some("CVE-2026-1000"), OS));
        reports.report(finding("arn-2", Some("CVE-2026-2000"), "NPM"));
        reports.report(finding("arn-3", None, "PIP"));
        reports
    }

    /// A scan in mode `enforce` of an account in which one operation is denied.
    async fn scan(without: &'static str, with_ledger: bool) -> Scanned {
        let stored: Arc<Mutex<Vec<Value>>> = Arc::default();
        let ledger = stored.clone();
        let wire = Wire::new(move |call| match call.operation.as_str() {
            name if name == without && name.starts_with("Describe") && call.json.is_null() => {
                Reply::ec2_error(403, "UnauthorizedOperation", "You are not authorized.")
            }
            name if name == without => Reply::json_error("AccessDeniedException", "no"),
            "TransactWriteItems" => {
                let item = call.json["TransactItems"][0]["Put"]["Item"].clone();
                ledger.lock().unwrap().push(item);
                Reply::ok("{}")
            }
            "BatchGetItem" => {
                let items = ledger.lock().unwrap().clone();
                Reply::ok(json!({ "Responses": { "ledger": items } }).to_string())
            }
            _ => account(call),
        });
        let config = wire.config(1);
        let aws = Aws {
            account: "111122223333".into(),
            clients: Clients::new(&config),
            encryption: EncryptionClients::new(&config),
            operations: OperationsClients::new(&config),
            region: "eu-central-1".into(),
            deadline: Deadline::new(Duration::from_secs(60)),
        };
        let ledger = Ledger::new(&aws.clients, "ledger".into());
        let mut reports = reported();
        ledger.store_reports(HOLED, &mut reports).await.unwrap();
        let mut scanned = Scanned {
            account: "111122223333".into(),
            region: aws.region.clone(),
            ..Scanned::default()
        };
        let basis = Basis {
            by: String::new(),
            policy: Policy::default(),
            mode: Mode::Enforce,
            ledger: with_ledger.then_some(ledger),
        };
        look(&aws, &basis, &mut scanned).await;
        scanned
    }

    #[tokio::test(start_paused = true)]
    async fn instances_are_found_with_what_they_lack_and_those_in_order_are_not() {
        let scanned = scan("", true).await;
        assert_eq!(scanned.unseen, Vec::<String>::new());
        assert_eq!(scanned.instances, 6);
        let of: Vec<(&str, ControlId, Severity, &str)> = scanned
            .found
            .iter()
            .map(|f| (f.id.as_str(), f.control, f.severity, f.state.as_str()))
            .collect();
        let right = "would be remediated";
        assert_eq!(
            of,
            [
                (LACKING, ControlId::MissingPatches, Severity::High, right),
                (
                    SPARED,
                    ControlId::MissingPatches,
                    Severity::High,
                    "would be left: opted out"
                ),
                (
                    UNSCANNED,
                    ControlId::MissingPatches,
                    Severity::Medium,
                    "would be scanned for missing patches"
                ),
                (
                    HOLED,
                    ControlId::VulnerablePackage,
                    Severity::Critical,
                    right
                ),
                (
                    UNMANAGED,
                    ControlId::UnmanagedInstance,
                    Severity::Medium,
                    "would be left: Systems Manager cannot reach it, so that nothing can be patched"
                ),
            ]
        );
        let what: Vec<Vec<String>> = scanned.found.iter().map(Found::what).collect();
        assert_eq!(
            what[..4],
            [
                vec!["3 approved patches missing, 1 failed to install".to_owned()],
                vec!["2 approved patches missing".to_owned()],
                vec!["never scanned for missing patches".to_owned()],
                vec![
                    "CVE-2026-1000: fixed by a patch".to_owned(),
                    "CVE-2026-2000, the title of arn-3: no patch of the operating system"
                        .to_owned(),
                ],
            ]
        );
        assert!(what[4][0].starts_with("role: "), "{:?}", what[4]);
        assert!(what[4][1].starts_with("endpoint: "), "{:?}", what[4]);
        let found: Value = json!(scanned.found);
        assert_eq!(
            found[0]["resource"],
            format!("arn:aws:ec2:eu-central-1:111122223333:instance/{LACKING}")
        );
        assert_eq!(found[0]["name"], "web-1");
        assert_eq!(found[3]["patching"]["cves"], json!(["CVE-2026-1000"]));
        assert_eq!(found[3]["fingerprints"].as_array().unwrap().len(), 3);
        assert_eq!(found[4]["patching"].get("missing"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_ledger_nothing_is_known_of_what_inspector_reported() {
        let scanned = scan("", false).await;
        assert_eq!(scanned.unseen, Vec::<String>::new());
        assert!(scanned.found.iter().all(|found| found.id != HOLED));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_read_is_said_once_and_makes_no_finding() {
        for (without, problem, found) in [
            (
                "DescribeInstances",
                "instances: the walk over the running instances ended after 0 of them: DescribeInstances: UnauthorizedOperation",
                0,
            ),
            (
                "DescribeInstanceInformation",
                "the patches of instances: DescribeInstanceInformation: AccessDeniedException",
                0,
            ),
            (
                "DescribeInstancePatchStates",
                "the patches of instances: DescribeInstancePatchStates: AccessDeniedException",
                0,
            ),
            ("BatchGetItem", "what Inspector reported: ", 4),
            (
                "DescribeRouteTables",
                "how instances could reach Systems Manager: DescribeRouteTables: UnauthorizedOperation",
                5,
            ),
        ] {
            let scanned = scan(without, true).await;
            assert_eq!(scanned.found.len(), found, "{without}");
            let [unseen] = &scanned.unseen[..] else {
                panic!("{without}: {:?}", scanned.unseen)
            };
            assert!(unseen.starts_with(problem), "{unseen}");
        }
    }
}
