//! Since and until when certificates are good (RFC 5280, 4.1.2.5), to be told before clients are.
//!
//! In: DER that rustls has taken; out: a sentence if it is not good, or not for much longer. Reads
//! no more of it than the two times.

use crate::events::moment;

/// So long before its end a certificate should have been replaced: ACME clients do it at a third of
/// its time, 30 days of 90.
const SOON_SECONDS: u64 = 14 * DAY_SECONDS;
const DAY_SECONDS: u64 = 86_400;

/// Tags of DER.
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// What is wrong with a chain at this time, or will be soon.
pub(super) fn concern(chain: &[Vec<u8>], now_unix_seconds: u64) -> Option<String> {
    let times = || chain.iter().filter_map(|one| times(one));
    let (since, until) = (times().map(|(since, _)| since).max()?, times().map(|one| one.1).min()?);
    let days = |seconds: u64| match seconds / DAY_SECONDS {
        0 => "less than a day".to_owned(),
        1 => "a day".to_owned(),
        days => format!("{days} days"),
    };
    if until <= now_unix_seconds {
        Some(format!("it expired {} ago", days(now_unix_seconds - until)))
    } else if since > now_unix_seconds {
        Some(format!("it is not valid yet, for {}", days(since - now_unix_seconds)))
    } else if until - now_unix_seconds < SOON_SECONDS {
        Some(format!("it expires in {}", days(until - now_unix_seconds)))
    } else {
        None
    }
}

/// Unix seconds.
fn times(certificate: &[u8]) -> Option<(u64, u64)> {
    let (signed, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(signed, SEQUENCE)?;
    if let Some((_, behind)) = element(rest, VERSION) {
        rest = behind;
    }
    // Serial number, algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        rest = element(rest, tag)?.1;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (since, rest) = time(validity)?;
    Some((since, time(rest)?.0))
}

/// One element of this tag: its content, and what is behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, length, rest @ ..] = der else {
        return None;
    };
    if *found != tag {
        return None;
    }
    if *length < 0x80 {
        return rest.split_at_checked(usize::from(*length));
    }
    let (digits, rest) = rest.split_at_checked(usize::from(*length & 0x7f))?;
    let length = digits.iter().try_fold(0_usize, |length, digit| {
        length.checked_mul(256)?.checked_add(usize::from(*digit))
    });
    rest.split_at_checked(length?)
}

fn time(der: &[u8]) -> Option<(u64, &[u8])> {
    let ((text, rest), century_is_there) = match element(der, UTC_TIME) {
        Some(found) => (found, false),
        None => (element(der, GENERALIZED_TIME)?, true),
    };
    let text = std::str::from_utf8(text).ok()?;
    let century = match text.as_bytes() {
        _ if century_is_there => "",
        [b'0'..=b'4', ..] => "20",
        _ => "19",
    };
    let whole = format!("{century}{text}");
    let part = |at: usize| whole.get(at..at + 2);
    let year = whole.get(..4)?;
    if year >= "2400" {
        return Some((u64::MAX, rest));
    }
    let (month, day, hour) = (part(4)?, part(6)?, part(8)?);
    let text = format!("{year}-{month}-{day}T{hour}:{}:{}Z", part(10)?, part(12)?);
    // What is before 1970 was long ago.
    let unix_ns = if year < "1970" { 0 } else { moment::parse(&text, 0)? };
    Some((unix_ns / 1_000_000_000, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(since: i32, until: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = date_time_ymd(since, 3, 1);
        params.not_after = date_time_ymd(until, 3, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    const MARCH_2027: u64 = 1_803_859_200;

    #[test]
    fn times_are_read() {
        assert_eq!(times(&certificate(2027, 2049)).unwrap().0, MARCH_2027);
        assert_eq!(times(&certificate(1950, 2027)), Some((0, MARCH_2027)));
        assert_eq!(times(&certificate(2050, 4096)).unwrap().1, u64::MAX);
        let whole = certificate(2020, 2030);
        for end in 0..100 {
            assert_eq!(times(&whole[..end]), None, "{end}");
        }
        assert_eq!(times(&[SEQUENCE, 0xff]), None);
        assert_eq!(times(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn the_worst_of_a_chain_is_said() {
        let chain = [certificate(2020, 2030), certificate(2020, 2027)];
        let at = |seconds: u64| concern(&chain, seconds);
        assert_eq!(at(MARCH_2027 - 15 * DAY_SECONDS), None);
        assert_eq!(at(MARCH_2027 - 13 * DAY_SECONDS - 1).unwrap(), "it expires in 13 days");
        assert_eq!(at(MARCH_2027 - 60).unwrap(), "it expires in less than a day");
        assert_eq!(at(MARCH_2027 + DAY_SECONDS).unwrap(), "it expired a day ago");
        let early = [certificate(2027, 2030)];
        let text = concern(&early, MARCH_2027 - 3 * DAY_SECONDS).unwrap();
        assert_eq!(text, "it is not valid yet, for 3 days");
    }
}
