//! Whom a client's certificate names: its subject and its alternative names.
//!
//! In: a certificate that was verified, and patterns; out: the name that matched. Never verifies
//! anything itself.

use toml::value::{Date, Datetime, Offset, Time};

use super::der::{Reader, tag};
use crate::keys::date;

/// `2.5.29.17`, `id-ce-subjectAltName`.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// Names longer than this are no principals.
const MAX_NAME_BYTES: usize = 255;

/// Attributes of a subject that patterns can name (RFC 4514, 3), by their object identifiers.
const ATTRIBUTES: [(&str, &[u8]); 9] = [
    ("CN", &[0x55, 4, 3]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("C", &[0x55, 4, 6]),
    ("STREET", &[0x55, 4, 9]),
    ("DC", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
    ("UID", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1]),
];

/// What a certificate says of its holder.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Names {
    /// Attributes of the subject in their order, those that patterns can name.
    subject: Vec<(&'static str, String)>,
    alternatives: Vec<Alternative>,
    not_after: u64,
}

/// One alternative name.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Alternative {
    Dns(String),
    Uri(String),
    Email(String),
}

/// Which certificates a principal has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Pattern {
    /// A DNS name, lower case; or all names below it.
    Dns {
        /// Without `*.`.
        name: String,
        /// Below it instead of it.
        below: bool,
    },
    /// A URI; or all that begin with it, which ends with a slash.
    Uri {
        /// Without `*`.
        uri: String,
        /// All that begin with it and go on.
        below: bool,
    },
    /// An address; or all at a domain, without a local part.
    Email {
        /// Before the `@`; `None`: any.
        local: Option<String>,
        /// Lower case.
        domain: String,
    },
    /// Every one of these attributes is in the subject.
    Subject(Vec<(&'static str, String)>),
}

impl Pattern {
    /// A name as an alternative name: `a.example.com`, `*.example.com`, `spiffe://trust/path`,
    /// `spiffe://trust/*`, `a@example.com` or `*@example.com`. The error says what is allowed.
    pub fn alternative(text: &str) -> Result<Self, String> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !printable {
            return Err("a name has 1 to 255 printable ASCII characters".to_owned());
        }
        let stars = text.matches('*').count();
        if text.contains("://") {
            return match text.strip_suffix("/*") {
                Some(uri) if stars == 1 && !uri.ends_with(['/', ':']) => {
                    Ok(Self::Uri { uri: format!("{uri}/"), below: true })
                }
                None if stars == 0 => Ok(Self::Uri { uri: text.to_owned(), below: false }),
                _ => Err("`*` stands only at a URI's end, after the host and a slash".to_owned()),
            };
        }
        if let Some((local, domain)) = text.rsplit_once('@') {
            if domain.contains('*') || local.is_empty() || (local.contains('*') && local != "*") {
                return Err("`*` stands only for all that is before the `@`".to_owned());
            }
            let local = (local != "*").then(|| local.to_owned());
            return Ok(Self::Email { local, domain: domain.to_ascii_lowercase() });
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') || !is_host(name) {
            return Err("not a DNS name, `*.` and one, a URI or an e-mail address".to_owned());
        }
        Ok(Self::Dns { name: name.to_ascii_lowercase(), below })
    }

    /// Attributes of a subject: `CN=alice`, or several as in `CN=alice, O=Example`.
    pub fn subject(text: &str) -> Result<Self, String> {
        let mut wanted = Vec::new();
        for part in text.split(',') {
            let allowed = || ATTRIBUTES.map(|(name, _)| name).join(", ");
            let (name, value) = part.split_once('=').ok_or("write `CN=name`")?;
            let (name, value) = (name.trim(), value.trim());
            let known = ATTRIBUTES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            let (name, _) = known.ok_or_else(|| format!("the attributes are {}", allowed()))?;
            if value.is_empty() || value.contains(['*', '\\', '"', '+']) {
                return Err(format!("{name} is compared as it is, without `*`, quotes or `\\`"));
            }
            wanted.push((*name, value.to_owned()));
        }
        Ok(Self::Subject(wanted))
    }

    /// The name in a certificate that this pattern means: the alternative name, or of a subject its
    /// only common name or else all of its attributes. `None`: another certificate.
    pub fn matched(&self, names: &Names) -> Option<String> {
        if let Self::Subject(wanted) = self {
            return wanted
                .iter()
                .all(|one| names.subject.contains(one))
                .then(|| names.subject_name());
        }
        names.alternatives.iter().find_map(|one| match (self, one) {
            (Self::Dns { name, below }, Alternative::Dns(found)) => {
                let rest = found.strip_suffix(name.as_str())?;
                let fits =
                    if *below { rest.len() > 1 && rest.ends_with('.') } else { rest.is_empty() };
                fits.then(|| found.clone())
            }
            (Self::Uri { uri, below }, Alternative::Uri(found)) => {
                let rest = found.strip_prefix(uri.as_str())?;
                (*below != rest.is_empty()).then(|| found.clone())
            }
            (Self::Email { local, domain }, Alternative::Email(found)) => {
                let (name, host) = found.rsplit_once('@')?;
                let fits = local.as_ref().is_none_or(|local| local == name) && !name.is_empty();
                (fits && host.eq_ignore_ascii_case(domain)).then(|| found.clone())
            }
            _ => None,
        })
    }
}

