//! Bans that hosts share: what changed here for all others, what changed elsewhere for this one.
//!
//! What is read was written by other hosts, or by whoever can write to the store: it is parsed
//! strictly, bounded, and decides nothing by itself.

use std::{sync::LazyLock, time::Duration};

use ipnet::IpNet;
use redis::{Cmd, Value};
use tokio::time;

use super::{StoreError, Target, connection::Connection, script::Script};
use crate::policy::BanScope;

/// Bans that are kept in the store, with those that were lifted within a day.
pub const MAX_BANS: usize = 65_536;

/// Changes in one question and in one answer.
pub const BATCH: usize = 256;

/// Characters of a reason and of a host's name that are read.
const MAX_REASON: usize = 200;
const MAX_HOST: usize = 64;

/// No ban is longer: ten years.
const LONGEST_MS: u64 = 10 * 365 * 86_400_000;

/// How long an answer may take: nobody waits for it but the next one.
const TIMEOUT: Duration = Duration::from_secs(2);

const KEYS: [&str; 3] = ["limiter:bans", "limiter:bans:changes", "limiter:bans:ends"];

static BANS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("bans.lua")));

/// One change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Whom.
    pub prefix: IpNet,
    /// Where it is enforced.
    pub scope: BanScope,
    /// What is said.
    pub word: Word,
}

/// What is said about a ban.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Word {
    /// It was made just now, in place of what was known of it.
    New(Terms),
    /// It was made before; whoever knows it learns nothing new, and one that was lifted stays so.
    Known(Terms),
    /// It is lifted.
    Lifted,
}

/// How a ban is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// How long it goes on.
    pub left: Duration,
    /// Why; one line.
    pub reason: String,
    /// The host that made it.
    pub host: String,
}

/// What the store answered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct News {
    /// What others said, in order.
    pub changes: Vec<Change>,
    /// There is more to be read.
    pub has_more: bool,
    /// Changes of ours that found no room.
    pub left_out: u64,
    /// Entries that were not understood.
    pub unreadable: u64,
}

/// The agent's connection to the store.
#[derive(Debug)]
pub struct BanLine {
    connection: Connection,
    /// What this agent calls itself; its own changes are not news to it.
    own: String,
    /// The change up to which it has read, us.
    read: u64,
}

impl BanLine {
    /// Connects; the first exchanges read everything. `own` has no spaces.
    pub async fn open(target: &Target, own: &str) -> Result<Self, StoreError> {
        let connection = target.open().await?;
        Ok(Self { connection, own: own.to_owned(), read: 0 })
    }

    /// Says what changed here (at most [`BATCH`] are looked at), and reads what changed elsewhere.
    pub async fn exchange(&mut self, changes: &[Change]) -> Result<News, StoreError> {
        let (read, own) = (self.read, self.own.as_str());
        let fill = |command: &mut Cmd| {
            for key in KEYS {
                command.arg(key);
            }
            command.arg(read).arg(MAX_BANS).arg(BATCH);
            for change in changes.iter().take(BATCH) {
                let name = format!("{} {}", change.scope.label(), change.prefix);
                let (word, terms) = match &change.word {
                    Word::New(terms) => ("new", Some(terms)),
                    Word::Known(terms) => ("known", Some(terms)),
                    Word::Lifted => ("lift", None),
                };
                command.arg(word).arg(name);
                match terms {
                    Some(terms) => {
                        let left_ms = u64::try_from(terms.left.as_millis()).unwrap_or(u64::MAX);
                        command.arg(left_ms.min(LONGEST_MS)).arg(own);
                        command.arg(format!("{} {}", word_of(&terms.host), terms.reason));
                    }
                    None => {
                        command.arg(0).arg(own).arg("");
                    }
                }
            }
        };
        let answer = BANS.call(self.connection.redis(), KEYS.len(), fill);
        let answer = time::timeout(TIMEOUT, answer).await.map_err(|_| StoreError::TimedOut)??;
        let (read, news) = read_news(&answer, &self.own)
            .ok_or_else(|| StoreError::Refused("not what the script says".to_owned()))?;
        self.read = read;
        Ok(news)
    }
}

