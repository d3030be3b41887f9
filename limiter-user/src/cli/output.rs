//! The one way to standard output: whole texts, aligned tables, numbers people can read.
//!
//! Fails with the write's error; a closed pipe ends the command quietly (see `cli::main`).

use std::{
    fmt::{self, Display, Write as _},
    io::{self, Write as _},
};

use anyhow::Result;

use crate::{admin::client::ClientError, events::escape};

const MAX_CELL_BYTES: usize = 120;

/// Writes as it is.
pub(super) fn print(text: &str) -> Result<()> {
    Ok(print_bytes(text.as_bytes()).map_err(ClientError::Output)?)
}

/// Writes and flushes: whoever follows sees it at once.
pub(super) fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// A JSON document as it came, on a line of its own.
pub(super) fn print_json(json: &[u8]) -> Result<()> {
    let line = [json, b"\n"].concat();
    Ok(print_bytes(&line).map_err(ClientError::Output)?)
}

/// A table with a heading; numbers (`>` before the heading) to the right.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(headings: &[&'static str]) -> Self {
        let columns = headings.iter().map(|heading| {
            heading.strip_prefix('>').map_or((*heading, false), |heading| (heading, true))
        });
        Self { columns: columns.collect(), rows: Vec::new() }
    }

    /// Adds a row; control characters in it are escaped.
    pub(super) fn row<const N: usize>(&mut self, cells: [&dyn Display; N]) {
        let cells = cells.map(|cell| escape::line(&cell.to_string(), MAX_CELL_BYTES).to_string());
        self.rows.push(cells.into());
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| (*name).into()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let rows = self.rows.iter().chain([&heading]);
                rows.map(|row| row[column].len()).max().unwrap_or(0)
            })
            .collect();
        for row in [&heading].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, right)) in row.iter().zip(&widths).zip(&self.columns) {
                if *right {
                    write!(line, "{cell:>width$}  ")?;
                } else {
                    write!(line, "{cell:<width$}  ")?;
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `2d 3h`, `9m 47s`: the two largest units.
pub(super) fn seconds(seconds: u64) -> String {
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (length, unit) in units {
        if rest >= length {
            parts.push(format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    parts.truncate(2);
    if parts.is_empty() {
        parts.push("0s".into());
    }
    parts.join(" ")
}

/// `1.4 MB`: powers of ten, as the configuration's sizes.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (bytes / 100, 0);
    while tenths >= 10_000 {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_escape() {
        let mut table = Table::new(&["NAME", ">COUNT"]);
        table.row([&"a", &12345]);
        table.row([&"long\x1b[2J name", &1]);
        assert_eq!(
            table.to_string(),
            "NAME              COUNT\n\
             a                 12345\n\
             long\\x1b[2J name      1\n"
        );
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(seconds(0), "0s");
        assert_eq!(seconds(587), "9m 47s");
        assert_eq!(seconds(3 * 86_400 + 7200 + 5), "3d 2h");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_440_000), "1.4 MB");
        assert_eq!(bytes(999_999), "999.9 kB");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }
}
