//! Paths to fields as errors print them: `spec.containers[0].ports`, `metadata.labels[app]`.

use std::fmt;

/// A field path. Cheap enough to build on the error path and in validation loops; always in its printed form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    /// A path of one element.
    pub fn new(name: impl Into<String>) -> Self {
        Path(name.into())
    }

    /// The empty path, to whose children no dot is added.
    pub fn root() -> Self {
        Path(String::new())
    }

    /// The member `name`; the name is not quoted, dots in it stand as they are.
    pub fn child(&self, name: &str) -> Self {
        let mut out = String::with_capacity(self.0.len() + 1 + name.len());
        out.push_str(&self.0);
        if !out.is_empty() && !name.is_empty() {
            out.push('.');
        }
        out.push_str(name);
        Path(out)
    }

    /// The element at `index` of a list.
    pub fn index(&self, index: usize) -> Self {
        Path(format!("{}[{index}]", self.0))
    }

    /// The value under `key` of a map.
    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    /// The root prints as upstream's nil path does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

impl From<Path> for String {
    fn from(path: Path) -> String {
        path.to_string()
    }
}
