//! Deviations of the workspace's files from their schemas. Engineers and agents write these files
//! by hand, so what promote does not need may deviate. Each kind of deviation is one warning.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result, printable};
use crate::promote::inputs::yaml::Scalar;

/// A deviation from a schema that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deviation {
    /// The file.
    pub path: PathBuf,
    /// The field, such as `artifacts[].kind`.
    pub field: String,
    /// What is wrong with the field where it occurs first, as the end of a sentence that begins
    /// with its name.
    pub message: String,
    /// How often it occurs.
    pub count: u64,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = printable(&self.path.to_string_lossy());
        write!(f, "`{path}`: `{}` {}", self.field, self.message)?;
        match self.count {
            1 => Ok(()),
            count => write!(f, " (and {} more of this kind)", count - 1),
        }
    }
}

/// The deviations of one file.
#[derive(Debug)]
pub(crate) struct Deviations<'a> {
    path: &'a Path,
    strict: bool,
    found: BTreeMap<(String, &'static str), Deviation>,
}

impl<'a> Deviations<'a> {
    /// Collects the deviations of the file at `path`. If `strict`, the first one is an error.
    pub(crate) fn of(path: &'a Path, strict: bool) -> Self {
        Self {
            path,
            strict,
            found: BTreeMap::new(),
        }
    }

    /// Adds a deviation. Those of the same `field` and `kind` are one.
    pub(crate) fn add(
        &mut self,
        field: &str,
        kind: &'static str,
        message: impl FnOnce() -> String,
    ) -> Result<()> {
        if let Some(known) = self.found.get_mut(&(field.to_owned(), kind)) {
            known.count += 1;
            return Ok(());
        }
        let deviation = Deviation {
            path: self.path.to_path_buf(),
            field: printable(field),
            message: message(),
            count: 1,
        };
        if self.strict {
            let message = format!("`{}` {}", deviation.field, deviation.message);
            return Err(Error::new(Kind::Syntax, message)
                .doing("read")
                .with_path(self.path)
                .with_code("deviation")
                .advice("correct the file"));
        }
        self.found.insert((field.to_owned(), kind), deviation);
        Ok(())
    }

    /// Adds the fields that the schema does not have, and the byte order mark.
    pub(crate) fn add_unknown(&mut self, unknown: BTreeMap<String, u64>, mark: bool) -> Result<()> {
        if mark {
            self.add("(start)", "mark", || "is a byte order mark".into())?;
        }
        for (field, count) in unknown {
            self.add(&field, "unknown", || "is unknown and ignored".into())?;
            if let Some(known) = self.found.get_mut(&(field, "unknown")) {
                known.count = count;
            }
        }
        Ok(())
    }

    /// Returns the text of a field that promote can do without. `words` are those that the schema
    /// knows, if it has only some.
    pub(crate) fn text(&mut self, field: &str, value: Scalar, words: &[&str]) -> Result<String> {
        match value {
            Scalar::Missing => self.add(field, "missing", || "is missing".into())?,
            Scalar::Null => self.add(field, "missing", || "has no value".into())?,
            Scalar::Text(text) => {
                if !words.is_empty() && !words.contains(&text.as_str()) {
                    self.add(field, "word", || {
                        let text = printable(&text);
                        format!("is \"{text}\", expected one of {}", words.join(", "))
                    })?;
                }
                return Ok(text);
            }
            Scalar::Other(text) => {
                self.add(field, "type", || {
                    format!("is {text}, expected a text in quotes")
                })?;
                return Ok(text);
            }
        }
        Ok(String::new())
    }

    /// Logs a warning for each deviation and returns them.
    pub(crate) fn finish(self) -> Vec<Deviation> {
        const SHOWN: usize = 20;
        let all: Vec<Deviation> = self.found.into_values().collect();
        for deviation in all.iter().take(SHOWN) {
            log::warn!("{deviation}");
        }
        if all.len() > SHOWN {
            let path = printable(&self.path.to_string_lossy());
            log::warn!("`{path}`: {} more deviations", all.len() - SHOWN);
        }
        all
    }
}
