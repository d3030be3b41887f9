//! Values as written -> values as meant: durations, sizes, rates, networks, ports, origins.
//!
//! Every parser takes text and says in its error what is allowed; none knows where the text stood.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::{
    document::{Number, Text},
    error::{Place, Report},
};
use crate::policy::{
    Mode, Rate,
    http::OriginPattern,
    kernel::{PortRange, Protocol},
};

const DAY_SECONDS: u64 = 86_400;
/// The slowest representable rate is one in this; no duration is longer.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * DAY_SECONDS);
/// The fastest representable rate.
const FASTEST_PER_SECOND: u64 = 10_000_000;
/// The fastest representable rate of bytes: 100 Gbit/s.
const FASTEST_BYTES_PER_SECOND: u128 = 12_500_000_000;
/// No byte may cost as long as this, or the longest frame would leave the bucket's arithmetic.
const SLOWEST_BYTE: Duration = Duration::from_millis(4_200);

/// `"15m"`: milliseconds, seconds, minutes, hours or days; at most 365 days.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = "expected a duration such as \"250ms\", \"10s\", \"15m\", \"24h\" or \"7d\"";
    let (count, unit) = split_number(text).ok_or(expected)?;
    let unit_ms = unit_milliseconds(unit).ok_or(expected)?;
    let ms = count.checked_mul(unit_ms).ok_or("longer than 365 days")?;
    let duration = Duration::from_millis(ms);
    if duration > LONGEST { Err("longer than 365 days".to_owned()) } else { Ok(duration) }
}

/// A duration that is not zero.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than 0".to_owned()),
        duration => Ok(duration),
    }
}

/// `"2MB"` is 2,000,000 bytes, `"2MiB"` 2,097,152.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let expected = "expected a size such as \"512B\", \"32KB\", \"2MB\" or \"2MiB\"";
    let (count, unit) = split_number(text).ok_or(expected)?;
    let factor = match unit {
        "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(expected.to_owned()),
    };
    count.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// `"100/s"`, `"1000/15m"`: between one per 365 days and 10,000,000 per second.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let expected = "expected a rate such as \"100/s\", \"1000/15m\" or \"60/h\"";
    let (count, unit) = text.split_once('/').ok_or(expected)?;
    let count = digits(count).ok_or(expected)?;
    let rate = Rate { count, period: period(count, unit, expected)? };
    let second_ns = Duration::from_secs(1).as_nanos();
    if u128::from(count) * second_ns > u128::from(FASTEST_PER_SECOND) * rate.period.as_nanos() {
        return Err("at most 10,000,000 per second can be counted".to_owned());
    }
    Ok(rate)
}

/// `"100MB/s"`, `"15B/m"`: bytes, between one in 4.2 s and 12.5 GB (100 Gbit) per second.
pub(super) fn byte_rate(text: &str) -> Result<Rate, String> {
    let expected = "expected a rate of bytes such as \"100MB/s\", \"64KiB/s\" or \"10GB/h\"";
    let (count, unit) = text.split_once('/').ok_or(expected)?;
    let count = size(count).map_err(|_| expected)?;
    let rate = Rate { count, period: period(count, unit, expected)? };
    let (count, period_ns) = (u128::from(count), rate.period.as_nanos());
    let second_ns = Duration::from_secs(1).as_nanos();
    let too_fast = count * second_ns > FASTEST_BYTES_PER_SECOND * period_ns;
    if too_fast || period_ns >= count * SLOWEST_BYTE.as_nanos() {
        return Err("a rate of bytes lies between \"15B/m\" and \"12500MB/s\"".to_owned());
    }
    Ok(rate)
}

/// What stands after the `/` of a rate.
fn period(count: u64, unit: &str, expected: &str) -> Result<Duration, String> {
    let period = if unit.starts_with(|first: char| first.is_ascii_digit()) {
        duration(unit).map_err(|_| expected)?
    } else {
        duration(&format!("1{unit}")).map_err(|_| expected)?
    };
    if count == 0 {
        return Err("a rate is at least 1; to admit nobody use an empty `allow`".to_owned());
    }
    if period < Duration::from_secs(1) {
        return Err("the period of a rate is at least 1s".to_owned());
    }
    Ok(period)
}

/// A network, or an address as a network of one.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let expected = "expected a network such as \"192.0.2.0/24\" or \"2001:db8::/48\"";
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| expected)?),
    };
    let meant = network.trunc();
    if meant != network {
        return Err(format!("has host bits set; the network is \"{meant}\""));
    }
    if let IpAddr::V6(address) = network.addr()
        && let Some(v4) = address.to_ipv4_mapped()
    {
        let prefix = network.prefix_len().saturating_sub(96);
        return Err(format!("is an IPv4 network in IPv6 clothes; write \"{v4}/{prefix}\""));
    }
    Ok(network)
}

/// `scheme://host[:port]`, where host may begin with `*.`.
pub(super) fn origin(text: &str) -> Result<OriginPattern, String> {
    let expected = "expected an origin such as \"https://app.example.com\" or \
                    \"https://*.example.com\", without a path";
    let (scheme, rest) = text.split_once("://").ok_or(expected)?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return Err("an origin begins with https:// or http://".to_owned()),
    };
    let (subdomains, rest) = match rest.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (host, port) = host_and_port(rest).ok_or(expected)?;
    let host_is_address = host.parse::<IpAddr>().is_ok() || host.starts_with('[');
    if subdomains && (host_is_address || !host.contains('.')) {
        return Err("`*.` stands before a domain of at least two labels".to_owned());
    }
    Ok(OriginPattern { scheme, host, port: port.filter(|port| *port != default_port), subdomains })
}

