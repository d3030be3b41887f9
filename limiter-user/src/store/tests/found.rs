//! What a key holds already: written by others, or when the limit was another.

use super::*;

#[test]
fn what_others_wrote_counts_for_nothing_and_is_overwritten() {
    run(async {
        let mut bench = Bench::new().await;
        let hour = Duration::from_hours(1);
        for meter in [bucket(3, hour, 3), sliding(3, hour), fixed(3, hour)] {
            let limit = SharedLimit::new("a", meter, true, false);
            let key = String::from_utf8(limit.key(&bench.target, b"x")).unwrap();
            let ask = [Ask { limit: &limit, key: b"x", cost: 1 }];
            let far = "8000000000000000";
            for junk in [
                "",
                "x",
                "b",
                "b nonsense 1 2",
                "q 1 2 3 4",
                "b 1 2 0 0",
                "s 1 0 0 0",
                "f 1",
                "b nan 0 1 0",
                "b inf 0 1 0",
                "b 1e300 0 1 0",
                "b -1 0 1 0",
                "b 1.5 0 1 0",
                "b 1 nan 1 0",
                "b 1 0 nan 0",
                "s nan 3600000000 1 1",
                "s 0 nan 1 1",
                "s 0 3600000000 nan 9",
                "f 0 3600000000 0 inf",
                "b 1 0 1 0 x",
                &format!("b {far} 0 1200000000 0"),
                &format!("s {far} 3600000000 0 9"),
                &format!("f {far} 3600000000 0 9"),
            ] {
                bench.command(&["SET", &key, junk]).await;
                for refused in [false, false, false, true] {
                    let charged = bench.charge(&ask).await;
                    assert_eq!(charged.refused, refused, "{junk:?} for {meter:?}");
                    let is_first = charged.decisions[0].remaining == 2;
                    assert_eq!(charged.unreadable, u64::from(is_first), "{junk:?} for {meter:?}");
                }
            }
            bench.command(&["DEL", &key]).await;
            bench.command(&["RPUSH", &key, "x"]).await;
            assert!(!bench.charge(&ask).await.refused);
        }
    });
}

#[test]
fn what_goes_beyond_a_limit_that_shrank_is_forgotten_at_once() {
    run(async {
        let mut bench = Bench::new().await;
        let day = Duration::from_hours(24);
        bench.set_clock(3_600_000_000 * 50).await;
        let before = SharedLimit::new("shrinks", bucket(10, day, 10), true, false);
        for _ in 0..10 {
            assert!(!bench.charge(&[Ask { limit: &before, key: b"x", cost: 1 }]).await.refused);
        }
        let after = SharedLimit::new("shrinks", bucket(10, day, 5), true, false);
        let ask = [Ask { limit: &after, key: b"x", cost: 1 }];
        let refused = bench.charge(&ask).await;
        assert!(refused.refused);
        // As it says, and as it would be on one host.
        bench.set_clock(bench.now_us + refused.decisions[0].retry_after_ns / 1000 + 1).await;
        assert!(!bench.charge(&ask).await.refused);
    });
}
