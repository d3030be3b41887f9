//! A snapshot onto a screen; no state, no terminal of its own.

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};

use super::snapshot::Snapshot;
use crate::{
    admin::view::SourceSort,
    cli::output,
    events::{Source, escape},
};

/// Rows of verdicts at most; what is beyond is what there are fewest of.
const MAX_VERDICTS: usize = 8;

const KEYS: &str = " q quit  space pause  sort by: p packets  b bytes  c connections  d drops";

/// Draws all of it, however small the screen is.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    snapshot: &Snapshot,
    sort: SourceSort,
    paused: bool,
    problem: Option<&str>,
) {
    let verdicts = snapshot.verdicts.len().min(MAX_VERDICTS);
    let height = u16::try_from(verdicts).unwrap_or(0) + 1;
    let [head, table, _, sources, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(height),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(summary(snapshot, paused, problem)), head);
    frame.render_widget(verdict_table(snapshot), table);
    frame.render_widget(source_table(snapshot, sort), sources);
    frame.render_widget(Paragraph::new(KEYS).style(Style::new().reversed()), foot);
}

fn summary<'a>(snapshot: &Snapshot, paused: bool, problem: Option<&str>) -> Vec<Line<'a>> {
    let mut packets = vec![Span::from("packets/s: ").bold()];
    for (verdict, colour) in [
        ("pass", Color::Green),
        ("drop", Color::Red),
        ("monitor", Color::Yellow),
        ("tx", Color::Cyan),
    ] {
        let text = format!("{verdict} {}  ", snapshot.packets_of(verdict));
        packets.push(Span::from(text).fg(colour));
    }
    let second = match problem {
        Some(problem) => Line::from(escape::line(problem, 512).to_string()).fg(Color::Red),
        None if snapshot.milliseconds == 0 => Line::from("looking ..."),
        None => {
            let paused = if paused { "  PAUSED" } else { "" };
            Line::from(format!(
                "requests {}/s, refused {}/s; drops of sources too many to tell apart {}/s{paused}",
                snapshot.requests_per_second,
                snapshot.refused_per_second,
                snapshot.untold_drops_per_second
            ))
        }
    };
    vec![Line::from(packets), second]
}

fn verdict_table<'a>(snapshot: &Snapshot) -> Table<'a> {
    let rows = snapshot.verdicts.iter().take(MAX_VERDICTS).map(|one| {
        Row::new([
            Cell::from(one.verdict.clone()),
            Cell::from(one.reason.clone()),
            number(one.packets_per_second.to_string()),
            number(output::bytes(one.bytes_per_second)),
        ])
        .style(colour(&one.verdict))
    });
    let widths = [8, 20, 12, 12].map(Constraint::Length);
    Table::new(rows, widths).header(heading(
        &[("VERDICT", false), ("REASON", false), ("PACKETS/S", true), ("BYTES/S", true)],
        None,
    ))
}

fn source_table<'a>(snapshot: &Snapshot, sort: SourceSort) -> Table<'a> {
    let rows = snapshot.sources.iter().map(|source| {
        Row::new([
            Cell::from(Source::Prefix(source.source).to_string()),
            number(source.packets_per_second.to_string()),
            number(output::bytes(source.bytes_per_second)),
            number(source.connections_per_second.to_string()),
            number(source.drops_per_second.to_string()),
            Cell::from(format!("{} {}", source.verdict, source.reason)),
            Cell::from(source.list.clone()),
        ])
        .style(colour(&source.verdict))
    });
    let widths = [
        Constraint::Min(18),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(24),
        Constraint::Length(8),
    ];
    let sorted = match sort {
        SourceSort::Packets => 1,
        SourceSort::Bytes => 2,
        SourceSort::Connections => 3,
        SourceSort::Dropped => 4,
    };
    let columns = [
        ("SOURCE", false),
        ("PACKETS/S", true),
        ("BYTES/S", true),
        ("CONNS/S", true),
        ("DROPS/S", true),
        ("VERDICT", false),
        ("LIST", false),
    ];
    Table::new(rows, widths).header(heading(&columns, Some(sorted)))
}

fn heading<'a>(columns: &[(&'static str, bool)], sorted: Option<usize>) -> Row<'a> {
    let cells = columns.iter().enumerate().map(|(index, (name, right))| {
        let line = Line::from(*name);
        let cell = Cell::from(if *right { line.right_aligned() } else { line });
        let is_sorted = sorted == Some(index);
        if is_sorted { cell.style(Style::new().add_modifier(Modifier::UNDERLINED)) } else { cell }
    });
    Row::new(cells.collect::<Vec<_>>()).style(Style::new().add_modifier(Modifier::BOLD))
}

fn number<'a>(text: String) -> Cell<'a> {
    Cell::from(Line::from(text).right_aligned())
}

fn colour(verdict: &str) -> Style {
    match verdict {
        "drop" => Style::new().fg(Color::Red),
        "monitor" => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::{admin::view::TopSourceView, cli::top::snapshot::VerdictRate};

    fn screen(width: u16, height: u16, problem: Option<&str>) -> String {
        let source = TopSourceView {
            source: "203.0.113.7/32".parse().unwrap(),
            packets_per_second: 12_345,
            bytes_per_second: 740_700,
            connections_per_second: 3,
            drops_per_second: 12_000,
            verdict: "drop".into(),
            reason: "packet_rate".into(),
            list: "default".into(),
        };
        let verdict = VerdictRate {
            verdict: "drop".into(),
            reason: "packet_rate".into(),
            packets_per_second: 12_000,
            bytes_per_second: 720_000,
        };
        let snapshot = Snapshot {
            milliseconds: 1000,
            verdicts: vec![verdict; 20],
            sources: vec![source; 100],
            ..Snapshot::default()
        };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &snapshot, SourceSort::Dropped, false, problem)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_shows_rates_verdicts_sources_and_keys() {
        let shown = screen(100, 30, None);
        for part in [
            "pass 0  drop 240000",
            "drop     packet_rate",
            "203.0.113.7",
            "12345",
            "740.7 kB",
            "drop packet_rate",
            "q quit",
        ] {
            assert!(shown.contains(part), "{part}:\n{shown}");
        }
        assert!(screen(100, 30, Some("no agent\x1b[2J")).contains("no agent\\x1b[2J"));
    }

    #[test]
    fn no_screen_is_too_small() {
        for (width, height) in [(1, 1), (10, 3), (20, 5), (300, 2), (2, 100)] {
            screen(width, height, None);
        }
    }
}
