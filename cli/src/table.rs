//! Tables and formats, as the commands print them.
//!
//! An id is copied from here into the next command, so no word is ever broken over
//! lines: what is too wide for the terminal as a table is printed a line for each
//! cell, and without a terminal columns are plain, a line for each row.

use std::fmt;

use backstop_core::message::one_line;
use clap::ValueEnum;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Color, ColumnConstraint, ContentArrangement, Width};
use jiff::Timestamp;

/// How something is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// A table, printed to fit where it is printed.
pub(crate) struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// What a command prints for people, to fit where it is printed.
pub(crate) struct Page {
    text: String,
    terminal: Option<usize>,
}

/// What a cell says where there is nothing.
pub(crate) const NOTHING: &str = "-";

/// A cell, of one line or several.
pub(crate) struct Cell {
    text: String,
    colour: Option<Color>,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            colour: None,
        }
    }
}

/// A table with these headings.
pub(crate) fn table(headings: &[&str]) -> Table {
    Table {
        headings: headings.iter().map(|of| (*of).to_owned()).collect(),
        rows: Vec::new(),
    }
}

/// A cell in red, yellow or green, where there are colours.
pub(crate) fn bad(text: &str) -> Cell {
    coloured(text, Color::Red)
}

/// See [`bad`].
pub(crate) fn doubtful(text: &str) -> Cell {
    coloured(text, Color::Yellow)
}

/// See [`bad`].
pub(crate) fn good(text: &str) -> Cell {
    coloured(text, Color::Green)
}

fn coloured(text: &str, colour: Color) -> Cell {
    Cell {
        text: text.to_owned(),
        colour: Some(colour),
    }
}

/// However narrow a terminal is, so many characters of a text stand in a line.
const LEAST_WIDTH: usize = 20;

/// An id, with the name where there is another one.
pub(crate) fn named(id: &str, name: &str) -> String {
    match one_line(name, 60) {
        name if name.is_empty() || name == id => id.to_owned(),
        name => format!("{id} ({name})"),
    }
}

/// A time to the second.
pub(crate) fn second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// How wide the terminal is; none: standard output is none.
pub(crate) fn terminal_width() -> Option<usize> {
    comfy_table::Table::new().width().map(usize::from)
}

/// A text in lines of at most so many characters, broken between words only.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && wide(&line) + 1 + wide(word) > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

fn wide(text: &str) -> usize {
    text.chars().count()
}

impl Page {
    /// An empty page for a terminal of so many columns; none: standard output is none,
    /// and every sentence is a line.
    pub(crate) fn new(terminal: Option<usize>) -> Self {
        Self {
            text: String::new(),
            terminal,
        }
    }

    /// A sentence.
    pub(crate) fn line(&mut self, text: &str) {
        self.led("", text);
    }

    /// A text after a lead: where it goes on in further lines, they are indented by as
    /// much as the lead is wide.
    pub(crate) fn led(&mut self, lead: &str, text: &str) {
        let indent = wide(lead);
        let width = self.terminal.map_or(usize::MAX, |width| {
            width.saturating_sub(indent).max(LEAST_WIDTH)
        });
        for (n, line) in wrapped(text, width).iter().enumerate() {
            let lead = if n == 0 { lead } else { "" };
            self.text += format!("{lead:indent$}{line}").trim_end();
            self.text.push('\n');
        }
    }

    /// Texts below a heading, each after a lead; without any there is no heading.
    pub(crate) fn section<T: AsRef<str>>(
        &mut self,
        heading: &str,
        lead: &str,
        texts: impl IntoIterator<Item = T>,
    ) {
        for (n, text) in texts.into_iter().enumerate() {
            if n == 0 {
                self.heading(heading);
            }
            self.led(&format!("  {lead}"), text.as_ref());
        }
    }

    /// A heading, with a blank line above it.
    pub(crate) fn heading(&mut self, heading: &str) {
        self.blank();
        self.line(heading);
    }

    /// A blank line.
    pub(crate) fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A table.
    pub(crate) fn table(&mut self, table: &Table) {
        self.text += &table.print(self.terminal);
        self.text.push('\n');
    }

