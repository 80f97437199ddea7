use backstop_aws::clients::Clients;
use backstop_aws::settings::PatchSettings;
use lambda_runtime::{Error, LambdaEvent};
use serde_json::Value;

pub(crate) struct Handler {
    _clients: Clients,
    _settings: PatchSettings,
}

impl Handler {
    pub(crate) fn new(clients: Clients, settings: PatchSettings) -> Self {
        Self {
            _clients: clients,
            _settings: settings,
        }
    }

    pub(crate) async fn handle(&self, _event: LambdaEvent<Value>) -> Result<Value, Error> {
        Err("not built yet".into())
    }
}
