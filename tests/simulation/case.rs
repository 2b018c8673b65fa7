//! What one run does: everything follows from these few numbers.

use std::fmt;
use std::str::FromStr;

/// The code that a run drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Import,
    Verify,
    Pack,
    Protect,
    Repair,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Import,
        Self::Verify,
        Self::Pack,
        Self::Protect,
        Self::Repair,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Verify => "verify",
            Self::Pack => "pack",
            Self::Protect => "protect",
            Self::Repair => "repair",
        }
    }

    /// Returns the kind that a seed has. A trailer costs more time than the rest.
    pub fn of(seed: u64) -> Self {
        match seed % 32 {
            0..20 => Self::Import,
            20..26 => Self::Verify,
            26..30 => Self::Pack,
            30 => Self::Protect,
            _ => Self::Repair,
        }
    }
}

/// What can go wrong in a run. Each is one bit of [`Case::without`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Fault {
    /// Sectors that can never be read.
    BadSectors,
    /// Reads that fail once.
    ReadErrors,
    /// Bytes that changed on the disk.
    Flips,
    /// Reads and writes that do less than they were asked to.
    Short,
    /// Calls that are interrupted.
    Interrupted,
    /// Copies that end early.
    CutOff,
    /// Copies that disappear.
    Gone,
    /// Writes, and other calls of the destination, that fail.
    WriteErrors,
    /// Flushes that fail.
    FlushErrors,
    /// The power is cut.
    PowerCut,
    /// The program is killed.
    Killed,
    /// The drive does not flush what it says that it flushed.
    Lies,
    /// The user interrupts the run.
    Cancelled,
    /// Files that exist already.
    Existing,
    /// More than one copy.
    Copies,
    /// Sectors that return other bytes at each read.
    Erratic,
}

impl Fault {
    pub const COUNT: u32 = 16;
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub kind: Kind,
    pub seed: u64,
    /// The number of files at most.
    pub files: usize,
    /// The size of a file at most, in bytes.
    pub size: usize,
    /// The faults that do not happen, as bits.
    pub without: u32,
}

impl Case {
    pub fn new(seed: u64) -> Self {
        Self {
            kind: Kind::of(seed),
            seed,
            files: 12,
            size: 40_000,
            without: 0,
        }
    }

    /// Numbers for one purpose. They do not depend on what other purposes took.
    pub fn random(&self, purpose: &str) -> Random {
        let mut state = self.seed ^ 0x517c_c1b7_2722_0a95;
        for byte in purpose.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Random::new(state)
    }

    /// Whether the fault may happen: one run in `one_in` has it.
    pub fn has(&self, fault: Fault, one_in: usize) -> bool {
        self.without & (1 << fault as u32) == 0
            && self.random(&format!("has {fault:?}")).below(one_in) == 0
    }

    /// Returns cases that are a little simpler.
    pub fn simpler(&self) -> Vec<Self> {
        let mut cases = Vec::new();
        for bit in 0..Fault::COUNT {
            if self.without & (1 << bit) == 0 {
                let without = self.without | 1 << bit;
                cases.push(Self { without, ..*self });
            }
        }
        for files in [self.files / 2, self.files.saturating_sub(1)] {
            if files > 0 && files < self.files {
                cases.push(Self { files, ..*self });
            }
        }
        for size in [self.size / 4, self.size / 2] {
            if size > 0 && size < self.size {
                cases.push(Self { size, ..*self });
            }
        }
        cases
    }
}

/// `import/123/12/40000/0`, which `scripts/simulate --case` accepts.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            seed,
            files,
            size,
            without,
        } = self;
        write!(f, "{}/{seed}/{files}/{size}/{without:x}", kind.name())
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("not a case: {text}");
        let parts: Vec<&str> = text.split('/').collect();
        let [kind, seed, files, size, without] = parts[..] else {
            return Err(wrong());
        };
        let kind = Kind::ALL.into_iter().find(|k| k.name() == kind);
        Ok(Self {
            kind: kind.ok_or_else(wrong)?,
            seed: seed.parse().map_err(|_| wrong())?,
            files: files.parse().map_err(|_| wrong())?,
            size: size.parse().map_err(|_| wrong())?,
            without: u32::from_str_radix(without, 16).map_err(|_| wrong())?,
        })
    }
}

/// Numbers that a seed determines (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which may be 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A size up to `most`, small ones more often.
    pub fn size(&mut self, most: usize) -> usize {
        let most = [0, 1, 600, 5000, most, most][self.below(6)].min(most);
        self.below(most + 1)
    }
}

#[test]
fn a_case_is_read_as_it_is_written() {
    for seed in 0..100 {
        for case in Case::new(seed).simpler() {
            assert_eq!(case.to_string().parse::<Case>().unwrap(), case);
        }
    }
    for wrong in ["", "import/1/2/3", "mount/1/2/3/0", "import/1/2/3/x"] {
        wrong.parse::<Case>().unwrap_err();
    }
}
