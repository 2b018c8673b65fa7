//! The map as text, with and without colors.

use anstyle::{AnsiColor, Color, Style};

use super::map::{Cell, Map, Part};

/// The colors of files. Neighbours have different ones.
const COLORS: [AnsiColor; 5] = [
    AnsiColor::Blue,
    AnsiColor::Cyan,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Yellow,
];
/// The characters of files, where there are no colors.
const LETTERS: &[u8] = b"#=%+o";

/// Returns the map in rows of `width` cells, each row with a line feed. `checked` is the number of
/// cells that have been read, and the others are dim.
pub(super) fn rows(map: &Map, width: usize, colors: bool, checked: usize) -> String {
    let mut text = String::new();
    for (row, cells) in map.cells().chunks(width).enumerate() {
        for (at, cell) in cells.iter().enumerate() {
            match colors {
                true => text += &colored(cell, row * width + at < checked),
                false => text.push(plain(cell)),
            }
        }
        text.push('\n');
    }
    text
}

fn plain(cell: &Cell) -> char {
    if cell.damaged {
        return 'X';
    }
    match cell.part {
        Part::Headers => ':',
        // Many small files in one cell have no letter of their own.
        Part::File(_) if cell.files > 2 => ':',
        Part::File(index) => LETTERS[(index % LETTERS.len() as u64) as usize] as char,
        Part::Trailer => '~',
        Part::Unused => '.',
    }
}

fn colored(cell: &Cell, checked: bool) -> String {
    let color = match cell.part {
        _ if cell.damaged => AnsiColor::BrightRed,
        Part::Headers => AnsiColor::White,
        Part::File(_) if cell.files > 2 => AnsiColor::White,
        Part::File(index) => COLORS[(index % COLORS.len() as u64) as usize],
        Part::Trailer => AnsiColor::BrightBlack,
        Part::Unused => AnsiColor::Black,
    };
    let symbol = match (cell.damaged, checked) {
        (true, _) => 'X',
        (false, true) => '█',
        (false, false) => '░',
    };
    let style = Style::new().fg_color(Some(Color::Ansi(color)));
    format!("{style}{symbol}{style:#}")
}

/// Returns the line that explains the characters. It names only what is on the map.
pub(super) fn legend(map: &Map, colors: bool) -> String {
    let has = |test: &dyn Fn(&Cell) -> bool| map.cells().iter().any(test);
    let mut parts = Vec::new();
    if has(&|cell| matches!(cell.part, Part::File(_)) && cell.files <= 2) {
        parts.push(match colors {
            true => "one color a file".to_owned(),
            false => format!("{} files", String::from_utf8_lossy(LETTERS)),
        });
    }
    let small = |cell: &Cell| cell.part == Part::Headers || cell.files > 2;
    let items: [(bool, char, AnsiColor, &str); 4] = [
        (
            has(&small),
            ':',
            AnsiColor::White,
            "small files and headers",
        ),
        (
            has(&|cell| cell.part == Part::Trailer),
            '~',
            AnsiColor::BrightBlack,
            "protection trailer",
        ),
        (
            has(&|cell| cell.part == Part::Unused),
            '.',
            AnsiColor::Black,
            "not reached",
        ),
        (
            has(&|cell| cell.damaged),
            'X',
            AnsiColor::BrightRed,
            "damaged",
        ),
    ];
    for (shown, letter, color, words) in items {
        if !shown {
            continue;
        }
        let style = Style::new().fg_color(Some(Color::Ansi(color)));
        parts.push(match (colors, letter) {
            (true, 'X') => format!("{style}X{style:#} {words}"),
            (true, _) => format!("{style}█{style:#} {words}"),
            (false, _) => format!("{letter} {words}"),
        });
    }
    parts.join("   ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Map {
        let mut map = Map::new(60, 6);
        map.add(0..10, Part::Headers);
        map.add(10..20, Part::File(0));
        map.add(20..40, Part::File(1));
        map.add(40..50, Part::Trailer);
        map.damage(&(35..36));
        map
    }

    #[test]
    fn without_colors_every_part_has_a_character() {
        assert_eq!(rows(&map(), 4, false, 6), ":#=X\n~.\n");
        assert_eq!(
            legend(&map(), false),
            "#=%+o files   : small files and headers   ~ protection trailer   . not reached   \
             X damaged"
        );
    }

    #[test]
    fn with_colors_what_was_not_read_yet_is_dim() {
        let text = rows(&map(), 6, true, 2);
        assert_eq!(text.matches('█').count(), 2);
        assert_eq!(text.matches('░').count(), 3);
        assert_eq!(text.matches('X').count(), 1);
    }

    #[test]
    fn the_legend_names_only_what_is_there() {
        let mut map = Map::new(10, 1);
        map.add(0..10, Part::File(3));
        assert_eq!(legend(&map, false), "#=%+o files");
    }
}
