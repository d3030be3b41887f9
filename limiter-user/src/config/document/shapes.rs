//! Values that may be written in more than one shape: a name or several, a network or a table.
//!
//! Written by hand instead of as untagged enums, which would lose every place in the file.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use toml::Spanned;

use super::{RotateDocument, Text};

/// `"name"` or `["name", ...]`.
pub(in crate::config) enum NamesDocument {
    /// A bare name; its place is that of the whole value.
    One(String),
    /// A list.
    Many(Vec<Text>),
}

impl<'de> Deserialize<'de> for NamesDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = NamesDocument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a list of names")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(NamesDocument::One(name.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(NamesDocument::Many(names))
            }
        }
        deserializer.deserialize_any(Names)
    }
}

/// `"CIDR"` or `{ cidr = "CIDR", interface = "eth1" }`.
pub(in crate::config) struct TrustedDocument {
    /// The network, if it was written as a bare string.
    pub(in crate::config) bare: Option<String>,
    /// The table.
    pub(in crate::config) table: TrustedTable,
}

/// The table form of a trusted network.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct TrustedTable {
    /// The network.
    pub(in crate::config) cidr: Option<Text>,
    /// Only what arrives on this interface. Default: on any.
    pub(in crate::config) interface: Option<Text>,
}

impl<'de> Deserialize<'de> for TrustedDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Trusted;
        impl<'de> Visitor<'de> for Trusted {
            type Value = TrustedDocument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a network such as \"10.0.0.0/8\", or { cidr, interface }")
            }

            fn visit_str<E: de::Error>(self, cidr: &str) -> Result<Self::Value, E> {
                Ok(TrustedDocument { bare: Some(cidr.to_owned()), table: TrustedTable::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Ok(TrustedDocument {
                    bare: None,
                    table: Deserialize::deserialize(MapAccessDeserializer::new(map))?,
                })
            }
        }
        deserializer.deserialize_any(Trusted)
    }
}

/// `"json"` or `{ format = "json", path = "access.log" }`.
pub(in crate::config) struct AccessLogDocument {
    /// The format, if it was written as a bare string.
    pub(in crate::config) bare: Option<String>,
    /// The table.
    pub(in crate::config) table: AccessLogTable,
}

/// The table form of an access log.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct AccessLogTable {
    /// `json` or `combined`.
    pub(in crate::config) format: Option<Text>,
    /// Default `/var/log/limiter/access.log`.
    pub(in crate::config) path: Option<Text>,
    /// Default `{ size = "100MB", keep = 10 }`.
    pub(in crate::config) rotate: Option<Spanned<RotateDocument>>,
}

impl<'de> Deserialize<'de> for AccessLogDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AccessLog;
        impl<'de> Visitor<'de> for AccessLog {
            type Value = AccessLogDocument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"off\", \"json\", \"combined\", or { format, path, rotate }")
            }

            fn visit_str<E: de::Error>(self, format: &str) -> Result<Self::Value, E> {
                let table = AccessLogTable::default();
                Ok(AccessLogDocument { bare: Some(format.to_owned()), table })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Ok(AccessLogDocument {
                    bare: None,
                    table: Deserialize::deserialize(MapAccessDeserializer::new(map))?,
                })
            }
        }
        deserializer.deserialize_any(AccessLog)
    }
}

/// `22`, `"tcp/22"`, and where it means something `"tcp/8000-8010"` or `"auto"`.
pub(in crate::config) enum PortDocument {
    /// A bare number.
    Number(i64),
    /// Anything in quotes.
    Text(String),
}

impl<'de> Deserialize<'de> for PortDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Port;
        impl Visitor<'_> for Port {
            type Value = PortDocument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port such as \"tcp/22\"")
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<Self::Value, E> {
                Ok(PortDocument::Number(port))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(PortDocument::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Port)
    }
}

/// `{ env = "NAME" }` or `{ file = "PATH" }`.
pub(in crate::config) enum SecretDocument {
    /// Written into the file itself; refused, and its text is not kept.
    Inline,
    /// Where to find it.
    Reference(SecretReference),
}

/// Where a secret is found.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct SecretReference {
    /// An environment variable of the agent.
    pub(in crate::config) env: Option<Text>,
    /// A file that only its owner (and group) can read.
    pub(in crate::config) file: Option<Text>,
}

impl<'de> Deserialize<'de> for SecretDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Secret;
        impl<'de> Visitor<'de> for Secret {
            type Value = SecretDocument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{ env = \"NAME\" } or { file = \"PATH\" }")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
                Ok(SecretDocument::Inline)
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
                Ok(SecretDocument::Inline)
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
                Ok(SecretDocument::Inline)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
                Ok(SecretDocument::Inline)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(SecretDocument::Inline)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map))
                    .map(SecretDocument::Reference)
            }
        }
        deserializer.deserialize_any(Secret)
    }
}

/// A key that verifies signatures: a [`SecretDocument`] with what it is for.
pub(in crate::config) struct SignatureKeyDocument {
    /// Where to find it.
    pub(in crate::config) key: SecretDocument,
    /// What else is said of it.
    pub(in crate::config) table: SignatureKeyTable,
}

/// The table form of a key.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct SignatureKeyTable {
    /// An environment variable of the agent.
    env: Option<Text>,
    /// A file.
    file: Option<Text>,
    /// `hmac-sha256` for a shared secret. Default: what follows from the public key.
    pub(in crate::config) algorithm: Option<Text>,
    /// Tier of the principal. Default: none.
    pub(in crate::config) tier: Option<Text>,
    /// Scopes of the principal. Default: none.
    pub(in crate::config) scopes: Option<Spanned<Vec<Text>>>,
}

impl<'de> Deserialize<'de> for SignatureKeyDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;
        impl<'de> Visitor<'de> for Key {
            type Value = SignatureKeyDocument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{ file = \"PATH\" } or { env = \"NAME\" }")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
                let table = SignatureKeyTable::default();
                Ok(SignatureKeyDocument { key: SecretDocument::Inline, table })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let mut table: SignatureKeyTable =
                    Deserialize::deserialize(MapAccessDeserializer::new(map))?;
                let (env, file) = (table.env.take(), table.file.take());
                let key = SecretDocument::Reference(SecretReference { env, file });
                Ok(SignatureKeyDocument { key, table })
            }
        }
        deserializer.deserialize_any(Key)
    }
}
