//! Events of AWS's own about instances and their patches, as AWS documents them.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use crate::cloudtrail::{native, now};
use crate::local_aws::{ACCOUNT, REGION};

/// A finding of Inspector's about a package on an instance.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The instance.
    pub instance: String,
    /// The CVE.
    pub cve: String,
    /// The package that has it.
    pub package: String,
    /// What it was installed with: `OS`, `PIP`, ….
    pub manager: &'static str,
    /// The version in which it is mended; none: there is none yet.
    pub fixed_in: Option<&'static str>,
    /// `CRITICAL`, `HIGH`, ….
    pub severity: &'static str,
}

impl Finding {
    /// One that a patch of the operating system mends.
    #[must_use]
    pub fn os(instance: &str, cve: &str, package: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            cve: cve.to_owned(),
            package: package.to_owned(),
            manager: "OS",
            fixed_in: Some("0:8.5.0-1.amzn2023.0.4"),
            severity: "HIGH",
        }
    }

    /// One in an application's package.
    #[must_use]
    pub fn application(instance: &str, cve: &str, package: &str) -> Self {
        Self {
            manager: "PIP",
            fixed_in: Some("2.32.0"),
            ..Self::os(instance, cve, package)
        }
    }

    /// How Inspector says the package is mended.
    #[must_use]
    pub fn advice(&self) -> String {
        match self.manager {
            "OS" => format!("dnf update {}", self.package),
            _ => format!("pip install --upgrade {}", self.package),
        }
    }

    /// Its ARN: of an instance and a CVE there is one.
    #[must_use]
    pub fn arn(&self) -> String {
        let mut hash = DefaultHasher::new();
        (&self.instance, &self.cve, &self.package).hash(&mut hash);
        let id = format!("{:032x}", hash.finish());
        format!("arn:aws:inspector2:{REGION}:{ACCOUNT}:finding/{id}")
    }

    /// The event that it was found.
    #[must_use]
    pub fn active(&self) -> Value {
        self.event("ACTIVE")
    }

    /// The event that it is mended.
    #[must_use]
    pub fn closed(&self) -> Value {
        self.event("CLOSED")
    }

    fn event(&self, status: &str) -> Value {
        // No ISO dates: Inspector's own.
        let seen = "Nov 24, 2026, 10:46:15 AM";
        let detail = json!({
            "awsAccountId": ACCOUNT,
            "description": format!("A flaw was found in {}.", self.package),
            "exploitAvailable": "NO",
            "findingArn": self.arn(),
            "firstObservedAt": seen,
            "fixAvailable": if self.fixed_in.is_some() { "YES" } else { "NO" },
            "inspectorScore": 8.1,
            "lastObservedAt": seen,
            "packageVulnerabilityDetails": {
                "cvss": [{"baseScore": 8.1, "scoringVector": "CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:H/A:H", "source": "NVD", "version": "3.1"}],
                "referenceUrls": ["https://example.com/advisory"],
                "relatedVulnerabilities": [],
                "source": "NVD",
                "sourceUrl": format!("https://nvd.nist.gov/vuln/detail/{}", self.cve),
                "vendorCreatedAt": seen,
                "vendorSeverity": "HIGH",
                "vulnerabilityId": self.cve,
                "vulnerablePackages": [{
                    "arch": "X86_64",
                    "epoch": 0,
                    "fixedInVersion": self.fixed_in.unwrap_or("NotAvailable"),
                    "name": self.package,
                    "packageManager": self.manager,
                    "release": "1.amzn2023.0.2",
                    "remediation": self.advice(),
                    "version": "8.3.0",
                }],
            },
            "remediation": {"recommendation": {"text": "None Provided"}},
            "resources": [{
                "details": {"awsEc2Instance": {
                    "imageId": "ami-0b7ff1a8d69f1bb35",
                    "ipV4Addresses": ["10.0.0.7"],
                    "ipV6Addresses": [],
                    "launchedAt": seen,
                    "platform": "AMAZON_LINUX_2023",
                    "type": "t3.micro",
                }},
                "id": self.instance,
                "partition": "aws",
                "region": REGION,
                "tags": {},
                "type": "AWS_EC2_INSTANCE",
            }],
            "severity": self.severity,
            "status": status,
            "title": format!("{} - {}", self.cve, self.package),
            "type": "PACKAGE_VULNERABILITY",
            "updatedAt": seen,
        });
        native(
            "aws.inspector2",
            "Inspector2 Finding",
            self.instance.clone(),
            detail,
        )
    }
}

/// The event that an instance lacks approved patches, or (`compliant`) none.
#[must_use]
pub fn compliance(instance: &str, status: &str) -> Value {
    native(
        "aws.ssm",
        "Configuration Compliance State Change",
        format!("arn:aws:ssm:{REGION}:{ACCOUNT}:managed-instance/{instance}"),
        json!({
            "last-runtime": now(),
            "compliance-status": status,
            "resource-type": "managed-instance",
            "resource-id": instance,
            "compliance-type": "Patch",
            "patch-baseline-id": "pb-0c10e65780example",
            "severity": "critical",
        }),
    )
}

/// The event that a patch command came to a status on an instance.
#[must_use]
pub fn command_status(command: &str, instance: &str, status: &str) -> Value {
    native(
        "aws.ssm",
        "EC2 Command Invocation Status-change Notification",
        format!("arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{instance}"),
        json!({
            "command-id": command,
            "document-name": "AWS-RunPatchBaseline",
            "instance-id": instance,
            "requested-date-time": now(),
            "status": status,
        }),
    )
}
