//! Frames worth keeping, one file each: what host and kernel once disagreed about, and what is
//! easily judged otherwise. `#` lines say why, then the verdict and the frame in hexadecimal.

use std::{fs, path::PathBuf};

use limiter_common::{
    decide::Decision,
    headers::Flaw,
    settings::{Settings, flags},
    verdict::Action,
};
use limiter_tests::{
    policy::Policy,
    program::{Options, Program},
    reference::Reference,
};

use crate::{
    differential::router,
    policies::{SETS, ip, routes},
};

/// This host's own addresses.
const OWN: [&str; 2] = ["198.51.100.1", "2001:db8::2"];

struct Case {
    name: String,
    verdict: String,
    frame: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/frames");
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &std::path::Path) -> Case {
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    let text = fs::read_to_string(path).expect("a text");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let [verdict, hex @ ..] = lines.as_slice() else { panic!("{name}: no verdict") };
    let digits: Vec<char> =
        hex.iter().flat_map(|line| line.chars()).filter(|c| *c != ' ').collect();
    let byte = |pair: &[char]| {
        u8::from_str_radix(&pair.iter().collect::<String>(), 16)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let frame = digits.chunks(2).map(byte).collect();
    Case { verdict: (*verdict).to_owned(), frame, name }
}

/// As the second line of a file says it: of a malformed packet also what is wrong with it.
fn text(decision: &Decision) -> String {
    let verdict = decision.verdict;
    let text = format!("{} {}", verdict.action.label(), verdict.reason.label());
    if decision.flaw == Flaw::None { text } else { text + " " + decision.flaw.label() }
}

#[test]
fn kept_frames_are_judged_as_their_files_say_by_both() {
    let mut settings = Settings::open(u64::from(SETS), 0);
    settings.flags = flags::FORWARDING;
    settings.set_own(OWN.map(|text| ip(text).into()));
    settings.fixed_now_ns = 1_000_000_000_000;
    let mut host = Reference::new(SETS, 1);
    host.policy = Policy::new(settings);
    host.routes = routes();
    let mut kernel = Program::load(Options { sets: SETS, ..Options::default() });
    kernel.switch(&host.policy);
    let cases = cases();
    assert!(cases.len() >= 30, "only {} files", cases.len());
    router().run(|| {
        for Case { name, verdict, frame } in &cases {
            let (decision, counter, action) = host.run(frame);
            assert_eq!(&text(&decision), verdict, "{name}");
            assert_eq!(kernel.run(frame), action, "{name}");
            assert_eq!(kernel.counter(counter), host.counters[counter as usize], "{name}");
            assert_eq!(action == 1, decision.verdict.action == Action::Drop, "{name}");
        }
    });
}
