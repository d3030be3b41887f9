//! `[kernel.limits]`, `[kernel.total_limits]` and both of a service: written -> checked.

use std::{ops::Range, time::Duration};

use super::super::{
    document::{Number, Text, kernel::KernelLimitsDocument},
    error::Report,
    limits::check_burst,
    values,
};
use crate::policy::{ByteRateLimit, Mode, Rate, RateLimit, kernel::Limits};

/// The kernel's bucket arithmetic holds no larger burst.
const MAX_BURST: i64 = 10_000_000;
/// More connections than one host has memory for.
const MAX_CONNECTIONS: i64 = 10_000_000;
/// The slowest rate of packets and connections is one in this.
const SLOWEST: Duration = Duration::from_hours(1);
/// An Ethernet frame is never shorter; a smaller burst of bytes lets nothing through.
const SHORTEST_FRAME: u64 = 60;
/// An Ethernet frame of the usual 1,500 bytes of payload.
const USUAL_FRAME: u64 = 1_514;
/// With segments joined by the card or a virtual one, frames are up to this long.
const LONGEST_FRAME: u64 = 65_536;

/// What the file says, over what a preset fills in. `Monitor` if either `mode` or the file says so.
pub(super) fn check(
    written: &KernelLimitsDocument,
    filled: Limits,
    mode: Mode,
    report: &mut Report,
) -> Limits {
    let mut rate = |rate: &Option<Text>, burst: &Option<Number>, filled| {
        rate_limit(rate.as_ref(), burst.as_ref(), filled, report)
    };
    let packets = rate(&written.packets, &written.packets_burst, filled.packets);
    let new_connections =
        rate(&written.new_connections, &written.new_connections_burst, filled.new_connections);
    let udp_packets = rate(&written.udp_packets, &written.udp_packets_burst, filled.udp_packets);
    let icmp_packets =
        rate(&written.icmp_packets, &written.icmp_packets_burst, filled.icmp_packets);
    Limits {
        packets,
        bytes: byte_limit(written, filled.bytes, report),
        new_connections,
        concurrent_connections: written
            .concurrent_connections
            .as_ref()
            .map_or(filled.concurrent_connections, |count| {
                Some(report.number_or(Some(count), 1..=MAX_CONNECTIONS, 1))
            }),
        udp_packets,
        icmp_packets,
        mode: match report.mode(written.mode.as_ref()) {
            Mode::Enforce => mode,
            Mode::Monitor => Mode::Monitor,
        },
    }
}

/// `"1/h"` to `"10000000/s"`.
fn rate(text: &str) -> Result<Rate, String> {
    let rate = values::rate(text)?;
    if rate.period.as_nanos() > SLOWEST.as_nanos() * u128::from(rate.count) {
        return Err("packets are counted at \"1/h\" to \"10000000/s\"".to_owned());
    }
    Ok(rate)
}

fn rate_limit(
    written: Option<&Text>,
    burst: Option<&Number>,
    filled: Option<RateLimit>,
    report: &mut Report,
) -> Option<RateLimit> {
    let Some(text) = written else {
        let mut filled = filled;
        match (&mut filled, burst) {
            (Some(limit), Some(_)) => {
                limit.burst = report.number_or(burst, 1..=MAX_BURST, limit.burst);
            }
            (None, Some(burst)) => report.refuse(burst.span(), "a burst needs its rate beside it"),
            (_, None) => {}
        }
        return filled;
    };
    let rate = report.value(text, rate)?;
    if rate.count > MAX_BURST.unsigned_abs() && burst.is_none() {
        report.refuse(text.span(), format!("needs a burst of at most {MAX_BURST} beside it"));
    }
    let burst_packets = report.number_or(burst, 1..=MAX_BURST, rate.count);
    let place = burst.map_or_else(|| text.span(), Number::span);
    check_burst(rate, burst_packets, place, report);
    Some(RateLimit { rate, burst: burst_packets })
}

fn byte_limit(
    written: &KernelLimitsDocument,
    filled: Option<ByteRateLimit>,
    report: &mut Report,
) -> Option<ByteRateLimit> {
    let burst = written.bytes_burst.as_ref();
    let (rate, place) = match (&written.bytes, filled) {
        (Some(text), _) => (report.value(text, values::byte_rate)?, text.span()),
        (None, Some(filled)) => {
            let Some(burst) = burst else { return Some(filled) };
            (filled.rate, burst.span())
        }
        (None, None) => {
            if let Some(burst) = burst {
                report.refuse(burst.span(), "a burst needs its rate beside it");
            }
            return None;
        }
    };
    let place = burst.map_or(place, Text::span);
    let burst_bytes = report.value_or(burst, values::size, rate.count);
    check_burst(rate, burst_bytes, place.clone(), report);
    check_frames(burst_bytes, place, report);
    Some(ByteRateLimit { rate, burst_bytes })
}

/// A frame longer than the burst never fits, however long its sender waits.
fn check_frames(burst_bytes: u64, place: Range<usize>, report: &mut Report) {
    if burst_bytes < SHORTEST_FRAME {
        report.refuse_with(
            place,
            format!(
                "a burst of {burst_bytes} bytes admits nothing: a frame has at least \
                 {SHORTEST_FRAME}"
            ),
            "set `bytes_burst`, e.g. to \"64KiB\", which every frame fits",
        );
    } else if burst_bytes < USUAL_FRAME {
        let sentence = format!(
            "a burst of {burst_bytes} bytes never admits a full frame of {USUAL_FRAME}; set \
             `bytes_burst` to \"64KiB\" or more"
        );
        report.risk(place, sentence);
    } else if burst_bytes < LONGEST_FRAME {
        let sentence = format!(
            "a frame longer than the burst of {burst_bytes} bytes is never admitted, and jumbo \
             or joined frames have up to {LONGEST_FRAME}; set `bytes_burst` to \"64KiB\" or more"
        );
        report.risk(place, sentence);
    }
}