impl Names {
    /// Reads a certificate in DER. `None`: it is not one. Names that cannot stand in a header, and
    /// DNS names that stand for several hosts, name nobody and are left out.
    pub fn read(certificate: &[u8]) -> Option<Self> {
        let mut outer = Reader::new(certificate);
        let mut inner = outer.enter(tag::SEQUENCE)?.enter(tag::SEQUENCE)?;
        let mut names = Self::default();
        // Version, which alone is optional, and serial number.
        if inner.any()?.0 == 0xa0 {
            inner.any()?;
        }
        // Signature algorithm, issuer.
        inner.expect(tag::SEQUENCE)?;
        inner.expect(tag::SEQUENCE)?;
        let mut validity = inner.enter(tag::SEQUENCE)?;
        validity.any()?;
        names.not_after = moment(validity.any()?)?;
        names.read_subject(inner.enter(tag::SEQUENCE)?)?;
        inner.expect(tag::SEQUENCE)?;
        while !inner.is_empty() {
            let (found, content) = inner.any()?;
            if found == 0xa3 {
                let mut extensions = Reader::new(content).enter(tag::SEQUENCE)?;
                while !extensions.is_empty() {
                    names.read_extension(extensions.enter(tag::SEQUENCE)?)?;
                }
            }
        }
        Some(names)
    }

    /// When the certificate ends, in Unix seconds: connections and sessions may go on for longer.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    fn read_subject(&mut self, mut subject: Reader<'_>) -> Option<()> {
        while !subject.is_empty() {
            let mut set = subject.enter(tag::SET)?;
            while !set.is_empty() {
                let mut attribute = set.enter(tag::SEQUENCE)?;
                let object = attribute.expect(tag::OBJECT)?;
                let (kind, value) = attribute.any()?;
                let known = ATTRIBUTES.iter().find(|(_, known)| *known == object);
                if let (Some((name, _)), tag::UTF8 | tag::PRINTABLE | tag::IA5) = (known, kind) {
                    let text = std::str::from_utf8(value).ok()?;
                    if !text.chars().any(char::is_control) && text.len() <= MAX_NAME_BYTES {
                        self.subject.push((name, text.to_owned()));
                    }
                }
            }
        }
        Some(())
    }

    fn read_extension(&mut self, mut extension: Reader<'_>) -> Option<()> {
        if extension.expect(tag::OBJECT)? != ALTERNATIVE_NAMES {
            return Some(());
        }
        let (mut found, mut content) = extension.any()?;
        if found == 0x01 {
            (found, content) = extension.any()?;
        }
        if found != tag::OCTETS {
            return None;
        }
        let mut names = Reader::new(content).enter(tag::SEQUENCE)?;
        while !names.is_empty() {
            let (kind, value) = names.any()?;
            let usable = !value.is_empty() && value.len() <= MAX_NAME_BYTES;
            let text = std::str::from_utf8(value)
                .ok()
                .filter(|text| usable && text.bytes().all(|byte| byte.is_ascii_graphic()));
            self.alternatives.extend(text.and_then(|text| match kind {
                0x81 => Some(Alternative::Email(text.to_owned())),
                0x82 if is_host(text) => Some(Alternative::Dns(text.to_ascii_lowercase())),
                0x86 => Some(Alternative::Uri(text.to_owned())),
                _ => None,
            }));
        }
        Some(())
    }

    fn subject_name(&self) -> String {
        let mut common = self.subject.iter().filter(|(name, _)| *name == "CN");
        if let (Some((_, name)), None) = (common.next(), common.next()) {
            return name.clone();
        }
        let parts = self.subject.iter().map(|(name, value)| format!("{name}={value}"));
        parts.collect::<Vec<_>>().join(",")
    }
}

/// `UTCTime` or `GeneralizedTime` as RFC 5280, 4.1.2.5 has them: in UTC, to the second.
fn moment((kind, text): (u8, &[u8])) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    let two = |at: usize| {
        let pair = digits.get(at..at + 2)?;
        let number = pair.iter().all(u8::is_ascii_digit);
        number.then(|| (pair[0] - b'0') * 10 + (pair[1] - b'0'))
    };
    let (year, at) = match (kind, digits.len()) {
        (0x17, 12) => (u16::from(two(0)?) + if two(0)? < 50 { 2000 } else { 1900 }, 2),
        (0x18, 14) => (u16::from(two(0)?) * 100 + u16::from(two(2)?), 4),
        _ => return None,
    };
    let date = Date { year, month: two(at)?, day: two(at + 2)? };
    let (hour, minute, second) = (two(at + 4)?, two(at + 6)?, Some(two(at + 8)?));
    let time = Time { hour, minute, second, nanosecond: None };
    if !(1..=12).contains(&date.month) || !(1..=31).contains(&date.day) {
        return None;
    }
    date::to_unix(&Datetime { date: Some(date), time: Some(time), offset: Some(Offset::Z) })
}

fn is_host(name: &str) -> bool {
    !name.is_empty()
        && name.split('.').all(|label| {
            let ok = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            !label.is_empty() && label.bytes().all(ok)
        })
}

#[cfg(test)]
mod tests;
