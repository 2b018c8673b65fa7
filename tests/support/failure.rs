//! The JSON error of a failing command with `--json`.

use serde_json::Value;

use super::Ran;

impl Ran {
    /// The error from the only JSON document on standard output.
    #[track_caller]
    pub fn json_error(&self) -> Value {
        let document: Value = serde_json::from_str(&self.stdout).expect(&self.stdout);
        let object = document.as_object().expect("an object");
        assert_eq!(object.len(), 1, "{document}");
        object["error"].clone()
    }

    /// Asserts that the error has this code.
    #[track_caller]
    pub fn with_code(self, code: &str) -> Self {
        let error = self.json_error();
        assert_eq!(error["code"], code, "{error}");
        self
    }
}
