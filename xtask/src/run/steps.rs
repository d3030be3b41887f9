//! What honest and abusive clients do and what must come of it. Each step is one line, and is
//! checked; at the end the limiter's own counters must agree with what was sent.
#![expect(clippy::print_stdout, reason = "this is what the demonstration shows")]

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result};

use super::{
    answers::{count_of, find, summary},
    config::{
        ANONYMOUS, BAN_SECONDS, BROWSER, DENIED, FLOODER, GUESSER, HASTY, HONEST_V4, HONEST_V6,
        ORIGIN, PACKETS_BURST, PACKETS_PER_SECOND, PORT, REQUESTS_PER_MINUTE, SERVER_V4, SERVER_V6,
        SMUGGLER, WRONG_KEYS,
    },
    interrupt::Interrupt,
    stage::Stage,
};
use crate::clock::Stopwatch;

const CLIENT_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);
/// Until what one half observed is acted on and counted by the other.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection attempt is given where no answer is expected.
const NO_ANSWER_MS: &str = "300";
const DATAGRAMS: u32 = 5_000;
const DENIED_DATAGRAMS: u32 = 100;
/// How late a ban may end on a busy machine, and how early it may seem to: it began before the
/// client that caused it had ended.
const LATE: Duration = Duration::from_secs(3);
const EARLY: Duration = Duration::from_secs(1);

/// Shows every step; returns how many did not do what they say.
pub(super) fn all(stage: &Stage, interrupt: &Interrupt) -> Result<usize> {
    println!("\nHonest and abusive clients, each from its own address:\n");
    let mut show = Show {
        stage,
        interrupt,
        number: 0,
        failed: 0,
        requests: 0,
        forwarded: 0,
        refused: BTreeMap::new(),
    };
    show.honest()?;
    show.browser()?;
    show.over_the_limit()?;
    show.smuggler()?;
    let banned = show.guesser()?;
    show.denied()?;
    show.flood()?;
    show.ban_ends(banned)?;
    show.counters()?;
    show.security_log()?;
    println!();
    Ok(show.failed)
}

struct Show<'stage> {
    stage: &'stage Stage,
    interrupt: &'stage Interrupt,
    number: usize,
    failed: usize,
    /// What the limiter must have counted.
    requests: u64,
    forwarded: u64,
    refused: BTreeMap<&'static str, u64>,
}

