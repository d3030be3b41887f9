//! A short run of each fuzz target from fixed seeds: what `cargo xtask fuzz` explores for as long
//! as one likes, guided by coverage.

use limiter_tests::{
    frames::{Generator, mutate},
    fuzzing::{TARGETS, decide, parser, records},
    random::Random,
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
