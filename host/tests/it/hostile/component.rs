//! From a fixture's text to the component that is deployed.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

/// Everything that a host offers, and the export that it calls.
const WORLD: &str = "package hostile:guest;
world guest {
    include agent:runtime/agent@0.1.0;
    include agent:runtime/host-capabilities@0.1.0;
}";

/// How a fixture says that its strings are not UTF-8.
const ENCODING: &str = ";; string-encoding: ";

/// Makes components of core modules that import and export by the names of the canonical ABI.
pub(crate) struct Encoder {
    resolve: Resolve,
    world: WorldId,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        let mut resolve = Resolve::default();
        resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")).unwrap();
        let package = resolve.push_str("guest.wit", WORLD).unwrap();
        let world = resolve.select_world(&[package], Some("guest")).unwrap();
        Self { resolve, world }
    }

    /// The component of a core module's text.
    pub(crate) fn component(&self, text: &str) -> Vec<u8> {
        let encoding = text.lines().find_map(|line| line.strip_prefix(ENCODING));
        let encoding: StringEncoding = encoding.map_or(Ok(StringEncoding::UTF8), str::parse).unwrap();
        self.wrapped(wat::parse_str(text).unwrap(), encoding)
    }

    fn wrapped(&self, mut module: Vec<u8>, encoding: StringEncoding) -> Vec<u8> {
        embed_component_metadata(&mut module, &self.resolve, self.world, encoding, false).unwrap();
        // Not validated: that is for the host to do.
        ComponentEncoder::default().validate(false).module(&module).unwrap().encode().unwrap()
    }
}