    /// Lines as they are.
    pub(crate) fn verbatim(&mut self, lines: &str) {
        self.text += lines;
    }

    /// Everything that it holds.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

impl Table {
    /// A further row.
    pub(crate) fn add_row<C: Into<Cell>>(&mut self, cells: Vec<C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table without columns in which every cell says that there is nothing.
    pub(crate) fn without_empty_columns(mut self) -> Self {
        for n in (0..self.headings.len()).rev() {
            let mut cells = self.rows.iter().filter_map(|row| row.get(n));
            if cells.all(|cell| cell.text == NOTHING) {
                self.headings.remove(n);
                for row in &mut self.rows {
                    row.remove(n);
                }
            }
        }
        self
    }

    /// The table as it fits a terminal of so many columns; none: plain columns.
    pub(crate) fn print(&self, terminal: Option<usize>) -> String {
        match terminal {
            None => self.columns(),
            Some(width) if self.least_width() <= width => self.boxes(width),
            Some(width) => self.lines(width),
        }
    }

    /// The cells of a column, heading first.
    fn column(&self, n: usize) -> impl Iterator<Item = &str> {
        let cells = self.rows.iter().filter_map(move |row| row.get(n));
        let heading = self.headings.get(n).map(String::as_str);
        heading
            .into_iter()
            .chain(cells.map(|cell| cell.text.as_str()))
    }

    /// How wide a column has to be so that no word is broken.
    fn longest_word(&self, n: usize) -> usize {
        let words = self.column(n).flat_map(str::split_whitespace);
        words.map(wide).max().unwrap_or(0)
    }

    /// How wide it has to be: a blank on either side of a cell, a line between
    /// cells and on both ends.
    fn least_width(&self) -> usize {
        let columns = self.headings.len();
        let words: usize = (0..columns).map(|n| self.longest_word(n)).sum();
        words + 3 * columns + 1
    }

    fn boxes(&self, width: usize) -> String {
        let mut boxes = comfy_table::Table::new();
        boxes
            .load_style(UTF8_FULL_CONDENSED)
            .set_header(&self.headings)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(u16::try_from(width).unwrap_or(u16::MAX));
        // Tests compare what is printed, wherever they run.
        if cfg!(test) || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            boxes.force_no_tty();
        }
        for row in &self.rows {
            boxes.add_row(row.iter().map(|cell| {
                let of = comfy_table::Cell::new(&cell.text);
                match cell.colour {
                    Some(colour) => of.fg(colour),
                    None => of,
                }
            }));
        }
        for n in 0..self.headings.len() {
            // With the blanks on either side.
            let least = u16::try_from(self.longest_word(n) + 2).unwrap_or(u16::MAX);
            if let Some(column) = boxes.column_mut(n) {
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
            }
        }
        boxes.to_string()
    }

    /// A line for each row, for programs that read lines.
    fn columns(&self) -> String {
        let mut rows = vec![self.headings.clone()];
        for row in &self.rows {
            let cells = row.iter();
            rows.push(cells.map(|cell| cell.text.replace('\n', "; ")).collect());
        }
        let columns = self.headings.len();
        let widths: Vec<usize> = (0..columns)
            .map(|n| {
                rows.iter()
                    .filter_map(|row| row.get(n))
                    .map(|cell| wide(cell))
                    .max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        let mut lines = Vec::new();
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line += cell;
                line.extend(std::iter::repeat_n(' ', width - wide(cell) + 2));
            }
            lines.push(line.trim_end().to_owned());
        }
        lines.join("\n")
    }

