//! Times as people write them: `10m` ago, RFC 3339, or as the log writes them. Text and `now` in,
//! Unix ns out; what says no offset is UTC, as everywhere in the log.

use super::civil::days_since_epoch;

/// What [`parse`] takes, for messages.
pub const EXPECTED: &str =
    "a time (2026-01-15T10:23:45Z, \"2026-01-15 10:23:45\") or how long ago (90s, 10m, 2h, 7d)";

/// The moment in Unix ns; `None` if the text is none. Before 1970 is 1970.
pub fn parse(text: &str, now_unix_ns: u64) -> Option<u64> {
    let text = text.trim();
    if let Some(ago) = duration_ns(text) {
        return Some(now_unix_ns.saturating_sub(ago));
    }
    timestamp(text)
}

fn duration_ns(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let seconds = number(text.get(..text.len() - 1)?)?.checked_mul(seconds)?;
    seconds.checked_mul(1_000_000_000)
}

/// `2026-01-15`, then perhaps `T10:23:45` or ` 10:23:45` with a fraction, then perhaps an offset.
fn timestamp(text: &str) -> Option<u64> {
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let last_day = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1970..=2500).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=last_day).contains(&day)
    {
        return None;
    }
    let midnight = days_since_epoch(year, month, day) * 86_400;
    if rest.is_empty() {
        return midnight.checked_mul(1_000_000_000);
    }
    let clock = rest.strip_prefix(['T', 't', ' '])?;
    let [hour, minute, second] = fields(clock.get(..8)?, ':', [2, 2, 2])?;
    // A leap second is the one before.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let local = midnight + hour * 3600 + minute * 60 + second.min(59);
    let (fraction_ns, rest) = fraction(clock.get(8..)?)?;
    let seconds = match offset_seconds(rest)? {
        (true, offset) => local.saturating_sub(offset),
        (false, offset) => local + offset,
    };
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction_ns)
}

fn fields(text: &str, separator: char, widths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut values = [0; 3];
    for (value, width) in values.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width {
            return None;
        }
        *value = number(part)?;
    }
    parts.next().is_none().then_some(values)
}

/// `.123456` in ns, and what follows.
fn fraction(text: &str) -> Option<(u64, &str)> {
    let Some(digits) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    let shown = format!("{digits:0<9}");
    Some((number(digits).and_then(|_| number(shown.get(..9)?))?, rest))
}

/// `Z`, `+01:00`, `-0530` or nothing: whether east of UTC, and how far.
fn offset_seconds(text: &str) -> Option<(bool, u64)> {
    let text = text.trim_start();
    if matches!(text, "" | "Z" | "z") {
        return Some((true, 0));
    }
    let is_east = text.starts_with('+');
    let digits = text.strip_prefix(['+', '-'])?.replacen(':', "", 1);
    let (hours, minutes) = (number(digits.get(..2)?)?, number(digits.get(2..)?)?);
    (digits.len() == 4 && hours < 24 && minutes < 60)
        .then_some((is_east, hours * 3600 + minutes * 60))
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_768_472_625_000_000_000;

    #[test]
    fn every_way_to_write_a_time() {
        for text in [
            "2026-01-15T10:23:45Z",
            "2026-01-15t10:23:45z",
            "2026-01-15 10:23:45",
            "2026-01-15 10:23:45 ",
            "2026-01-15T10:23:45",
            "2026-01-15T11:23:45+01:00",
            "2026-01-15T04:53:45-0530",
        ] {
            assert_eq!(parse(text, 0), Some(NOW), "{text}");
        }
        assert_eq!(parse("2026-01-15T10:23:45.25Z", 0), Some(NOW + 250_000_000));
        assert_eq!(parse("2026-01-15T10:23:45.123456789123Z", 0), Some(NOW + 123_456_789));
        assert_eq!(parse("1970-01-02", 0), Some(86_400_000_000_000));
        assert_eq!(parse("2024-02-29", 0), Some(1_709_164_800_000_000_000));
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604_800), ("0s", 0)]
        {
            assert_eq!(parse(text, NOW), Some(NOW - seconds * 1_000_000_000), "{text}");
        }
        assert_eq!(parse("99999d", 5), Some(0));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "10",
            "m",
            "-1m",
            "+1m",
            "1.5h",
            "yesterday",
            "2026-13-01",
            "2025-02-29",
            "2026-01-15T24:00:00Z",
            "2026-01-15T10:23",
            "2026-01-15T10:23:45.Z",
            "2026-01-15T10:23:45+1",
            "2026-01-15T10:23:45Z tomorrow",
            "2026-1-5",
            "1\u{e9}",
            "20\u{e9}6-01-15",
            "99999999999999999999d",
        ] {
            assert_eq!(parse(text, NOW), None, "{text}");
        }
    }
}
