//! What is not working, by kind: told once when it begins, shown in the status while it lasts.

use std::collections::BTreeMap;

/// Kinds of problem; at most one sentence of each is kept.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Problem {
    /// The kernel half is off although it is configured.
    KernelOff,
    /// Interfaces that are wanted and not filtered.
    Interfaces,
    /// The policy in force is not that of the file.
    RolledBack,
    /// The policy before a trial cannot be brought back.
    RollbackFailed,
    /// XDP was taken off by command.
    Detached,
    /// The book of bans could not be read.
    BookUnread,
    /// The book of bans cannot be written.
    BookUnwritten,
    /// The lists of people could not be read.
    ListsUnread,
    /// The lists of people cannot be written.
    ListsUnwritten,
    /// Bans that could not be restored.
    BansLeftOut,
    /// The ban table cannot be changed.
    BanTable,
    /// Open connections cannot be counted, checked or ended as they should be.
    Connections,
    /// Evidence asks for bans that cannot be made.
    BanRefused,
    /// SYN cookies cannot be given as the policy says.
    SynCookies,
    /// The access log cannot be written.
    AccessLog,
    /// The proxy ended and is being replaced.
    ProxyDown,
    /// The proxy refuses unknown clients because there is too much to do.
    Overloaded,
    /// Limits are not counted in the store that hosts share.
    StoreLost,
    /// Bans are not shared with other hosts.
    BansUnshared,
}

/// The problems of the moment.
#[derive(Debug, Default)]
pub(super) struct Problems(BTreeMap<Problem, String>);

impl Problems {
    /// A problem is there; whether that is news.
    pub(super) fn begin(&mut self, problem: Problem, sentence: String) -> bool {
        self.0.insert(problem, sentence).is_none()
    }

    /// It is over.
    pub(super) fn end(&mut self, problem: Problem) {
        self.0.remove(&problem);
    }

    /// The sentence of a problem that is there.
    pub(super) fn sentence(&self, problem: Problem) -> Option<&String> {
        self.0.get(&problem)
    }

    /// A sentence each.
    pub(super) fn sentences(&self) -> Vec<String> {
        self.0.values().cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_news_once_until_it_is_over() {
        let mut problems = Problems::default();
        assert!(problems.begin(Problem::BookUnwritten, "full".into()));
        assert!(!problems.begin(Problem::BookUnwritten, "still full".into()));
        assert_eq!(problems.sentences(), ["still full"]);
        problems.end(Problem::BookUnwritten);
        assert!(problems.is_empty());
        assert!(problems.begin(Problem::BookUnwritten, "full".into()));
    }
}
