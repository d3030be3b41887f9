//! Unix time to the UTC calendar, for the time stamps of both forms; knows no time zones.

use std::fmt;

const DAY_SECONDS: u64 = 86_400;

/// A moment in UTC (proleptic Gregorian calendar, no leap seconds).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    nanosecond: u64,
}

impl Civil {
    /// From Unix ns; every `u64` is valid (1970 to 2554).
    pub(crate) const fn from_unix_ns(unix_ns: u64) -> Self {
        let seconds = unix_ns / 1_000_000_000;
        let (year, month, day) = date(seconds / DAY_SECONDS);
        let rest = seconds % DAY_SECONDS;
        Self {
            year,
            month,
            day,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
            nanosecond: unix_ns % 1_000_000_000,
        }
    }

    /// RFC 3339 with microseconds, the `@timestamp` of the JSON form.
    pub(crate) fn rfc3339(self) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            write!(
                f,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
                self.year,
                self.month,
                self.day,
                self.hour,
                self.minute,
                self.second,
                self.nanosecond / 1000
            )
        })
    }
}

impl Civil {
    /// `15/Jan/2026:10:23:45 +0000`, as web servers write it.
    pub(crate) fn common_log(self) -> impl fmt::Display {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let month = usize::try_from(self.month - 1).ok().and_then(|month| MONTHS.get(month));
        fmt::from_fn(move |f| {
            write!(
                f,
                "{:02}/{}/{:04}:{:02}:{:02}:{:02} +0000",
                self.day,
                month.unwrap_or(&""),
                self.year,
                self.hour,
                self.minute,
                self.second
            )
        })
    }
}

/// `2026-01-15 10:23:45`, as the text form writes it.
impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
            self.year, self.month, self.day, self.hour, self.minute, self.second
        )
    }
}

/// Days since 1970-01-01 to (year, month, day): H. Hinnant's `civil_from_days`, in which a year
/// begins in March so that the leap day is its last.
const fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// Days from 1970-01-01 to a date that is not before it: the inverse, `days_from_civil`.
pub(super) const fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn month_days(year: u64, month: u64) -> u64 {
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    #[test]
    fn every_day_that_fits_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..=u64::MAX / 1_000_000_000 / DAY_SECONDS {
            assert_eq!(date(days), (year, month, day), "day {days}");
            assert_eq!(days_since_epoch(year, month, day), days);
            day += 1;
            if day > month_days(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!(year, 2554);
    }

    #[test]
    fn known_moments() {
        let moment = Civil::from_unix_ns(1_768_472_625_123_456_789);
        assert_eq!(moment.to_string(), "2026-01-15 10:23:45");
        assert_eq!(moment.rfc3339().to_string(), "2026-01-15T10:23:45.123456Z");
        assert_eq!(Civil::from_unix_ns(0).to_string(), "1970-01-01 00:00:00");
        assert_eq!(Civil::from_unix_ns(u64::MAX).to_string(), "2554-07-21 23:34:33");
    }
}
