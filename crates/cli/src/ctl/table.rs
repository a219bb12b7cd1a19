//! Tables for people: a frame, a head, and rows.

use std::fmt;

/// A table whose columns are as wide as they have to be.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    #[must_use]
    pub fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|&head| head.to_owned()).collect()] }
    }

    /// Adds a row. Control characters are shown as escapes, so that no cell breaks the frame.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let plain = |cell: String| -> String {
            cell.chars()
                .flat_map(|char| {
                    let escaped: Vec<char> =
                        if char.is_control() { char.escape_default().collect() } else { vec![char] };
                    escaped
                })
                .collect()
        };
        self.rows.push(cells.into_iter().map(plain).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let frame: String = widths
            .iter()
            .map(|width| format!("+{}", "-".repeat(width + 2)))
            .chain(["+".to_owned()])
            .collect();
        for (number, row) in self.rows.iter().enumerate() {
            if number < 2 {
                writeln!(f, "{frame}")?;
            }
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "| {cell:<width$} ")?;
            }
            writeln!(f, "|")?;
        }
        writeln!(f, "{frame}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_their_widest_cell() {
        let mut table = Table::new(&["NAME", "PORT"]);
        table.row(["größer als".to_owned(), "1".to_owned()]);
        table.row(["a\nb".to_owned(), String::new()]);
        let expected = "\
+------------+------+
| NAME       | PORT |
+------------+------+
| größer als | 1    |
| a\\nb       |      |
+------------+------+
";
        assert_eq!(table.to_string(), expected);
        assert_eq!(Table::new(&["A"]).to_string(), "+---+\n| A |\n+---+\n");
    }
}