/// `host[:port]` with the host in lower case; IPv6 in brackets, which are kept.
pub(super) fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']')?;
        text[1..end].parse::<std::net::Ipv6Addr>().ok()?;
        let rest = &text[end + 1..];
        match rest {
            "" => (&text[..=end], None),
            _ => (&text[..=end], Some(rest.strip_prefix(':')?)),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None => None,
        Some(port) => {
            Some(digits(port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)?)
        }
    };
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let host_ok = host.starts_with('[') || (host.len() <= 253 && host.split('.').all(label_ok));
    host_ok.then(|| (host.to_ascii_lowercase(), port))
}

/// `"tcp/53"`, `"udp/53"`, `"tcp/8000-8010"`.
pub(super) fn port_range(text: &str) -> Result<PortRange, String> {
    let expected = "expected ports such as \"tcp/53\", \"udp/53\" or \"tcp/8000-8010\"";
    let (protocol, ports) = text.split_once('/').ok_or(expected)?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(expected.to_owned()),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text| {
        let port = digits(text).ok_or(expected)?;
        u16::try_from(port).ok().filter(|port| *port > 0).ok_or("a port lies between 1 and 65535")
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{first} is above {last}; the lower port stands first"));
    }
    Ok(PortRange { protocol, first, last })
}

/// A name of ours (`[limits.NAME]`): it appears in headers, metrics and events.
pub(super) fn name(text: &str) -> Result<String, String> {
    let ok = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(ok) {
        return Err("a name has 1 to 64 letters, digits, `-`, `_` or `.`".to_owned());
    }
    if text == "none" {
        return Err("`none` is what a route says to have none; choose another name".to_owned());
    }
    Ok(text.to_owned())
}

/// What a caller may do.
pub(super) fn scope(text: &str) -> Result<String, String> {
    crate::keys::check_label(text)?;
    Ok(text.to_owned())
}

/// A header field name, in lower case.
pub(super) fn header_name(text: &str) -> Result<String, String> {
    http::HeaderName::from_bytes(text.as_bytes())
        .map(|name| name.as_str().to_owned())
        .map_err(|_| "is not a header name".to_owned())
}

/// A request method, in upper case.
pub(super) fn method(text: &str) -> Result<String, String> {
    let ok = !text.is_empty()
        && text.len() <= 32
        && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    if ok {
        Ok(text.to_owned())
    } else {
        Err("is not a request method; they are written in upper case, e.g. \"GET\"".to_owned())
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|character: char| !character.is_ascii_digit())?;
    Some((digits(&text[..at])?, &text[at..]))
}

fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

fn unit_milliseconds(unit: &str) -> Option<u64> {
    Some(match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => DAY_SECONDS * 1_000,
        _ => return None,
    })
}

impl Report {
    /// The value of `written`; an error is recorded and gives `None`.
    pub(super) fn value<T>(
        &mut self,
        written: &Text,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (place, text) = (written.span(), written.get_ref());
        self.parsed(place, text, parse)
    }

    /// As [`Self::value`], of text that stands anywhere.
    pub(super) fn parsed<T>(
        &mut self,
        place: impl Into<Place>,
        text: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(text)
            .map_err(|why| self.refuse(place, format!("{text:?} cannot be used: {why}")))
            .ok()
    }

    /// The value of an optional key, or its default (also where an error was recorded).
    pub(super) fn value_or<T>(
        &mut self,
        written: Option<&Text>,
        parse: impl Fn(&str) -> Result<T, String>,
        default: T,
    ) -> T {
        written.and_then(|written| self.value(written, parse)).unwrap_or(default)
    }

    /// Every value that can be used.
    pub(super) fn values<T>(
        &mut self,
        written: &[Text],
        parse: impl Fn(&str) -> Result<T, String> + Copy,
    ) -> Vec<T> {
        written.iter().filter_map(|text| self.value(text, parse)).collect()
    }

    /// An integer within bounds, or its default.
    pub(super) fn number_or<T: TryFrom<i64>>(
        &mut self,
        written: Option<&Number>,
        bounds: std::ops::RangeInclusive<i64>,
        default: T,
    ) -> T {
        let Some(written) = written else {
            return default;
        };
        let number = *written.get_ref();
        match T::try_from(number) {
            Ok(value) if bounds.contains(&number) => value,
            _ => {
                let (low, high) = (bounds.start(), bounds.end());
                self.refuse(written.span(), format!("{number} is not between {low} and {high}"));
                default
            }
        }
    }

    /// One of the spellings in `choices` (the first is the default); `later` ones are known and
    /// not supported by this version.
    pub(super) fn choice<T: Copy>(
        &mut self,
        written: Option<&Text>,
        choices: &[(&str, T)],
        later: &[&str],
    ) -> T {
        let default = choices[0].1;
        let Some(written) = written else {
            return default;
        };
        let text = written.get_ref().as_str();
        if let Some((_, value)) = choices.iter().find(|(spelling, _)| *spelling == text) {
            return *value;
        }
        let allowed: Vec<String> =
            choices.iter().map(|(spelling, _)| format!("{spelling:?}")).collect();
        let allowed = allowed.join(", ");
        if later.contains(&text) {
            self.unsupported(written.span(), &format!("{text:?}"), &allowed);
        } else {
            self.refuse(written.span(), format!("{text:?} is not one of {allowed}"));
        }
        default
    }

    /// `enforce` or `monitor`.
    pub(super) fn mode(&mut self, written: Option<&Text>) -> Mode {
        self.choice(written, &[("enforce", Mode::Enforce), ("monitor", Mode::Monitor)], &[])
    }
}

#[cfg(test)]
mod tests;
