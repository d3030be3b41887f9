//! `limiter top`: who sends, who is dropped and why, per second, until somebody has seen enough;
//! or once, for scripts.
//!
//! The terminal is given back as it was, whatever ends the program.

mod screen;
mod snapshot;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use http::Method;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::snapshot::Snapshot;
use super::{UsageError, agent::AgentArgs, argument, output};
use crate::{
    admin::{
        client::{Client, ClientError, Target},
        view::{SourceSort, TopView},
    },
    clock,
};

/// How often it looks.
const REFRESH_NS: u64 = 1_000_000_000;

/// How soon a key or signal is noticed.
const POLL: Duration = Duration::from_millis(100);

/// Looks of `--once` until there are rates: the table is read in about a second each time.
const ONCE_LOOKS: u32 = 60;
const ONCE_PAUSE: Duration = Duration::from_millis(250);

#[derive(Args, Debug)]
pub(super) struct TopArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Most of this first; also by the keys p, b, c and d
    #[arg(long, default_value = "packets", value_parser = argument::sort())]
    sort: SourceSort,
    /// At most so many sources
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    /// Print what a few seconds show, and end
    #[arg(long)]
    once: bool,
    /// Print the JSON document
    #[arg(long, requires = "once")]
    json: bool,
}

pub(super) fn run(args: &TopArgs) -> Result<ExitCode> {
    if !args.once && !io::stdout().is_terminal() {
        let message = "top needs a terminal, and standard output is none; \
                       `limiter top --once` prints what there is, with --json for scripts";
        return Err(UsageError(message.to_owned()).into());
    }
    let client = args.agent.client()?;
    // Whoever asks begins to watch: without an agent this ends here, with the terminal as it was.
    let first = ask(&client, args.sort, args.limit)?;
    if args.once {
        let snapshot = once(&client, args, &first)?;
        if args.json {
            output::print_json(&serde_json::to_vec(&snapshot)?)?;
        } else {
            output::print(&snapshot.text()?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    // Also restores on a panic.
    let mut terminal = ratatui::try_init()?;
    let watched =
        Watch { client, sort: args.sort, limit: args.limit, paused: false, problem: None }.run(
            &mut terminal,
            first,
            &ended,
        );
    ratatui::restore();
    watched?;
    Ok(ExitCode::SUCCESS)
}

fn ask(client: &Client, sort: SourceSort, limit: usize) -> Result<TopView, ClientError> {
    let target =
        Target::new("/v1/top").with("sort", sort.label()).with("limit", &limit.to_string());
    Ok(client.ask(Method::GET, &target, Vec::new())?.view)
}

/// Waits for two passes over the table, so that there are rates.
fn once(client: &Client, args: &TopArgs, first: &TopView) -> Result<Snapshot> {
    let passes = first.passes;
    for _ in 0..ONCE_LOOKS {
        std::thread::sleep(ONCE_PAUSE);
        let view = ask(client, args.sort, args.limit)?;
        let has_rates = view.passes >= 2 && view.passes > passes;
        if has_rates && view.clock_milliseconds >= first.clock_milliseconds + 1000 {
            return Ok(Snapshot::between(first, view));
        }
    }
    Err(anyhow::anyhow!("the agent has not looked at the whole table in time"))
}

/// What is watched and how.
struct Watch {
    client: Client,
    sort: SourceSort,
    limit: usize,
    paused: bool,
    /// Why there is nothing new.
    problem: Option<String>,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wish {
    Quit,
    Pause,
    Sort(SourceSort),
    Nothing,
}

impl Watch {
    fn run(
        mut self,
        terminal: &mut DefaultTerminal,
        mut last: TopView,
        ended: &AtomicBool,
    ) -> Result<()> {
        let mut shown = Snapshot::default();
        let mut asked_ns = clock::monotonic_ns();
        loop {
            terminal.draw(|frame| {
                screen::draw(frame, &shown, self.sort, self.paused, self.problem.as_deref());
            })?;
            let mut look_now = false;
            if event::poll(POLL)? {
                match wish(&event::read()?) {
                    Wish::Quit => return Ok(()),
                    Wish::Pause => self.paused = !self.paused,
                    Wish::Sort(sort) => {
                        self.sort = sort;
                        shown.sort(sort);
                        look_now = !self.paused;
                    }
                    Wish::Nothing => {}
                }
            }
            if ended.load(Ordering::Relaxed) {
                return Ok(());
            }
            let now_ns = clock::monotonic_ns();
            let is_due = !self.paused && now_ns.saturating_sub(asked_ns) >= REFRESH_NS;
            if is_due || look_now {
                match ask(&self.client, self.sort, self.limit) {
                    Ok(view) if is_due => {
                        asked_ns = now_ns;
                        self.problem = None;
                        shown = Snapshot::between(&last, view.clone());
                        last = view;
                    }
                    // Only in another order: the rates are over the same time.
                    Ok(view) => shown.sources = view.sources,
                    Err(error) => {
                        asked_ns = now_ns;
                        self.problem = Some(error.to_string());
                    }
                }
            }
        }
    }
}

fn wish(event: &Event) -> Wish {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else {
        return Wish::Nothing;
    };
    match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Char(' ') => Wish::Pause,
        KeyCode::Char('p') => Wish::Sort(SourceSort::Packets),
        KeyCode::Char('b') => Wish::Sort(SourceSort::Bytes),
        KeyCode::Char('c') => Wish::Sort(SourceSort::Connections),
        KeyCode::Char('d') => Wish::Sort(SourceSort::Dropped),
        _ => Wish::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_the_last_line_says() {
        let press = |code, modifiers| wish(&Event::Key(KeyEvent::new(code, modifiers)));
        let plain = |c| press(KeyCode::Char(c), KeyModifiers::NONE);
        assert_eq!(plain('q'), Wish::Quit);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Wish::Quit);
        assert_eq!(plain('c'), Wish::Sort(SourceSort::Connections));
        assert_eq!(plain('d'), Wish::Sort(SourceSort::Dropped));
        assert_eq!(plain(' '), Wish::Pause);
        assert_eq!(plain('x'), Wish::Nothing);
        assert_eq!(wish(&Event::Resize(1, 1)), Wish::Nothing);
    }
}
