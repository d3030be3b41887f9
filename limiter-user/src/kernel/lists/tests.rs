//! The merged lists mean what the three lists mean, and the filters stop nobody who is listed.

use super::*;

fn prefix(text: &str) -> Prefix {
    Prefix::new(text.parse::<IpNet>().unwrap().trunc())
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// What the lists mean, entry by entry.
fn naive(listed: &[(Prefix, Listing)], address: IpAddr) -> ListValue {
    let wanted = Prefix::exact(address);
    let of_family = |prefix: &Prefix| prefix.is_v4() == address.is_ipv4();
    let covering = || listed.iter().filter(|(it, _)| of_family(it) && it.covers(wanted));
    let interfaces = covering().fold(0, |all, (_, listing)| match listing {
        Listing::Trusted(on) => all | on,
        Listing::Nothing | Listing::Allow | Listing::Deny => all,
    });
    let others = covering().filter(|(_, listing)| !matches!(listing, Listing::Trusted(_)));
    let longest = others.max_by_key(|(prefix, listing)| (prefix.length, *listing));
    let base = match longest.map(|it| it.1) {
        Some(Listing::Allow) => ListValue::ALLOW,
        Some(Listing::Deny) => ListValue::DENY,
        Some(Listing::Nothing | Listing::Trusted(_)) | None => ListValue::NONE,
    };
    base.trusted_on(interfaces)
}

/// What the kernel answers, by the filters and the look-ups that they let through.
fn as_the_kernel(lists: &Lists, filters: &Filters, flags: u64, address: IpAddr) -> ListValue {
    let wanted = Prefix::exact(address);
    let mask = filters.filter.len() as u64 - 1;
    let passes = |bits: FilterBits| filters.filter[bits.word as usize] & bits.mask == bits.mask;
    let v4 = address.is_ipv4();
    let exact = if v4 { flags::LISTS_EXACT_V4 } else { flags::LISTS_EXACT_V6 };
    if flags & exact != 0
        && passes(FilterBits::of_address(wanted.address(), mask))
        && let Some(entry) = lists.entries().iter().find(|entry| entry.prefix == wanted)
    {
        return entry.value;
    }
    let has = |(word, bit): (u32, u64)| filters.bitmap[word as usize] & bit != 0;
    let bits = [summary_bit(wanted.address()), bitmap_bit(wanted.address())];
    let possible = if v4 {
        flags & flags::LISTS_PREFIX_V4 != 0 && bits.into_iter().all(has)
    } else {
        let level = |level| passes(FilterBits::of_v6_level(wanted.address(), level, mask));
        flags & flags::LISTS_SHORT_V6 != 0
            || (flags & flags::LISTS_PREFIX_V6 != 0 && V6_LEVELS.into_iter().any(level))
    };
    let prefixes = lists.entries().iter().filter(|entry| entry.prefix.length < 128);
    let longest =
        prefixes.filter(|entry| entry.prefix.covers(wanted)).max_by_key(|it| it.prefix.length);
    longest.filter(|_| possible).map_or(ListValue::NONE, |entry| entry.value)
}

#[test]
fn the_longest_match_says_all_that_the_lists_mean() {
    let trusted = Listing::Trusted(u16::MAX);
    let lists = Lists::merge(vec![
        (prefix("10.1.0.0/16"), trusted),
        (prefix("2001:db8:ad::/48"), trusted),
        (prefix("10.0.0.0/8"), Listing::Allow),
        (prefix("192.0.2.0/24"), Listing::Allow),
        (prefix("192.0.2.0/25"), Listing::Allow),
        (prefix("10.1.2.3/32"), Listing::Deny),
        (prefix("10.2.0.0/16"), Listing::Deny),
        (prefix("192.0.2.0/25"), Listing::Deny),
        (prefix("2001:db8::/32"), Listing::Deny),
        (prefix("172.16.0.1/32"), Listing::Trusted(1 << 4)),
        (prefix("172.16.0.0/12"), Listing::Deny),
    ]);
    for (address, verdict) in [
        ("10.1.2.3", ListVerdict::Trusted),
        ("10.2.2.3", ListVerdict::Deny),
        ("10.3.2.3", ListVerdict::Allow),
        ("192.0.2.1", ListVerdict::Deny),
        ("192.0.2.200", ListVerdict::Allow),
        ("198.51.100.1", ListVerdict::None),
        ("2001:db8::1", ListVerdict::Deny),
        ("2001:db8:ad::1", ListVerdict::Trusted),
        ("172.16.0.1", ListVerdict::Deny),
    ] {
        assert_eq!(lists.value(address.parse().unwrap()).on(0), verdict, "{address}");
    }
    assert_eq!(lists.value("172.16.0.1".parse().unwrap()).on(4), ListVerdict::Trusted);
}

#[test]
fn all_of_ipv6_is_none_of_ipv4() {
    for text in ["::/0", "::/90", "::ffff:0:0/80"] {
        let lists = Lists::merge(vec![
            (prefix(text), Listing::Deny),
            (prefix("10.0.0.0/8"), Listing::Allow),
        ]);
        assert_eq!(lists.value("192.0.2.1".parse().unwrap()), ListValue::NONE, "{text}");
        assert_eq!(lists.value("10.0.0.1".parse().unwrap()), ListValue::ALLOW, "{text}");
    }
    let both =
        Lists::merge(vec![(prefix("::/0"), Listing::Deny), (prefix("0.0.0.0/0"), Listing::Allow)]);
    assert_eq!(both.value("192.0.2.1".parse().unwrap()), ListValue::ALLOW);
    assert_eq!(both.value("2001:db8::1".parse().unwrap()), ListValue::DENY);
}

#[test]
fn random_lists_mean_the_same_to_everybody() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..300 {
        let mut listed = Vec::new();
        let mut addresses: Vec<IpAddr> = Vec::new();
        for _ in 0..=random(&mut state) % 40 {
            // Few different bits, so that prefixes nest and collide.
            let noise = u32::try_from(random(&mut state) & 0x0303_0303).unwrap();
            let address: IpAddr = if random(&mut state).is_multiple_of(2) {
                std::net::Ipv4Addr::from(0x0a00_0000 | noise).into()
            } else {
                let low = u128::from(random(&mut state) & 1) << 63 | u128::from(noise & 3);
                std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(noise) << 64 | low)
                    .into()
            };
            let bits = if address.is_ipv4() { 33 } else { 129 };
            let length = u8::try_from(random(&mut state) % bits).unwrap();
            let length = if random(&mut state).is_multiple_of(3) {
                length
            } else {
                u8::try_from(bits - 1).unwrap()
            };
            let listing = match random(&mut state) % 4 {
                0 => Listing::Trusted(u16::try_from(random(&mut state) & 0xffff).unwrap()),
                1 => Listing::Allow,
                _ => Listing::Deny,
            };
            listed.push((Prefix::new(IpNet::new(address, length).unwrap().trunc()), listing));
            addresses.push(address);
        }
        for _ in 0..20 {
            let noise = u32::try_from(random(&mut state) >> 32).unwrap();
            addresses.push(std::net::Ipv4Addr::from(noise).into());
            addresses.push(std::net::Ipv4Addr::from(0x0a00_0000 | noise & 0x0303_0303).into());
            let high = u128::from(random(&mut state)) << 64;
            addresses.push(std::net::Ipv6Addr::from(high).into());
        }
        let lists = Lists::merge(listed.clone());
        let filters = lists.filters();
        let flags = lists.flags(32, 64);
        for address in addresses {
            let expected = naive(&listed, address);
            assert_eq!(lists.value(address), expected, "{address} in {listed:?}");
            let kernel = as_the_kernel(&lists, &filters, flags, address);
            assert_eq!(kernel, expected, "{address} by the filters of {listed:?}");
        }
    }
}

