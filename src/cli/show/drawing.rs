//! The map as an SVG drawing. Each rectangle has its name as a title, which a browser shows when
//! the pointer is on it.

use std::fmt::Write;

use super::map::{Map, Part};

const WIDTH: usize = 960;
const ROW: usize = 34;
const GAP: usize = 4;
const COLORS: [&str; 6] = [
    "#4878a8", "#6aa84f", "#b58b3b", "#8064a2", "#45a0a0", "#a05a6c",
];

/// The number of cells in a row. Each has a width of whole units.
pub(super) const ROW_CELLS: usize = 240;

/// Returns the drawing. `title` returns what is shown for a part.
pub(super) fn svg(map: &Map, title: &mut dyn FnMut(Part) -> String) -> String {
    let unit = WIDTH / ROW_CELLS;
    let rows = map.cells().len().div_ceil(ROW_CELLS);
    let height = (rows * (ROW + GAP)).max(1);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"map of the payload\">\n"
    );
    for (row, cells) in map.cells().chunks(ROW_CELLS).enumerate() {
        let mut at = 0;
        // Neighbours with the same content are one rectangle.
        for run in cells.chunk_by(|a, b| (a.part, a.damaged) == (b.part, b.damaged)) {
            let (part, damaged) = (run[0].part, run[0].damaged);
            let _ = writeln!(
                text,
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{ROW}\" fill=\"{}\"{}><title>{}{}\
                 </title></rect>",
                at * unit,
                row * (ROW + GAP),
                run.len() * unit,
                if damaged { "#d62020" } else { color(part) },
                match part {
                    Part::File(index) => format!(" data-file=\"{index}\""),
                    _ => String::new(),
                },
                escaped(&title(part)),
                if damaged { ", damaged here" } else { "" },
            );
            at += run.len();
        }
    }
    text += "</svg>\n";
    text
}

fn color(part: Part) -> &'static str {
    match part {
        Part::Headers => "#999999",
        Part::File(index) => COLORS[(index % COLORS.len() as u64) as usize],
        Part::Trailer => "#555555",
        Part::Unused => "#dddddd",
    }
}

/// Returns `text` for the content of an XML or HTML element.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_file_are_one_rectangle_and_titles_are_escaped() {
        let mut map = Map::new(480, 480);
        map.add(0..300, Part::File(0));
        map.add(300..480, Part::Trailer);
        map.damage(&(10..11));
        let text = svg(&map, &mut |part| format!("<{part:?}>"));
        // Two rows: before, at and behind the damage, and the rest of the file and the trailer.
        assert_eq!(text.matches("<rect ").count(), 5, "{text}");
        assert_eq!(text.matches("#d62020").count(), 1);
        assert!(text.contains("<title>&lt;File(0)&gt;, damaged here</title>"));
        assert!(!text.contains("<File"));
    }
}
