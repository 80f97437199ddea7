//! `serial-console`: the calls.

use backstop_core::account_setting::AccountSetting;
use backstop_core::controls::serial_console::{Access, SerialConsole};
use backstop_core::plan::{Change, Outcome};

use crate::clients::Clients;
use crate::error::AwsError;
use crate::remediation::{Place, Remediation, Stopped, Walked, outcome, walk_setting};
use crate::remediations::setting;

const READ: &str = "GetSerialConsoleAccessStatus";

impl Remediation for SerialConsole {
    async fn gather(
        aws: &Clients,
        at: Place<'_>,
        _region: &str,
    ) -> Result<Option<AccountSetting<Access>>, AwsError> {
        let request = aws.ec2.get_serial_console_access_status().send();
        let answer = at.deadline.call(READ, request).await?;
        let access = match answer.serial_console_access_enabled() {
            Some(true) => Access::Enabled,
            Some(false) => Access::Disabled,
            None => return Err(AwsError::incomplete(READ, "serialConsoleAccessEnabled")),
        };
        setting::<Self>(READ, at, access, answer.managed_by()).map(Some)
    }

    async fn apply(
        aws: &Clients,
        at: Place<'_>,
        _region: &str,
        change: &Change<Access>,
    ) -> Vec<Outcome> {
        let (ec2, deadline) = (&aws.ec2, at.deadline);
        let answer = if change.after == Some(Access::Enabled) {
            let request = ec2.enable_serial_console_access().send();
            let answer = deadline.call("EnableSerialConsoleAccess", request);
            answer.await.map(|_| ())
        } else {
            let request = ec2.disable_serial_console_access().send();
            let answer = deadline.call("DisableSerialConsoleAccess", request);
            answer.await.map(|_| ())
        };
        outcome::<Self>(change, answer)
    }

    async fn walk(
        aws: &Clients,
        at: Place<'_>,
        each: impl AsyncFnMut(Vec<AccountSetting<Access>>),
    ) -> Result<Walked, Stopped> {
        walk_setting::<Self>(aws, at, each).await
    }
}
