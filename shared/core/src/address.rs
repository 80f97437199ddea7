//! Public address space: which addresses of a CIDR block belong to the
//! internet, and how many they are.
//!
//! IPv4 and IPv6 are never added up. Deliberately not here: what is too much
//! (policy) and who admits it (controls).

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};
use rangemap::RangeInclusiveSet;
use serde::{Deserialize, Serialize};

/// The two address families, which are judged apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// A block as (first address, prefix length).
type Block = (u128, u8);

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Block {
    (u32::from_be_bytes([a, b, c, d]) as u128, prefix)
}

/// IPv4 blocks that are not the internet: the IANA IPv4 Special-Purpose
/// Address Registry's entries that are not globally reachable (RFC 6890 and
/// successors), with multicast (RFC 5771) and the former class E (RFC 1112).
const SPECIAL_IPV4: &[Block] = &[
    v4(0, 0, 0, 0, 8),       // "this network", RFC 791
    v4(10, 0, 0, 0, 8),      // private use, RFC 1918
    v4(100, 64, 0, 0, 10),   // shared address space, RFC 6598
    v4(127, 0, 0, 0, 8),     // loopback, RFC 1122
    v4(169, 254, 0, 0, 16),  // link local, RFC 3927
    v4(172, 16, 0, 0, 12),   // private use, RFC 1918
    v4(192, 0, 0, 0, 24),    // IETF protocol assignments, RFC 6890
    v4(192, 0, 2, 0, 24),    // documentation, RFC 5737
    v4(192, 168, 0, 0, 16),  // private use, RFC 1918
    v4(198, 18, 0, 0, 15),   // benchmarking, RFC 2544
    v4(198, 51, 100, 0, 24), // documentation, RFC 5737
    v4(203, 0, 113, 0, 24),  // documentation, RFC 5737
    v4(224, 0, 0, 0, 4),     // multicast, RFC 5771
    v4(240, 0, 0, 0, 4),     // reserved and limited broadcast, RFC 1112
];

/// The whole public IPv6 internet: global unicast, RFC 4291. Everything
/// outside (fc00::/7, fe80::/10, ff00::/8, ::1, …) is not the internet.
const GLOBAL_UNICAST_IPV6: Block = (0x2000_u128 << 112, 3);

/// Blocks inside global unicast that are not the internet, from the IANA IPv6
/// Special-Purpose Address Registry.
const SPECIAL_IPV6: &[Block] = &[
    (0x2001_0002_u128 << 96, 48), // benchmarking, RFC 5180
    (0x2001_0db8_u128 << 96, 32), // documentation, RFC 3849
    (0x3fff_u128 << 112, 20),     // documentation, RFC 9637
];

fn bounds((first, prefix): Block, width: u8) -> RangeInclusive<u128> {
    let host_bits = u32::from(width.saturating_sub(prefix));
    let size_less_one = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |n| n - 1);
    first..=first.saturating_add(size_less_one)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// Reads a CIDR block as people write it: blanks around its parts do not matter,
/// and with a prefix length of 0 neither do the digits of an IPv4 address (`0/0`,
/// `0.0/0`). `None`: what it means is not certain.
#[must_use]
pub fn read(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let (address, length) = (address.trim(), length.trim());
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length = length.parse().ok()?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match address.parse::<IpAddr>() {
        Ok(address) => IpNet::new(address, length).ok(),
        Err(_) if length == 0 && address.split('.').all(digits) => {
            Some(IpNet::V4(Ipv4Net::default()))
        }
        Err(_) => None,
    }
}

/// A set of addresses of one family, written as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet(RangeInclusiveSet<u128>);

impl AddressSet {
    /// The public addresses of a CIDR block. Host bits do not matter:
    /// `203.0.113.9/0` is the whole internet.
    #[must_use]
    pub fn public_part(block: IpNet) -> (Family, Self) {
        let range = number(block.network())..=match block {
            IpNet::V4(n) => number(n.broadcast().into()),
            IpNet::V6(n) => number(n.broadcast().into()),
        };
        let mut set = RangeInclusiveSet::new();
        let family = match block {
            IpNet::V4(_) => {
                set.insert(range);
                for special in SPECIAL_IPV4 {
                    set.remove(bounds(*special, 32));
                }
                Family::Ipv4
            }
            IpNet::V6(_) => {
                let public = bounds(GLOBAL_UNICAST_IPV6, 128);
                let first = *range.start().max(public.start());
                let last = *range.end().min(public.end());
                if first <= last {
                    set.insert(first..=last);
                }
                for special in SPECIAL_IPV6 {
                    set.remove(bounds(*special, 128));
                }
                Family::Ipv6
            }
        };
        (family, Self(set))
    }

