//! Tables and formats, as the commands print them.

use std::io::IsTerminal;

use clap::ValueEnum;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, Color, ContentArrangement, Table};

/// How something is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// A table with these headings, as wide as the terminal; without one as wide
/// as it has to be.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(headings);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        table.force_no_tty();
    }
    table
}

/// A cell in red, yellow or green, where there are colours.
pub(crate) fn bad(text: &str) -> Cell {
    Cell::new(text).fg(Color::Red)
}

/// See [`bad`].
pub(crate) fn doubtful(text: &str) -> Cell {
    Cell::new(text).fg(Color::Yellow)
}

/// See [`bad`].
pub(crate) fn good(text: &str) -> Cell {
    Cell::new(text).fg(Color::Green)
}