    /// A line for each cell.
    fn lines(&self, width: usize) -> String {
        let headings = self.headings.iter().map(|heading| wide(heading));
        let indent = headings.max().unwrap_or(0) + 2;
        let mut rows = Vec::new();
        for row in &self.rows {
            let mut lines = Vec::new();
            for (heading, cell) in self.headings.iter().zip(row) {
                let parts = wrapped(&cell.text, width.saturating_sub(indent).max(LEAST_WIDTH));
                for (n, part) in parts.iter().enumerate() {
                    let label = if n == 0 { heading.as_str() } else { "" };
                    lines.push(format!("{label:indent$}{part}"));
                }
            }
            rows.push(lines.join("\n"));
        }
        rows.join("\n\n")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print(terminal_width()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "01M7SH8XYF6H0J2M4N8P7R3T1W";
    const GROUP: &str = "sg-0a3f5c7e91b2d4f60";

    fn history() -> Table {
        let mut table = table(&["entry", "began", "outcome", "resource", "what", "told"]);
        for _ in 0..2 {
            table.add_row(vec![
                ENTRY.into(),
                "2026-11-24 10:00:00".into(),
                good("remediated"),
                GROUP.into(),
                "tcp 22 from 0.0.0.0/0 (arn:aws:iam::111122223333:user/a-user-with-a-long-name)\nudp 53 from ::/0".into(),
                good("yes"),
            ]);
        }
        table
    }

    fn widest(text: &str) -> usize {
        text.lines().map(wide).max().unwrap()
    }

    #[test]
    fn no_id_is_broken_whatever_the_width_and_a_wide_terminal_is_not_exceeded() {
        for width in [20, 40, 80, 100, 120, 160, 200, 400] {
            let printed = history().print(Some(width));
            assert_eq!(printed.matches(ENTRY).count(), 2, "{width}\n{printed}");
            assert_eq!(printed.matches(GROUP).count(), 2, "{width}\n{printed}");
            if width >= 80 {
                assert!(widest(&printed) <= width, "{width}\n{printed}");
            }
        }
        assert!(history().print(Some(200)).contains('│'));
        assert!(!history().print(Some(80)).contains('│'), "it has no room");
    }

    #[test]
    fn a_table_that_fits_into_80_columns_is_a_table_there() {
        let mut small = table(&["control", "calls"]);
        small.add_row(vec!["open-ingress".to_owned(), "3".to_owned()]);
        assert!(small.print(Some(80)).contains('│'));
    }

    #[test]
    fn columns_without_anything_in_them_are_left_out() {
        let mut steps = table(&["item", "code", "made"]);
        for made in ["-", "sgr-1"] {
            steps.add_row(vec![GROUP, "-", made]);
        }
        let printed = steps.without_empty_columns().print(None);
        let lines: Vec<Vec<&str>> = printed
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [vec!["item", "made"], vec![GROUP, "-"], vec![GROUP, "sgr-1"]]
        );
    }

    #[test]
    fn a_name_that_says_no_more_than_the_id_is_left_out() {
        assert_eq!(named(GROUP, "web"), format!("{GROUP} (web)"));
        assert_eq!([named(GROUP, ""), named(GROUP, GROUP)], [GROUP, GROUP]);
    }

    #[test]
    fn without_a_terminal_a_row_is_a_line_of_plain_columns() {
        let printed = history().print(None);
        let lines: Vec<&str> = printed.lines().collect();
        let [heading, first, second] = lines[..] else {
            panic!("{printed}")
        };
        assert_eq!(first, second);
        assert!(printed.is_ascii(), "no boxes: {printed}");
        assert!(first.starts_with(&format!("{ENTRY}  2026-11-24 10:00:00  remediated")));
        assert_eq!(first.find(GROUP), heading.find("resource"));
        assert!(first.contains("; udp 53 from ::/0") && first.ends_with("yes"));
    }

    #[test]
    fn words_longer_than_a_line_stay_whole() {
        let lines = wrapped(&format!("see {GROUP} now"), 10);
        assert_eq!(lines, ["see", GROUP, "now"]);
    }

    #[test]
    fn a_page_indents_below_a_lead_and_is_a_line_for_each_text_without_a_terminal() {
        let page = |terminal| {
            let mut page = Page::new(terminal);
            page.section("Sweep", "- ", ["it has found one group", "and closed it"]);
            page.section("Nothing", "- ", [""; 0]);
            page.into_text()
        };
        assert_eq!(
            page(Some(24)),
            "\nSweep\n  - it has found one\n    group\n  - and closed it\n"
        );
        assert_eq!(
            page(None),
            "\nSweep\n  - it has found one group\n  - and closed it\n"
        );
    }
}