#[test]
fn a_million_entries_are_merged_and_looked_up_quickly_enough_to_be_used() {
    let listed: Vec<_> = (0..1_000_000_u32)
        .map(|number| {
            let address = std::net::Ipv4Addr::from(number.wrapping_mul(0x9e37_79b1));
            (Prefix::exact(address.into()), Listing::Deny)
        })
        .collect();
    let lists = Lists::merge(listed);
    assert_eq!(lists.entries().len(), 1_000_000);
    assert_eq!(lists.filter_words(), limiter_common::lists::LIST_FILTER_WORDS);
    assert_eq!(lists.flags(32, 64), flags::LISTS_EXACT_V4);
    let denied = std::net::Ipv4Addr::from(7_u32.wrapping_mul(0x9e37_79b1));
    assert_eq!(lists.value(denied.into()), ListValue::DENY);
}

#[test]
fn a_change_is_what_differs() {
    let listed = |texts: &[(&str, Listing)]| {
        Lists::merge(texts.iter().map(|(text, listing)| (prefix(text), *listing)).collect())
    };
    let old = listed(&[
        ("10.0.0.0/8", Listing::Allow),
        ("10.0.0.1/32", Listing::Deny),
        ("192.0.2.0/24", Listing::Deny),
    ]);
    let new = listed(&[
        ("10.0.0.0/8", Listing::Deny),
        ("192.0.2.0/24", Listing::Deny),
        ("2001:db8::/32", Listing::Deny),
    ]);
    let gone: Vec<Prefix> = old.without(&new).map(|entry| entry.prefix).collect();
    assert_eq!(gone, [prefix("10.0.0.1/32")]);
    let written: Vec<Prefix> = new.changed_from(&old).map(|entry| entry.prefix).collect();
    assert_eq!(written, [prefix("10.0.0.0/8"), prefix("2001:db8::/32")]);
    assert_eq!(old.changed_from(&old).count() + old.without(&old).count(), 0);
}
