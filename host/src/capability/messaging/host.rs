//! `wasi:messaging/types`.

use wasmtime::component::Resource;

use super::{Client, MESSAGES_BYTES_MAX, Message};
use crate::capability::{CapReached, View};
use crate::task::Limit;
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

impl View<'_> {
    /// Gives the agent the message that it is run for. It counts, and is there whatever else counts.
    pub(crate) fn hand_over(&mut self, message: Message) -> wasmtime::Result<Resource<Message>> {
        self.session.message_bytes = self.session.message_bytes.saturating_add(message.bytes());
        self.session.messages.resize(self.session.message_bytes)?;
        Ok(self.table.push(message)?)
    }

    /// Changes a message, where all that the task holds stays within the cap. None of these functions has an error to answer
    /// with, and the host's memory must not grow with the guest's loop.
    fn change(&mut self, message: &Resource<Message>, change: impl FnOnce(&mut Message)) -> wasmtime::Result<()> {
        self.session.count_call();
        let message = self.table.get_mut(message)?;
        let before = message.bytes();
        change(message);
        let after = message.bytes();
        self.hold_messages(before, after)
    }

    fn hold_messages(&mut self, before: usize, after: usize) -> wasmtime::Result<()> {
        let held = self.session.message_bytes.saturating_sub(before).saturating_add(after);
        self.session.message_bytes = held;
        if held > MESSAGES_BYTES_MAX.as_usize() {
            let allowed = MESSAGES_BYTES_MAX.to_string();
            return Err(CapReached(Limit { name: "host.message_bytes", allowed }).into());
        }
        Ok(self.session.messages.resize(held)?)
    }
}

impl HostMessage for View<'_> {
    fn new(&mut self, data: Vec<u8>) -> wasmtime::Result<Resource<Message>> {
        self.session.count_call();
        self.hold_messages(0, data.len())?;
        Ok(self.table.push(Message { data: data.into(), ..Message::default() })?)
    }

    fn topic(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.topic.clone())
    }

    fn content_type(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.content_type.clone())
    }

    fn set_content_type(&mut self, message: Resource<Message>, content_type: String) -> wasmtime::Result<()> {
        self.change(&message, |message| message.content_type = Some(content_type))
    }

    fn data(&mut self, message: Resource<Message>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&message)?.data.to_vec())
    }

    fn set_data(&mut self, message: Resource<Message>, data: Vec<u8>) -> wasmtime::Result<()> {
        self.change(&message, |message| message.data = data.into())
    }

    fn metadata(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<Vec<(String, String)>>> {
        let metadata = &self.table.get(&message)?.metadata;
        Ok((!metadata.is_empty()).then(|| metadata.clone()))
    }

    fn add_metadata(&mut self, message: Resource<Message>, key: String, value: String) -> wasmtime::Result<()> {
        self.change(&message, |message| match message.metadata.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => message.metadata.push((key, value)),
        })
    }

    fn set_metadata(&mut self, message: Resource<Message>, metadata: Vec<(String, String)>) -> wasmtime::Result<()> {
        self.change(&message, |message| message.metadata = metadata)
    }

    fn remove_metadata(&mut self, message: Resource<Message>, key: String) -> wasmtime::Result<()> {
        self.change(&message, |message| message.metadata.retain(|(name, _)| *name != key))
    }

    fn drop(&mut self, message: Resource<Message>) -> wasmtime::Result<()> {
        let message = self.table.delete(message)?;
        self.hold_messages(message.bytes(), 0)
    }
}
