//! The one histogram: how long requests took, by route.

use std::{collections::HashMap, fmt};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};

use super::super::view::DurationView;

/// Without `limiter_`.
pub(super) const NAME: &str = "request_duration_seconds";
/// Without its full stop.
pub(super) const HELP: &str = "How long requests took, from their head to the end of the answer";
pub(super) const LABEL: &str = "route";

pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    durations: &[DurationView],
) -> fmt::Result {
    let none: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;
    let mut family = encoder.encode_descriptor(NAME, HELP, None, MetricType::Histogram)?;
    for one in durations {
        let buckets: Vec<(f64, u64)> = one
            .buckets
            .iter()
            .map(|(bound, count)| (bound.unwrap_or(f64::INFINITY), *count))
            .collect();
        let all = buckets.iter().map(|(_, count)| count).sum();
        let labels = [(LABEL, one.route.as_str())];
        family.encode_family(&labels)?.encode_histogram(one.sum_seconds, all, &buckets, none)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::{metrics, view::StatusView};
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_end_with_all() {
        let buckets = vec![(Some(0.001), 2), (Some(0.25), 3), (None, 1)];
        let one = DurationView { route: "/api".into(), buckets, sum_seconds: 1.5 };
        let status = StatusView { durations: vec![one], ..StatusView::default() };
        let text = metrics::openmetrics(&status).unwrap();
        for line in [
            "# TYPE limiter_request_duration_seconds histogram",
            "limiter_request_duration_seconds_sum{route=\"/api\"} 1.5",
            "limiter_request_duration_seconds_count{route=\"/api\"} 6",
            "limiter_request_duration_seconds_bucket{le=\"0.001\",route=\"/api\"} 2",
            "limiter_request_duration_seconds_bucket{le=\"0.25\",route=\"/api\"} 5",
            "limiter_request_duration_seconds_bucket{le=\"+Inf\",route=\"/api\"} 6",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        let older = metrics::prometheus(&status).unwrap();
        assert!(older.contains("# TYPE limiter_request_duration_seconds histogram\n"), "{older}");
    }
}
