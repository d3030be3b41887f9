//! The bytes of the journal of bans: a header, then records, each with its length and checksum.
//!
//! In: any bytes, whatever happened to them; out: the records that are whole, where the rest is
//! damaged, and where the file should end. A record's checksum covers the version too, so that a
//! record of another version is never taken for one of this.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use ipnet::IpNet;

use crate::policy::BanScope;

/// Version of the records below.
const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"limitban";

/// Magic, version, checksum of both.
pub(super) const HEADER_BYTES: usize = 16;

/// Length and checksum of a record's body.
const FRAME_BYTES: usize = 8;

/// Longest body that is read; shorter ones than the shortest lift are none.
const BODY_BYTES: std::ops::RangeInclusive<usize> = 8..=2_048;

/// Bytes of a reason or origin that are kept.
const MAX_TEXT_BYTES: usize = 900;

/// One ban as it lies on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::agent) struct Entry {
    pub(in crate::agent) prefix: IpNet,
    pub(in crate::agent) scope: BanScope,
    /// Wall clock, so that it means the same after a reboot.
    pub(in crate::agent) expires_unix_ns: u64,
    /// How long it was to last when it was made: a clock that was set back makes it no longer.
    pub(in crate::agent) length_ns: u64,
    pub(in crate::agent) reason: String,
    pub(in crate::agent) origin: String,
}

/// One record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::agent) enum Record {
    /// A ban was made or renewed.
    Ban(Entry),
    /// A ban was lifted.
    Lift(IpNet, BanScope),
}

impl Record {
    /// Which ban it is about.
    pub(super) const fn key(&self) -> (IpNet, BanScope) {
        match self {
            Self::Ban(entry) => (entry.prefix, entry.scope),
            Self::Lift(prefix, scope) => (*prefix, *scope),
        }
    }
}

const BAN: u8 = 1;
const LIFT: u8 = 2;

/// What a journal begins with.
pub(super) fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let checksum = crc32c(0, &header[..12]);
    header[12..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Appends a record.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; FRAME_BYTES]);
    let (kind, (prefix, scope)) = match record {
        Record::Ban(_) => (BAN, record.key()),
        Record::Lift(..) => (LIFT, record.key()),
    };
    let scope = match scope {
        BanScope::Kernel => 0,
        BanScope::Http => 1,
    };
    out.extend([kind, scope, prefix.prefix_len()]);
    match prefix.addr() {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend(v6.octets());
        }
    }
    if let Record::Ban(entry) = record {
        out.extend(entry.expires_unix_ns.to_le_bytes());
        out.extend(entry.length_ns.to_le_bytes());
        for text in [&entry.origin, &entry.reason] {
            let text = &text[..text.floor_char_boundary(MAX_TEXT_BYTES)];
            out.extend(u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
            out.extend(text.as_bytes());
        }
    }
    let body = start + FRAME_BYTES;
    let length = u32::try_from(out.len() - body).unwrap_or(u32::MAX).to_le_bytes();
    let checksum = checksum(length, &out[body..]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..body].copy_from_slice(&checksum.to_le_bytes());
}

/// What a journal turned out to be.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Scan {
    /// Where the last whole record ends: what follows was torn off, and is cut off.
    pub(super) end: usize,
    /// What lies between whole records and is none.
    pub(super) damaged: Vec<Range<usize>>,
    /// Another version wrote it: nothing in it is understood.
    pub(super) is_foreign: bool,
}

/// Hands on every whole record, in order, with the bytes it lies in.
pub(super) fn scan(bytes: &[u8], mut on_record: impl FnMut(Record, Range<usize>)) -> Scan {
    let mut scan = Scan::default();
    let expected = header();
    let mut at = match bytes.get(..HEADER_BYTES) {
        Some(found) if found == expected => HEADER_BYTES,
        Some(found) if is_header(found) => {
            scan.is_foreign = true;
            return scan;
        }
        Some(_) => 0,
        // Torn while it was made: there was no record yet.
        None => return scan,
    };
    scan.end = at;
    while at < bytes.len() {
        let found = (at..bytes.len()).find_map(|start| Some((start, decode_at(bytes, start)?)));
        let Some((start, (record, end))) = found else { break };
        if start > at {
            scan.damaged.push(at..start);
        }
        on_record(record, start..end);
        at = end;
        scan.end = end;
    }
    scan
}

/// Whether it is the whole header of some version.
fn is_header(found: &[u8]) -> bool {
    found.starts_with(&MAGIC) && found[12..] == crc32c(0, &found[..12]).to_le_bytes()
}

/// The whole record at this place, and where it ends.
fn decode_at(bytes: &[u8], start: usize) -> Option<(Record, usize)> {
    let frame = bytes.get(start..start + FRAME_BYTES)?;
    let length: [u8; 4] = frame[..4].try_into().ok()?;
    let count = usize::try_from(u32::from_le_bytes(length)).ok()?;
    if !BODY_BYTES.contains(&count) {
        return None;
    }
    let begin = start + FRAME_BYTES;
    let body = bytes.get(begin..begin + count)?;
    if checksum(length, body).to_le_bytes() != frame[4..] {
        return None;
    }
    Some((decode(body)?, begin + count))
}

