//! What the tests of a control's calls share.

use std::time::Duration;

use backstop_aws::clients::Clients;
use backstop_aws::deadline::Deadline;
use backstop_aws::remediation::Place;
use backstop_wire::{Call, Reply, Wire};

/// An answer of EC2.
pub(crate) fn xml(operation: &str, content: &str) -> Reply {
    Reply::ok(format!(
        "<{operation}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{content}</{operation}Response>"
    ))
}

/// A wire on which one operation fails.
pub(crate) fn failing(
    operation: &'static str,
    code: &'static str,
    answer: impl Fn(&Call) -> Reply + Send + Sync + 'static,
) -> Wire {
    Wire::new(move |call| match call.operation == operation {
        true => Reply::ec2_error(400, code, "no"),
        false => answer(call),
    })
}

/// What a call asks for.
pub(crate) fn parameters(call: &Call) -> Vec<(&str, &str)> {
    let all = call.parameters.iter();
    let mut all: Vec<(&str, &str)> = all
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .filter(|(key, _)| !["Action", "Version"].contains(key))
        .collect();
    all.sort_unstable();
    all
}

/// Does something with the clients of a wire, at a place.
pub(crate) async fn at<T>(wire: &Wire, act: impl AsyncFnOnce(&Clients, Place<'_>) -> T) -> T {
    let deadline = Deadline::new(Duration::from_secs(60));
    let place = Place {
        account: "111122223333",
        region: "eu-central-1",
        deadline: &deadline,
    };
    act(&Clients::new(&wire.config(1)), place).await
}