pub(super) fn read_news(answer: &Value, own: &str) -> Option<(u64, News)> {
    let Value::Array(items) = answer else { return None };
    let [Value::Int(read), Value::Int(more), Value::Int(left_out), entries @ ..] = items.as_slice()
    else {
        return None;
    };
    let mut news =
        News { has_more: *more == 1, left_out: u64::try_from(*left_out).ok()?, ..News::default() };
    let (entries, rest) = entries.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    for [ban, left, who, what] in entries {
        if text(who) == Some(own) {
            continue;
        }
        match read_change(ban, left, what) {
            Some(change) => news.changes.push(change),
            None => news.unreadable += 1,
        }
    }
    Some((u64::try_from(*read).ok()?, news))
}

fn read_change(ban: &Value, left: &Value, what: &Value) -> Option<Change> {
    let (scope, prefix) = text(ban)?.split_once(' ')?;
    let scope = [BanScope::Kernel, BanScope::Http].into_iter().find(|it| it.label() == scope)?;
    let prefix: IpNet = prefix.parse().ok()?;
    let Value::Int(left_ms) = left else { return None };
    let left_ms = u64::try_from(*left_ms).ok()?.min(LONGEST_MS);
    if left_ms == 0 {
        return Some(Change { prefix: prefix.trunc(), scope, word: Word::Lifted });
    }
    let (host, reason) = text(what)?.split_once(' ')?;
    let terms = Terms {
        left: Duration::from_millis(left_ms),
        reason: printable(reason, MAX_REASON),
        host: printable(host, MAX_HOST),
    };
    Some(Change { prefix: prefix.trunc(), scope, word: Word::New(terms) })
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn printable(text: &str, most: usize) -> String {
    text.chars().filter(|character| !character.is_control()).take(most).collect()
}

/// One word: a name as hosts have them.
fn word_of(host: &str) -> String {
    let name: String = host.chars().filter(char::is_ascii_graphic).take(MAX_HOST).collect();
    if name.is_empty() { "?".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn what_others_wrote_is_read_strictly() {
        let entry = |ban: &str, left, who: &str, what: &str| {
            [bulk(ban), Value::Int(left), bulk(who), bulk(what)]
        };
        let mut items = vec![Value::Int(7), Value::Int(0), Value::Int(0)];
        let entries = [
            entry("kernel 192.0.2.1/32", 1000, "a", "host too \u{1b}[31mmany"),
            entry("kernel 192.0.2.1/32", 1000, "own", "host too many"),
            entry("kernel 192.0.2.7/24", 0, "a", ""),
            entry("cellar 192.0.2.1/32", 1000, "a", "host x"),
            entry("kernel 192.0.2.1/33", 1000, "a", "host x"),
            entry("kernel 192.0.2.1/32", -5, "a", "host x"),
            entry("http 2001:db8::/64", i64::MAX, "a", "host x"),
        ];
        items.extend(entries.into_iter().flatten());
        let (read, news) = read_news(&Value::Array(items), "own").unwrap();
        assert_eq!((read, news.unreadable), (7, 3));
        let [ban, lifted, long] = news.changes.as_slice() else { panic!("{news:?}") };
        let Word::New(terms) = &ban.word else { panic!() };
        assert_eq!((terms.reason.as_str(), terms.host.as_str()), ("too [31mmany", "host"));
        assert_eq!(
            (lifted.prefix.to_string(), &lifted.word),
            ("192.0.2.0/24".into(), &Word::Lifted)
        );
        let Word::New(terms) = &long.word else { panic!() };
        assert_eq!(terms.left, Duration::from_millis(LONGEST_MS));
        let nonsense = Value::Array(vec![Value::Int(7), Value::Int(0), Value::Int(0), Value::Nil]);
        assert_eq!(read_news(&nonsense, "own"), None);
    }

    #[test]
    fn a_host_is_one_word() {
        assert_eq!(word_of("web 1\n"), "web1");
        assert_eq!(word_of(""), "?");
    }
}
