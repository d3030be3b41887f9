//! A short run of each fuzz target from fixed seeds: what `cargo xtask fuzz` explores for as long
//! as one likes, guided by coverage.

use std::{fs, path::PathBuf};

use limiter_tests::{
    frames::{Generator, mutate},
    fuzzing::{TARGETS, decide, link, parser, records},
    random::Random,
};
use limiter_user::{
    config,
    link::{FromProxy, Hello, HttpBan, Strain, ToProxy, codec::encode},
};

const SEED: u64 = 0xf0_22ed;
const RUNS: u32 = 20_000;

#[test]
fn parsed_frames_contradict_neither_themselves_nor_each_other() {
    let mut generator = Generator::new(SEED);
    for _ in 0..RUNS {
        parser(&generator.any());
    }
}

#[test]
fn sequences_of_frames_under_arbitrary_policies_are_counted_and_told() {
    let mut generator = Generator::new(SEED);
    for _ in 0..RUNS / 100 {
        let mut data = generator.random().bytes(70);
        for _ in 0..40 {
            let frame = generator.any();
            let length = frame.len().min(255);
            data.push(generator.random().next_u8());
            if data.last().is_some_and(|what| (what >> 3).is_multiple_of(8)) {
                data.push(generator.random().next_u8());
            }
            data.push(u8::try_from(length).expect("at most 255"));
            data.extend(&frame[..length]);
        }
        decide(&data);
    }
}

#[test]
fn arbitrary_words_are_read_as_records() {
    let mut random = Random::new(SEED);
    for _ in 0..RUNS {
        let length = random.below(1_200);
        records(&random.bytes(length));
    }
}

#[test]
fn frames_of_the_link_gone_wrong_are_refused_or_understood() {
    let text = "[http]\n[[http.upstream]]\nname = \"a\"\nservers = [\"http://127.0.0.1:1\"]\n\
                [[http.route]]\nauth = \"none\"\nlimits = [\"l\"]\n[limits.l]\nrate = \"1/s\"\n";
    let file = std::env::temp_dir().join(format!("limiter-fuzz-{}.toml", std::process::id()));
    fs::write(&file, text).unwrap();
    let nothing = |_: &str| None;
    let sources = config::Sources { file: Some(file.clone()), ..config::Sources::new(&nothing) };
    let policy = Box::new(config::load(&sources).unwrap().policy.http.unwrap());
    fs::remove_file(file).unwrap();
    let prefix = "192.0.2.0/24".parse().unwrap();
    let to_proxy = [
        ToProxy::Hello(Hello::of_this_process("x")),
        ToProxy::Policy { generation: 7, policy },
        ToProxy::HttpBans(vec![HttpBan { prefix, expires_ns: 9 }; 3]),
        ToProxy::CloseConnections(vec![prefix]),
        ToProxy::LimiterMemory,
    ];
    let from_proxy = [
        FromProxy::PolicyApplied { generation: 7 },
        FromProxy::Counters(Box::default()),
        FromProxy::Overload(Some(Strain::Memory)),
    ];
    let mut random = Random::new(SEED);
    for frame in to_proxy.iter().map(encode).chain(from_proxy.iter().map(encode)) {
        let frame = frame.unwrap();
        link(&frame);
        let mut data = Vec::new();
        for _ in 0..RUNS / 10 {
            mutate(&mut random, &mut data, &frame);
            link(&data);
            link(data.get(4..).unwrap_or_default());
            data.clone_from(&frame);
        }
    }
}

/// What fuzzing begins with, and what it once found.
#[test]
fn known_inputs_go_through_their_targets() {
    let all = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/fuzz");
    let mut count = 0;
    for (name, target) in TARGETS {
        for entry in fs::read_dir(all.join(name)).into_iter().flatten() {
            target(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
    }
    let directories = fs::read_dir(all).unwrap().filter(|entry| {
        let entry = entry.as_ref().unwrap();
        entry.path().is_dir() && !TARGETS.iter().any(|(name, _)| entry.file_name() == *name)
    });
    assert_eq!((directories.count(), count > 10), (0, true), "each is a target's");
}

#[test]
fn every_target_takes_whatever_it_is_given() {
    let mut random = Random::new(SEED);
    let mut data = Vec::new();
    for _ in 0..RUNS / 20 {
        let previous = data.clone();
        mutate(&mut random, &mut data, &previous);
        for (_, target) in TARGETS {
            target(&data);
        }
    }
}
