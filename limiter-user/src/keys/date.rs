//! Unix seconds <-> TOML date-times in UTC, for files that people read.

use toml::value::{Date, Datetime, Offset, Time};

const DAY: u64 = 86_400;

/// `2026-01-15T10:23:45Z`; the year 9999 is the end of time.
pub fn from_unix(seconds: u64) -> Datetime {
    let (days, rest) = (seconds / DAY, seconds % DAY);
    // Days since 0000-03-01, so that the leap day ends a year; 400 years have 146,097 days.
    let days = days.min(2_932_896) + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let small = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
    Datetime {
        date: Some(Date {
            year: u16::try_from(year).unwrap_or(9999),
            month: small(month),
            day: small(day),
        }),
        time: Some(Time {
            hour: small(rest / 3_600),
            minute: small(rest / 60 % 60),
            second: Some(small(rest % 60)),
            nanosecond: None,
        }),
        offset: Some(Offset::Z),
    }
}

/// Unix seconds; a bare date is its first moment, a time without offset is UTC. `None` before
/// 1970 and for a time without a date.
pub fn to_unix(when: &Datetime) -> Option<u64> {
    let date = when.date?;
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let time = when.time.map_or(0, |time| {
        i64::from(time.hour) * 3_600
            + i64::from(time.minute) * 60
            + i64::from(time.second.unwrap_or(0))
    });
    let offset = match when.offset {
        Some(Offset::Custom { minutes }) => i64::from(minutes) * 60,
        Some(Offset::Z) | None => 0,
    };
    u64::try_from(days * 86_400 + time - offset).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_768_472_625, "2026-01-15T10:23:45Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(from_unix(unix).to_string(), text);
            assert_eq!(to_unix(&text.parse().unwrap()), Some(unix));
        }
        assert_eq!(to_unix(&"1970-01-01T02:00:00+02:00".parse().unwrap()), Some(0));
        assert_eq!(to_unix(&"1970-01-02".parse().unwrap()), Some(86_400));
        assert_eq!(to_unix(&"1960-01-02".parse().unwrap()), None);
    }

    #[test]
    fn every_day_comes_back() {
        for day in (0..80_000).step_by(7) {
            let unix = day * DAY + 12_345;
            assert_eq!(to_unix(&from_unix(unix)), Some(unix));
        }
    }
}
