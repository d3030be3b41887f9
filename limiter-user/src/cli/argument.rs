//! Arguments that clap has no parser for.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::{admin::view::SourceSort, policy::BanScope};

/// `90s`, `10m`, `2h`, `7d`; at least a second.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number and a unit: 90s, 10m, 2h, 7d".to_string();
    let unit = text.chars().next_back().ok_or_else(expected)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    let count = &text[..text.len() - unit.len_utf8()];
    // `parse` alone would take a sign.
    if !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected());
    }
    let count: u64 = count.parse().map_err(|_| expected())?;
    match count.checked_mul(seconds) {
        Some(0) => Err("expected at least 1s".into()),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err("too long".into()),
    }
}

/// `kernel` or `http`.
pub(super) fn scope() -> impl TypedValueParser<Value = BanScope> {
    const SCOPES: [BanScope; 2] = [BanScope::Kernel, BanScope::Http];
    PossibleValuesParser::new(SCOPES.map(BanScope::label)).map(|label| {
        let scope = SCOPES.into_iter().find(|scope| scope.label() == label);
        scope.unwrap_or_default()
    })
}

/// A sort key of `sources`.
pub(super) fn sort() -> impl TypedValueParser<Value = SourceSort> {
    PossibleValuesParser::new(SourceSort::ALL.map(SourceSort::label)).map(|label| {
        let sort = SourceSort::ALL.into_iter().find(|sort| sort.label() == label);
        sort.unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(duration("7d"), Ok(Duration::from_hours(168)));
        for text in ["", "10", "m", "-1m", "+1m", "0s", "1.5h", "1\u{e9}", "99999999999999999999d"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