    /// Adds every address of `other`.
    pub fn extend(&mut self, other: &Self) {
        for range in other.0.iter() {
            self.0.insert(range.clone());
        }
    }

    /// How many addresses the set holds. The public space of either family is
    /// below 2^126, so this cannot overflow.
    #[must_use]
    pub fn size(&self) -> u128 {
        self.0
            .iter()
            .map(|r| r.end() - r.start() + 1)
            .fold(0, u128::saturating_add)
    }

    /// Whether the set holds no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The number of addresses of a block, public or not (saturating at 2^128-1
/// for `::/0`).
#[must_use]
pub fn block_size(block: IpNet) -> u128 {
    let host_bits = u32::from(block.max_prefix_len() - block.prefix_len());
    1_u128.checked_shl(host_bits).unwrap_or(u128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(block: &str) -> u128 {
        AddressSet::public_part(block.parse().unwrap()).1.size()
    }

    #[test]
    fn the_internet_is_all_but_the_special_ranges() {
        // 2^32 less 0/8, 10/8, 127/8 (3 x 2^24), 100.64/10 (2^22), 172.16/12
        // (2^20), 169.254/16 and 192.168/16 (2 x 2^16), five /24 (5 x 2^8; the
        // fifth is 192.0.0/24), hence four documentation-sized ones plus it,
        // 198.18/15 (2^17), 224/4 and 240/4 (2 x 2^28).
        let special = 3 * (1u128 << 24)
            + (1 << 22)
            + (1 << 20)
            + 2 * (1 << 16)
            + 4 * (1 << 8)
            + (1 << 17)
            + 2 * (1 << 28);
        assert_eq!(public("0.0.0.0/0"), (1 << 32) - special);
        assert_eq!(
            public("203.0.113.9/0"),
            public("0.0.0.0/0"),
            "host bits do not matter"
        );
    }

    #[test]
    fn private_and_special_blocks_admit_nobody_from_the_internet() {
        for block in [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "0.0.0.0/8",
            "198.18.0.0/15",
            "203.0.113.0/24",
            "fc00::/7",
            "fe80::/10",
            "ff00::/8",
            "::1/128",
            "2001:db8::/32",
        ] {
            assert_eq!(public(block), 0, "{block}");
        }
    }

    #[test]
    fn sizes_of_ordinary_public_blocks_are_exact() {
        assert_eq!(public("8.8.8.8/32"), 1);
        assert_eq!(public("52.0.0.0/8"), 1 << 24);
        assert_eq!(public("2a00::/12"), 1 << 116);
        assert!(public("::/0") > 1 << 124 && public("::/0") < 1 << 125);
        assert_eq!(
            public("2001:db8::/31"),
            1 << 96,
            "half of it is documentation"
        );
    }

    #[test]
    fn a_block_is_read_where_it_is_certain_what_it_means() {
        for (text, block) in [
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("0.0.0.0/0 ", "0.0.0.0/0"),
            ("\t0.0.0.0 / 0\n", "0.0.0.0/0"),
            ("\u{a0}0.0.0.0/0\u{a0}", "0.0.0.0/0"),
            ("0/0", "0.0.0.0/0"),
            (" 0/0 ", "0.0.0.0/0"),
            ("0.0/0", "0.0.0.0/0"),
            ("000.000.000.000/0", "0.0.0.0/0"),
            ("10/0", "0.0.0.0/0"),
            ("0.0.0.0/00", "0.0.0.0/0"),
            ("10.0.0.0/08", "10.0.0.0/8"),
            ("198.51.100.9/1", "198.51.100.9/1"),
            ("::/0", "::/0"),
            (" ::/0", "::/0"),
            ("::0/0", "::/0"),
            ("0:0:0:0:0:0:0:0/0", "::/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(read(text), Some(block.parse().unwrap()), "{text:?}");
        }
        for text in [
            "",
            "/",
            "/0",
            "0",
            "0.0.0.0",
            "::",
            "10/8",
            "10.0/16",
            "0.0.0.0/33",
            "::/129",
            "0.0.0.0/-0",
            "0.0.0.0/+0",
            "0.0.0.0/0/0",
            "0.0.0.0/0.0.0.0",
            "0..0/0",
            "./0",
            "010.0.0.0/8",
            "any",
            "all",
            "0.0.0.0-255.255.255.255",
            "0x0/0",
            "[::]/0",
            "fe80::1%eth0/64",
            "0.0.0.0/0,::/0",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_union_counts_an_address_once() {
        let mut all = AddressSet::public_part("0.0.0.0/1".parse().unwrap()).1;
        all.extend(&AddressSet::public_part("128.0.0.0/1".parse().unwrap()).1);
        all.extend(&AddressSet::public_part("52.0.0.0/8".parse().unwrap()).1);
        assert_eq!(all.size(), public("0.0.0.0/0"));
    }
}
