//! A payload drawn as a row of cells, each for the same number of bytes. It is pure: it is told
//! what is where.

use std::ops::Range;

/// What a part of the source holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Headers: the names and sizes of files.
    Headers,
    /// The data of the file with this number.
    File(u64),
    /// The protection trailer.
    Trailer,
    /// Nothing that belongs to the payload.
    Unused,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    /// What most of the cell holds.
    pub part: Part,
    /// The number of bytes of `part` in the cell.
    bytes: u64,
    /// The number of files with data in the cell.
    pub files: u64,
    /// Whether something in the cell is damaged.
    pub damaged: bool,
}

/// A map of `length` bytes.
#[derive(Debug, Clone)]
pub(super) struct Map {
    length: u64,
    cells: Vec<Cell>,
}

impl Map {
    /// Creates a map of `length` bytes with `count` cells, or with fewer if there are fewer bytes.
    /// All of it is unused.
    pub(super) fn new(length: u64, count: usize) -> Self {
        let count = usize::try_from(length).map_or(count, |length| count.min(length));
        let cell = Cell {
            part: Part::Unused,
            bytes: 0,
            files: 0,
            damaged: false,
        };
        Self {
            length,
            cells: vec![cell; count],
        }
    }

    /// Returns the number of bytes on the map.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Returns the cells in order.
    pub(super) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Returns the bytes that a cell stands for.
    pub(super) fn range(&self, cell: usize) -> Range<u64> {
        self.edge(cell)..self.edge(cell + 1)
    }

    fn edge(&self, cell: usize) -> u64 {
        let edge = u128::from(self.length) * cell as u128 / self.cells.len().max(1) as u128;
        edge as u64
    }

    /// Says what the bytes of `range` hold. What lies outside of the map is ignored.
    pub(super) fn add(&mut self, range: Range<u64>, part: Part) {
        for cell in self.hit(&range) {
            let whole = self.range(cell);
            let bytes = range.end.min(whole.end) - range.start.max(whole.start);
            let cell = &mut self.cells[cell];
            cell.files += u64::from(matches!(part, Part::File(_)));
            if bytes > cell.bytes {
                (cell.part, cell.bytes) = (part, bytes);
            }
        }
    }

    /// Marks the bytes of `range` as damaged.
    pub(super) fn damage(&mut self, range: &Range<u64>) {
        for cell in self.hit(range) {
            self.cells[cell].damaged = true;
        }
    }

    /// Returns the cells that `range` touches.
    fn hit(&self, range: &Range<u64>) -> Range<usize> {
        let end = range.end.min(self.length);
        if range.start >= end {
            return 0..0;
        }
        self.cell_of(range.start)..self.cell_of(end - 1) + 1
    }

    /// Returns the cell that holds the byte at `offset`, which is on the map.
    fn cell_of(&self, offset: u64) -> usize {
        // The last cell whose first byte is not behind it.
        let count = self.cells.len() as u128;
        let cell = (u128::from(offset) * count / u128::from(self.length)) as usize;
        match self.edge(cell + 1) <= offset {
            true => cell + 1,
            false => cell,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_the_cell_whose_range_holds_it() {
        for (length, count) in [
            (1, 1),
            (7, 3),
            (100, 7),
            (10, 64),
            (1 << 40, 64),
            (u64::MAX, 9),
        ] {
            let map = Map::new(length, count);
            let mut at = 0;
            for cell in 0..map.cells().len() {
                let range = map.range(cell);
                assert_eq!(range.start, at);
                assert_eq!(map.cell_of(range.start), cell, "{length} in {count}");
                assert_eq!(map.cell_of(range.end - 1), cell, "{length} in {count}");
                at = range.end;
            }
            assert_eq!(at, length);
        }
    }

    #[test]
    fn a_cell_shows_what_most_of_it_holds() {
        let mut map = Map::new(100, 10);
        map.add(0..4, Part::Headers);
        map.add(4..25, Part::File(0));
        map.add(25..28, Part::File(1));
        map.add(90..200, Part::Trailer);
        let parts: Vec<Part> = map.cells().iter().map(|cell| cell.part).collect();
        assert_eq!(
            parts[..4],
            [Part::File(0), Part::File(0), Part::File(0), Part::Unused]
        );
        assert_eq!(parts[8..], [Part::Unused, Part::Trailer]);
        assert_eq!(map.cells()[2].files, 2);
    }

    #[test]
    fn one_damaged_byte_marks_its_cell_only() {
        let mut map = Map::new(1 << 40, 64);
        map.damage(&(5..6));
        map.damage(&(0..0));
        map.damage(&((1 << 40) - 1..u64::MAX));
        map.damage(&(u64::MAX - 1..u64::MAX));
        let damaged: Vec<usize> = (0..64).filter(|i| map.cells()[*i].damaged).collect();
        assert_eq!(damaged, [0, 63]);
    }

    #[test]
    fn an_empty_map_has_no_cells() {
        let mut map = Map::new(0, 10);
        map.add(0..5, Part::Headers);
        map.damage(&(0..5));
        assert!(map.cells().is_empty());
    }
}
