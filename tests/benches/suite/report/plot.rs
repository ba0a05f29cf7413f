//! The rates as bars, a panel for each comparison, with a line from the slowest round to the
//! fastest: an SVG, for it is only text.

use std::fmt::Write;

use super::Row;
use crate::measure::Figure;

const WIDTH: f64 = 760.0;
const LABELS: f64 = 150.0;
const NUMBERS: f64 = 150.0;
const BARS: f64 = WIDTH - LABELS - NUMBERS;
const LINE: f64 = 20.0;
const TITLE: f64 = 34.0;

pub fn draw(rows: &[Row]) -> String {
    let panels: Vec<&[Row]> = rows
        .chunk_by(|a, b| (&a.group, &a.comparison) == (&b.group, &b.comparison))
        .filter(|panel| {
            panel
                .iter()
                .any(|row| row.figures.contains_key(&Figure::Rate))
        })
        .collect();
    let mut body = String::new();
    let mut top = 0.0;
    for panel in panels {
        // Writing to a string does not fail.
        let _ = draw_panel(&mut body, panel, top);
        top += TITLE + panel.len() as f64 * LINE;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        top + LINE
    )
}

fn draw_panel(out: &mut String, panel: &[Row], top: f64) -> std::fmt::Result {
    let rate = |row: &Row| row.figures.get(&Figure::Rate).copied();
    let most = panel.iter().filter_map(rate).map(|rate| rate.max);
    let scale = BARS / most.fold(1.0, f64::max);
    let (group, title) = (&panel[0].group, escaped(&panel[0].comparison));
    writeln!(
        out,
        "<text x=\"8\" y=\"{}\" font-weight=\"bold\">{group}: {title}, a second</text>",
        top + TITLE - 10.0
    )?;
    for (number, row) in panel.iter().enumerate() {
        let y = top + TITLE + number as f64 * LINE;
        let text = y + 12.0;
        let label = escaped(&row.entry);
        let end = LABELS - 6.0;
        writeln!(
            out,
            "<text x=\"{end}\" y=\"{text}\" text-anchor=\"end\">{label}</text>"
        )?;
        let Some(rate) = rate(row) else { continue };
        let [bar, min, max] = [rate.median, rate.min, rate.max].map(|rate| rate * scale);
        let is_ours = row.entry.starts_with("Lepus") || row.entry.starts_with("embedded");
        let colour = if is_ours { "#b5651d" } else { "#9aa5b1" };
        writeln!(
            out,
            "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{bar:.1}\" height=\"15\" fill=\"{colour}\"/>\
             <path d=\"M{:.1} {}H{:.1}\" stroke=\"black\"/>",
            LABELS + min,
            y + 7.5,
            LABELS + max
        )?;
        let ratio = row.ratios.get(&Figure::Rate);
        let ratio = ratio.map_or(String::new(), |ratio| format!(" (×{:.2})", ratio.median));
        writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{text}\">{:.0}{ratio}</text>",
            LABELS + max + 6.0,
            rate.median
        )?;
    }
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
