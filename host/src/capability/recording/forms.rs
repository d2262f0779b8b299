//! How values are written that JSON has no form for, for `serde(with = …)`.

/// Bytes as text, where they are, and else as `{"base64": "…"}`.
pub(crate) mod blob {
    use std::borrow::Cow;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// The two forms.
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form<'a> {
        Text(Cow<'a, str>),
        Base64 { base64: Cow<'a, str> },
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Form::Text(text.into()),
            Err(_) => Form::Base64 { base64: STANDARD.encode(bytes).into() },
        }
        .serialize(to)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Those of the deserializer, and what is no base64.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        match Form::deserialize(from)? {
            Form::Text(text) => Ok(text.into_owned().into_bytes()),
            Form::Base64 { base64 } => STANDARD.decode(base64.as_bytes()).map_err(serde::de::Error::custom),
        }
    }

    /// Bytes by themselves.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub(crate) struct Blob(#[serde(with = "self")] pub(crate) Vec<u8>);

    /// Likewise, of somebody else.
    #[derive(Serialize)]
    #[serde(transparent)]
    pub(crate) struct Lent<'a>(#[serde(serialize_with = "serialize")] pub(crate) &'a [u8]);
}

/// Floating-point numbers as their bits: what is not a number has many.
pub(crate) mod bits {
    /// Of 32 bits.
    pub(crate) mod of_f32 {
        use serde::{Deserialize, Deserializer, Serializer};

        /// Writes it.
        ///
        /// # Errors
        /// Those of the serializer.
        #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
        pub(crate) fn serialize<S: Serializer>(number: &f32, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_u32(number.to_bits())
        }

        /// Reads it.
        ///
        /// # Errors
        /// Those of the deserializer.
        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
            u32::deserialize(from).map(f32::from_bits)
        }
    }

    /// Of 64 bits.
    pub(crate) mod of_f64 {
        use serde::{Deserialize, Deserializer, Serializer};

        /// Writes it.
        ///
        /// # Errors
        /// Those of the serializer.
        #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
        pub(crate) fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_u64(number.to_bits())
        }

        /// Reads it.
        ///
        /// # Errors
        /// Those of the deserializer.
        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
            u64::deserialize(from).map(f64::from_bits)
        }
    }
}

/// The reasons behind errors: they are the host's alone, with its addresses, and so are not written.
pub(crate) mod cause {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::capability::Cause;

    /// Writes nothing of it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub(crate) fn serialize<S: Serializer>(_: &Cause, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_unit()
    }

    /// Says where it comes from.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Cause, D::Error> {
        <()>::deserialize(from).map(|()| "as it was recorded".into())
    }
}
