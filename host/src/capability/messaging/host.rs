//! `wasi:messaging/types`.

use wasmtime::component::Resource;

use super::{Client, METADATA_BYTES_MAX, Message};
use crate::capability::View;
use crate::wit::capabilities::wasi::messaging::types::{Error, Host, HostClient, HostMessage};

impl Host for View<'_> {}

impl HostClient for View<'_> {
    fn connect(&mut self, _name: String) -> wasmtime::Result<Result<Resource<Client>, Error>> {
        self.session.count_call();
        let text = "an agent does not connect to a broker: submit through agent:runtime/tasks".to_owned();
        Ok(Err(Error::PermissionDenied(text)))
    }

    fn disconnect(&mut self, client: Resource<Client>) -> wasmtime::Result<Result<(), Error>> {
        match *self.table.get(&client)? {}
    }

    fn drop(&mut self, client: Resource<Client>) -> wasmtime::Result<()> {
        match self.table.delete(client)? {}
    }
}

impl HostMessage for View<'_> {
    fn new(&mut self, data: Vec<u8>) -> wasmtime::Result<Resource<Message>> {
        self.session.count_call();
        Ok(self.table.push(Message { data: data.into(), ..Message::default() })?)
    }

    fn topic(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.topic.clone())
    }

    fn content_type(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.content_type.clone())
    }

    fn set_content_type(&mut self, message: Resource<Message>, content_type: String) -> wasmtime::Result<()> {
        self.table.get_mut(&message)?.content_type = Some(content_type);
        Ok(())
    }

    fn data(&mut self, message: Resource<Message>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&message)?.data.to_vec())
    }

    fn set_data(&mut self, message: Resource<Message>, data: Vec<u8>) -> wasmtime::Result<()> {
        self.table.get_mut(&message)?.data = data.into();
        Ok(())
    }

    fn metadata(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<Vec<(String, String)>>> {
        let metadata = &self.table.get(&message)?.metadata;
        Ok((!metadata.is_empty()).then(|| metadata.clone()))
    }

    fn add_metadata(&mut self, message: Resource<Message>, key: String, value: String) -> wasmtime::Result<()> {
        let metadata = &mut self.table.get_mut(&message)?.metadata;
        match metadata.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => metadata.push((key, value)),
        }
        let bytes = metadata.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        if bytes.fold(0, usize::saturating_add) > METADATA_BYTES_MAX {
            // The function has no error to answer with, and the host's memory must not grow with the guest's loop.
            wasmtime::bail!("the metadata of a message takes at most {METADATA_BYTES_MAX} bytes");
        }
        Ok(())
    }

    fn set_metadata(&mut self, message: Resource<Message>, metadata: Vec<(String, String)>) -> wasmtime::Result<()> {
        self.table.get_mut(&message)?.metadata = metadata;
        Ok(())
    }

    fn remove_metadata(&mut self, message: Resource<Message>, key: String) -> wasmtime::Result<()> {
        self.table.get_mut(&message)?.metadata.retain(|(name, _)| *name != key);
        Ok(())
    }

    fn drop(&mut self, message: Resource<Message>) -> wasmtime::Result<()> {
        self.table.delete(message)?;
        Ok(())
    }
}
