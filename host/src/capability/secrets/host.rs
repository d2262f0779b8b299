//! `agent:runtime/secrets`.

use wasmtime::component::Resource;

use super::{Secret, how_to_set};
use crate::capability::{View, denied, quoted};
use crate::wit::capabilities::agent::runtime::secrets::{Error, Host, HostSecret};

impl Host for View<'_> {
    async fn get(&mut self, name: String) -> wasmtime::Result<Result<Resource<Secret>, Error>> {
        self.session.count_call();
        let plan = self.session.plan();
        if !plan.manifest().secrets.required.contains(&name) {
            let name = quoted(&name);
            let line = format!("[secrets] required = [{name}]");
            self.session.note_denied("secrets", &name, &line);
            return Ok(Err(Error::AccessDenied(denied(&format!("the secret {name}"), &line))));
        }
        let agent = plan.agent().clone();
        match self.session.secrets().get(&agent, &name).await {
            Ok(Some(secret)) => Ok(Ok(self.table.push(secret)?)),
            Ok(None) => {
                let how = how_to_set(&agent, &name);
                Ok(Err(Error::NotSet(format!("no value is set for {name:?}: {how}"))))
            }
            Err(error) => {
                self.session.note_failed("secrets", &error);
                Ok(Err(Error::Unavailable(error.to_string())))
            }
        }
    }
}

impl HostSecret for View<'_> {
    fn reveal(&mut self, secret: Resource<Secret>) -> wasmtime::Result<String> {
        self.session.count_call();
        let value = self.table.get(&secret)?.reveal();
        self.session.log().hide(value);
        Ok(value.to_owned())
    }

    async fn drop(&mut self, secret: Resource<Secret>) -> wasmtime::Result<()> {
        self.table.delete(secret)?;
        Ok(())
    }
}