impl Show<'_> {
    /// One line of the show.
    fn tell(&mut self, what: &str, is_right: bool, happened: &str, expected: &str) {
        self.number += 1;
        let verdict = if is_right {
            "as expected".to_owned()
        } else {
            self.failed += 1;
            format!("NOT AS EXPECTED: {expected}")
        };
        println!("{:>3}  {what}\n       -> {happened} ({verdict})", self.number);
    }

    /// Requests from one address, and what came back as [`summary`] puts it.
    fn http(&self, from: &str, arguments: &[&str], field: &str) -> Result<String> {
        let server = if from.contains(':') { format!("[{SERVER_V6}]") } else { SERVER_V4.into() };
        let to = format!("{server}:{PORT}");
        let fixed = ["http", "--from", from, "--to", &to];
        let client = self.stage.client(fixed.iter().chain(arguments))?;
        let output = client.finish(CLIENT_LIMIT, self.interrupt)?;
        summary(&output, field)
    }

    /// As [`Self::http`], shown and compared.
    fn step(&mut self, what: &str, from: &str, arguments: &[&str], want: &Want<'_>) -> Result<()> {
        let happened = self.http(from, arguments, want.field)?;
        self.requests += want.requests;
        self.forwarded += want.forwarded;
        if want.label.1 > 0 {
            *self.refused.entry(want.label.0).or_default() += want.label.1;
        }
        let expected = want.answers;
        self.tell(&format!("{from}: {what}"), happened == expected, &happened, expected);
        Ok(())
    }

    fn honest(&mut self) -> Result<()> {
        let key = self.stage.files.honest_key();
        let key = key.to_string_lossy();
        let arguments = ["--path", "/hello", "--key-file", &key, "--count", "20"];
        let want = Want::forwarded("20 x 200", 20);
        self.step("20 requests with a valid key", HONEST_V4, &arguments, &want)?;
        self.step("20 requests with it over IPv6", HONEST_V6, &arguments, &want)?;
        let want = Want {
            field: "www-authenticate",
            label: ("unauthorized", 3),
            ..Want::requests("3 x 401 with WWW-Authenticate", 3)
        };
        let arguments = ["--path", "/hello", "--count", "3"];
        self.step("3 requests without a key", ANONYMOUS, &arguments, &want)
    }

    fn browser(&mut self) -> Result<()> {
        let origin = format!("Origin: {ORIGIN}");
        let arguments = [
            ["--method", "OPTIONS"],
            ["--path", "/hello"],
            ["--header", &origin],
            ["--header", "Access-Control-Request-Method: GET"],
            ["--header", "Access-Control-Request-Headers: x-api-key"],
        ];
        let want = Want {
            field: "access-control-allow-origin",
            ..Want::requests("1 x 204 with Access-Control-Allow-Origin", 1)
        };
        let what = format!("a browser's preflight for {ORIGIN}");
        self.step(&what, BROWSER, arguments.as_flattened(), &want)
    }

    fn over_the_limit(&mut self) -> Result<()> {
        let allowed = u64::from(REQUESTS_PER_MINUTE);
        let count = (REQUESTS_PER_MINUTE + 5).to_string();
        let answers = format!("{allowed} x 200, 5 x 429 with Retry-After");
        let want = Want {
            field: "retry-after",
            label: ("rate_limited", 5),
            forwarded: allowed,
            ..Want::requests(&answers, allowed + 5)
        };
        let what = format!("{count} requests to a public route that allows {allowed} a minute");
        self.step(&what, HASTY, &["--path", "/public", "--count", &count], &want)
    }

    fn smuggler(&mut self) -> Result<()> {
        let ambiguous = ["--header", "Content-Length: 5", "--header", "Transfer-Encoding: chunked"];
        let want = Want { label: ("malformed_request", 1), ..Want::requests("1 x 400", 1) };
        let what = "a request with two lengths (smuggling)";
        self.step(what, SMUGGLER, &ambiguous, &want)
    }

    /// Returns a stopwatch that started with the ban.
    fn guesser(&mut self) -> Result<Stopwatch> {
        let count = WRONG_KEYS.to_string();
        let wrong = ["--path", "/hello", "--header", "X-API-Key: guess-{n}", "--count", &count];
        let answers = format!("{count} x 401");
        let label = ("invalid_credential", u64::from(WRONG_KEYS));
        let want = Want { label, ..Want::requests(&answers, u64::from(WRONG_KEYS)) };
        self.step(&format!("{count} wrong keys"), GUESSER, &wrong, &want)?;
        let since_ban = Stopwatch::start();

        let ban = self.until(|show| {
            let bans = show.stage.ask(&["bans"])?;
            Ok(find(&bans, "prefix", GUESSER).cloned())
        })?;
        let happened = match &ban {
            Some(ban) => format!(
                "banned in the {}: {}",
                ban["scope"].as_str().unwrap_or_default(),
                ban["reason"].as_str().unwrap_or_default()
            ),
            None => "not banned".to_owned(),
        };
        let is_right = ban.is_some_and(|ban| ban["scope"] == "kernel");
        self.tell(&format!("{GUESSER}: what limiter made of it"), is_right, &happened, "banned");

        let before = self.dropped("banned")?;
        let attempts = ["--fresh", "--count", "3", "--timeout-ms", NO_ANSWER_MS];
        let answers = self.http(GUESSER, &attempts, "")?;
        let dropped = self.dropped("banned")?.saturating_sub(before);
        self.tell(
            &format!("{GUESSER}: 3 attempts to connect"),
            answers == "3 x no connection" && dropped >= 3,
            &format!("{answers}; XDP dropped {dropped} packets (banned)"),
            "3 x no connection, every packet dropped by XDP",
        );
        let key = self.stage.files.honest_key();
        let arguments = ["--path", "/hello", "--key-file", &key.to_string_lossy(), "--count", "5"];
        let want = Want::forwarded("5 x 200", 5);
        self.step("5 requests with a valid key meanwhile", HONEST_V4, &arguments, &want)?;
        Ok(since_ban)
    }

    fn denied(&mut self) -> Result<()> {
        let before = self.dropped("denied")?;
        let arguments = ["--fresh", "--count", "2", "--timeout-ms", NO_ANSWER_MS];
        let answers = self.http(DENIED, &arguments, "")?;
        let sent = self.datagrams(DENIED, DENIED_DATAGRAMS)?;
        let dropped = self.dropped("denied")?.saturating_sub(before);
        // Two connection requests, each perhaps repeated on a busy machine.
        let right = u64::from(sent) + 2..=u64::from(sent) + 6;
        self.tell(
            &format!("{DENIED}: on the deny list; 2 attempts to connect, {sent} datagrams"),
            answers == "2 x no connection" && right.contains(&dropped),
            &format!("{answers}; XDP dropped {dropped} packets (denied)"),
            "2 x no connection, every packet dropped by XDP",
        );
        Ok(())
    }

    /// Datagrams beyond the packet rate, with the honest client at work beside them.
    fn flood(&mut self) -> Result<()> {
        let before = self.dropped("packet_rate")?;
        let stopwatch = Stopwatch::start();
        let (to, count) = (format!("{SERVER_V4}:9"), DATAGRAMS.to_string());
        let arguments = ["udp", "--from", FLOODER, "--to", &to, "--count", &count];
        let flood = self.stage.client(arguments)?;
        let key = self.stage.files.honest_key();
        let key = key.to_string_lossy();
        let honest = ["--path", "/hello", "--key-file", &key, "--count", "5"];
        let answers = self.http(HONEST_V4, &honest, "")?;
        self.requests += 5;
        self.forwarded += 5;
        let sent: u64 = flood.finish(CLIENT_LIMIT, self.interrupt)?.trim().parse()?;
        // The bucket is full at first and refills all the while.
        let refilled = stopwatch.elapsed().as_secs_f64() * f64::from(PACKETS_PER_SECOND);
        let allowed = f64::from(PACKETS_BURST) + refilled + 10.0;
        let sources = self.stage.ask(&["sources"])?;
        let seen = find(&sources, "source", FLOODER)
            .and_then(|source| source["packets"].as_u64())
            .unwrap_or_default();
        let dropped = self.dropped("packet_rate")?.saturating_sub(before);
        let passed = seen.saturating_sub(dropped);
        let in_bounds = u32::try_from(passed).is_ok_and(|passed| f64::from(passed) <= allowed);
        // The wire itself may lose a few.
        let arrived = seen <= sent && seen >= sent * 9 / 10;
        self.tell(
            &format!(
                "{FLOODER}: {sent} datagrams at once, {PACKETS_PER_SECOND} a second allowed; \
                 {HONEST_V4} beside it"
            ),
            arrived && in_bounds && passed >= u64::from(PACKETS_BURST) && answers == "5 x 200",
            &format!(
                "{passed} let through, XDP dropped {dropped} (packet_rate); {HONEST_V4}: {answers}"
            ),
            &format!("at most {allowed:.0} let through, {HONEST_V4}: 5 x 200"),
        );
        Ok(())
    }

    /// The kernel ends the ban by itself.
    fn ban_ends(&mut self, since_ban: Stopwatch) -> Result<()> {
        let length = Duration::from_secs(BAN_SECONDS);
        let arguments = ["--path", "/hello", "--timeout-ms", NO_ANSWER_MS];
        let mut answers = self.http(GUESSER, &arguments, "")?;
        while answers != "1 x 401" && since_ban.elapsed() < length + LATE {
            answers = self.http(GUESSER, &arguments, "")?;
        }
        let took = since_ban.elapsed();
        self.requests += 1;
        *self.refused.entry("unauthorized").or_default() += 1;
        let in_time = took + EARLY >= length && took <= length + LATE;
        self.tell(
            &format!("{GUESSER}: asks again until its ban of {BAN_SECONDS} s is over"),
            answers == "1 x 401" && in_time,
            &format!("{answers} after {}", since_ban.text()),
            &format!("1 x 401 (served again) after {BAN_SECONDS} s"),
        );
        Ok(())
    }

    /// The limiter's counters against what was sent.
    fn counters(&mut self) -> Result<()> {
        let expected = self.tally();
        let mut counted = String::new();
        self.until(|show| {
            counted = count_of(&show.stage.ask(&["status"])?);
            Ok((counted == expected).then_some(()))
        })?;
        self.tell("the counters of `limiter status`", counted == expected, &counted, &expected);
        Ok(())
    }

    /// The security log has a line for each kind of abuse.
    fn security_log(&mut self) -> Result<()> {
        let lines = [
            format!("Unauthorized access attempt from {ANONYMOUS}"),
            format!("Rate limit exceeded for IP: {HASTY}"),
            format!("Malformed request from {SMUGGLER}"),
            format!("Invalid credential from {GUESSER}"),
            format!("Banned {GUESSER} for {BAN_SECONDS}s: "),
            format!("from {GUESSER} in 1s: banned"),
            format!("from {DENIED} in 1s: denied"),
            format!("from {FLOODER} in 1s: packet_rate"),
        ];
        let mut missing = Vec::new();
        self.until(|show| {
            let log = std::fs::read_to_string(show.stage.files.security_log())?;
            missing = lines.iter().filter(|line| !log.contains(*line)).cloned().collect();
            Ok(missing.is_empty().then_some(()))
        })?;
        let happened = if missing.is_empty() {
            "a line for each kind of abuse".to_owned()
        } else {
            format!("missing: {}", missing.join("; "))
        };
        self.tell("the security log", missing.is_empty(), &happened, "a line for each");
        Ok(())
    }

    fn datagrams(&self, from: &str, count: u32) -> Result<u32> {
        let (to, count) = (format!("{SERVER_V4}:9"), count.to_string());
        let client = self.stage.client(["udp", "--from", from, "--to", &to, "--count", &count])?;
        let sent = client.finish(CLIENT_LIMIT, self.interrupt)?;
        sent.trim().parse().with_context(|| format!("no number of datagrams: {sent}"))
    }

    /// Packets that XDP dropped for this reason.
    fn dropped(&self, reason: &str) -> Result<u64> {
        let status = self.stage.ask(&["status"])?;
        let counts = status["packets"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(counts
            .iter()
            .filter(|count| count["verdict"] == "drop" && count["reason"] == reason)
            .filter_map(|count| count["packets"].as_u64())
            .sum())
    }

    /// Repeats until there is something, or the time for it is over.
    fn until<T>(&self, mut look: impl FnMut(&Self) -> Result<Option<T>>) -> Result<Option<T>> {
        let stopwatch = Stopwatch::start();
        loop {
            let found = look(self)?;
            if found.is_some() || stopwatch.elapsed() > SETTLE_LIMIT {
                return Ok(found);
            }
            self.interrupt.check()?;
            thread::sleep(POLL);
        }
    }

    fn tally(&self) -> String {
        let refused: Vec<String> =
            self.refused.iter().map(|(label, count)| format!("{label} {count}")).collect();
        let (requests, forwarded) = (self.requests, self.forwarded);
        format!("{requests} requests, {forwarded} sent upstream, {}", refused.join(", "))
    }
}

/// What a step must bring.
#[derive(Default)]
struct Want<'text> {
    answers: &'text str,
    /// A field that answers are asked for.
    field: &'text str,
    requests: u64,
    forwarded: u64,
    label: (&'static str, u64),
}

impl<'text> Want<'text> {
    fn requests(answers: &'text str, requests: u64) -> Self {
        Self { answers, requests, ..Self::default() }
    }

    fn forwarded(answers: &'text str, requests: u64) -> Self {
        Self { forwarded: requests, ..Self::requests(answers, requests) }
    }
}
