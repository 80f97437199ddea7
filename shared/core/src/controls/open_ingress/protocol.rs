//! IP protocols other than TCP, UDP and ICMP, as the policy names them.
//!
//! Deliberately not here: what a rule of one covers (`ports`).

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::ports::Lane;

/// Names that the policy may use for a number, after IANA's registry of protocol
/// numbers.
const NAMES: &[(u8, &str)] = &[
    (2, "igmp"),
    (4, "ipip"),
    (41, "6in4"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (88, "eigrp"),
    (89, "ospf"),
    (103, "pim"),
    (112, "vrrp"),
    (115, "l2tp"),
    (132, "sctp"),
];

/// An IP protocol by its number, or by name for the usual ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// The protocol of a lane; `None`: it is not one by number.
    pub(super) fn of(lane: &Lane) -> Option<Self> {
        match lane {
            Lane::Other(number) => number.parse().ok().map(Self),
            _ => None,
        }
    }

    /// Its lane, as EC2 writes it.
    pub(super) fn lane(self) -> Lane {
        Lane::Other(self.0.to_string())
    }

    /// The setting for this protocol, of those that have one.
    pub(super) fn setting(self) -> Option<&'static str> {
        match self.0 {
            1 => Some("icmp"),
            6 => Some("authorised_ports.tcp"),
            17 => Some("authorised_ports.udp"),
            58 => Some("icmpv6"),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((number, name)) => write!(f, "{} (protocol {number})", name.to_ascii_uppercase()),
            None => write!(f, "protocol {}", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Protocol;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a protocol's number (0 to 255) or one of")?;
                let mut names = NAMES.iter().map(|(_, name)| name);
                names.try_for_each(|name| write!(f, " \"{name}\""))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Protocol, E> {
                u8::try_from(number)
                    .map(Protocol)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Protocol, E> {
                let named = |(_, name): &&(u8, &str)| name.eq_ignore_ascii_case(text);
                let number = NAMES.iter().find(named).map(|(number, _)| *number);
                number
                    .or_else(|| text.parse().ok())
                    .map(Protocol)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Protocol {
    fn schema_name() -> Cow<'static, str> {
        "Protocol".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = NAMES.iter().map(|(_, name)| *name).collect();
        json_schema!({
            "description": "An IP protocol by its number, or by name for the usual ones. TCP, UDP, ICMP and ICMPv6 have settings of their own.",
            "oneOf": [
                { "type": "integer", "minimum": 0, "maximum": 255 },
                { "type": "string", "enum": names },
            ],
        })
    }
}
