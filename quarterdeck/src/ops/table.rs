//! Rows of text in columns.

/// Columns padded to their widest cell, two spaces between.
pub fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default());
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out += line.join("  ").trim_end();
        out.push('\n');
    }
    out
}