fn decode(body: &[u8]) -> Option<Record> {
    let mut rest = body;
    let [kind, scope, length, family] = take(&mut rest)?;
    let scope = match scope {
        0 => BanScope::Kernel,
        1 => BanScope::Http,
        _ => return None,
    };
    let address = match family {
        4 => IpAddr::V4(Ipv4Addr::from(take::<4>(&mut rest)?)),
        6 => IpAddr::V6(Ipv6Addr::from(take::<16>(&mut rest)?)),
        _ => return None,
    };
    let prefix = IpNet::new(address, length).ok()?;
    let record = match kind {
        BAN => {
            let expires_unix_ns = u64::from_le_bytes(take(&mut rest)?);
            let length_ns = u64::from_le_bytes(take(&mut rest)?);
            let (origin, reason) = (text(&mut rest)?, text(&mut rest)?);
            Record::Ban(Entry { prefix, scope, expires_unix_ns, length_ns, reason, origin })
        }
        LIFT => Record::Lift(prefix, scope),
        _ => return None,
    };
    rest.is_empty().then_some(record)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (text, left) = rest.split_at_checked(length)?;
    *rest = left;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    crc32c(crc32c(VERSION, &length), body)
}

/// CRC-32C (RFC 3720, appendix B.4), going on from `seed`.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!seed, |crc, byte| (crc >> 8) ^ CRC_TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc: u32 = index;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::agent) fn entry(prefix: &str, expires_unix_ns: u64) -> Entry {
        Entry {
            prefix: prefix.parse().unwrap(),
            scope: BanScope::Kernel,
            expires_unix_ns,
            length_ns: 600_000_000_000,
            reason: "score 60 of 50 in 60s".into(),
            origin: "manual".into(),
        }
    }

    fn records() -> Vec<Record> {
        let http = |entry: Entry| Entry { scope: BanScope::Http, ..entry };
        vec![
            Record::Ban(entry("192.0.2.1/32", 1)),
            Record::Ban(http(entry("2001:db8::/32", u64::MAX))),
            Record::Lift("192.0.2.1/32".parse().unwrap(), BanScope::Kernel),
            Record::Ban(Entry { reason: "\u{fc}".repeat(1_000), ..entry("0.0.0.0/0", 3) }),
            Record::Lift("2001:db8::/32".parse().unwrap(), BanScope::Http),
            Record::Ban(Entry { reason: String::new(), ..entry("198.51.100.0/24", 4) }),
        ]
    }

    fn journal() -> Vec<u8> {
        let mut bytes = header().to_vec();
        for record in records() {
            encode(&record, &mut bytes);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> (Vec<Record>, Scan) {
        let mut read = Vec::new();
        let scan = scan(bytes, |record, range| {
            let mut again = Vec::new();
            encode(&record, &mut again);
            assert_eq!(&bytes[range], again);
            read.push(record);
        });
        (read, scan)
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = journal();
        let (read, scan) = read(&bytes);
        let mut expected = records();
        let Record::Ban(long) = &mut expected[3] else { panic!("{expected:?}") };
        long.reason.truncate(MAX_TEXT_BYTES);
        assert_eq!(read, expected);
        assert_eq!(scan, Scan { end: bytes.len(), damaged: Vec::new(), is_foreign: false });
    }

    #[test]
    fn any_beginning_of_a_journal_is_a_beginning_of_its_records() {
        let bytes = journal();
        let (whole, _) = read(&bytes);
        let mut seen = 0;
        for length in 0..bytes.len() {
            let (read, scan) = read(&bytes[..length]);
            assert_eq!(read, whole[..read.len()]);
            assert!(read.len() >= seen && scan.end <= length && scan.damaged.is_empty());
            seen = read.len();
            // And it can be written on from there.
            let mut longer = bytes[..scan.end].to_vec();
            if longer.is_empty() {
                longer.extend(header());
            }
            encode(&whole[0], &mut longer);
            assert_eq!(self::read(&longer).0.len(), read.len() + 1);
        }
        assert_eq!(seen + 1, whole.len());
    }

    #[test]
    fn any_damage_costs_only_what_it_hits() {
        let bytes = journal();
        let (whole, _) = read(&bytes);
        for at in HEADER_BYTES..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let (read, scan) = read(&damaged);
                assert_eq!(read.len(), whole.len() - 1, "{at}");
                assert!(read.iter().all(|record| whole.contains(record)));
                let is_last = scan.damaged.is_empty();
                assert!(if is_last { scan.end <= at } else { scan.damaged[0].contains(&at) });
            }
        }
    }

    #[test]
    fn a_damaged_header_is_told_from_one_of_another_version() {
        let mut damaged = journal();
        damaged[3] ^= 1;
        let (read, scan) = read(&damaged);
        let whole_header = 0..HEADER_BYTES;
        assert_eq!((read.len(), scan.damaged), (records().len(), vec![whole_header]));
        let mut foreign = journal();
        foreign[8] = 2;
        let checksum = crc32c(0, &foreign[..12]);
        foreign[12..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        let (read, scan) = self::read(&foreign);
        assert!(read.is_empty() && scan.is_foreign);
    }

    #[test]
    fn noise_is_no_record() {
        let mut random = 3_u64;
        let mut noise = Vec::new();
        for _ in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            noise.extend(random.to_le_bytes());
        }
        assert!(read(&noise).0.is_empty());
        assert!(read(&vec![0; 100_000]).0.is_empty());
    }
}
