//! `wasi:config/store`.

use crate::capability::View;
use crate::wit::capabilities::wasi::config::store::{Error, Host};

impl Host for View<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        self.session.count_call();
        Ok(Ok(self.session.plan().manifest().config.get(&key).cloned()))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        self.session.count_call();
        let config = &self.session.plan().manifest().config;
        Ok(Ok(config.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}
