//! Rows under headings, each column as wide as its widest cell.
//!
//! Our own rather than a crate's: no borders, no wrapping, no colours, and nothing to look up about
//! the terminal, so that a table can be cut with `awk` and costs `ps` nothing.

use std::borrow::Cow;

use banger_session::printable;

/// Aligns `rows` under `headings`, two spaces between columns, nothing after the last one.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(str::len);
    // Spelled before they are measured; and a newline in one must not make a row.
    let rows: Vec<[Cow<'_, str>; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| printable(cell)))
        .collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    push_row(headings, &widths, &mut text);
    for row in &rows {
        push_row(row.each_ref().map(Cow::as_ref), &widths, &mut text);
    }
    text
}

fn push_row<const N: usize>(cells: [&str; N], widths: &[usize; N], text: &mut String) {
    let begin = text.len();
    for (cell, &width) in cells.iter().zip(widths) {
        text.push_str(cell);
        let missing = width - cell.chars().count();
        text.extend(std::iter::repeat_n(' ', missing + 2));
    }
    text.truncate(begin + text[begin..].trim_end().len());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "running".to_owned()],
            ["größer".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["NAME", "STATE"], &rows),
            "NAME    STATE\na       running\ngrößer\n"
        );
    }
}
