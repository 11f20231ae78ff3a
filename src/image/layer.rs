// SPDX-License-Identifier: LGPL-2.1-or-later
//! One image of a backing chain, as it is opened by its name.

use std::fs::metadata;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

const BLOCK: u64 = 512;

/// In a record a list, which of a whole file has path and format alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Layer {
    pub(crate) path: String,
    pub(crate) format: String,
    /// The bytes of its file that it is, where it is not the whole file (libvirt's `<slices>`).
    #[serde(default)]
    pub(crate) slice: Option<Range<u64>>,
}

impl Serialize for Layer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.slice {
            None => (&self.path, &self.format).serialize(serializer),
            Some(slice) => (&self.path, &self.format, slice).serialize(serializer),
        }
    }
}

/// The image that another rests on, as the header of that one names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backing {
    pub(crate) path: String,
    pub(crate) format: String,
}

/// The room that a file takes; 0 of one that there is not.
pub(crate) fn allocated(path: &str) -> u64 {
    metadata(path).map_or(0, |file| file.blocks() * BLOCK)
}

impl Layer {
    pub(crate) fn whole(path: impl Into<String>, format: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            format: format.into(),
            slice: None,
        }
    }

    /// As QEMU opens it, without a word about what is below it.
    pub(super) fn node(&self) -> Value {
        let is_device = metadata(&self.path).is_ok_and(|metadata| metadata.file_type().is_block_device());
        let driver = if is_device { "host_device" } else { "file" };
        let file = json!({ "driver": driver, "filename": self.path });
        let Some(slice) = &self.slice else {
            return json!({ "driver": self.format, "file": file });
        };
        let size = slice.end - slice.start;
        let slice = json!({ "driver": "raw", "offset": slice.start, "size": size, "file": file });
        match self.format.as_str() {
            "raw" => slice,
            format => json!({ "driver": format, "file": slice }),
        }
    }

    /// As the header of an image that rests on it names it, and as QEMU's programs do.
    pub(crate) fn name(&self) -> String {
        match self.slice {
            None => self.path.clone(),
            Some(_) => format!("json:{}", self.node()),
        }
    }

    pub(super) fn as_backing(&self) -> Backing {
        Backing {
            path: self.name(),
            format: self.format.clone(),
        }
    }

    /// The room that it takes, at most.
    pub(crate) fn allocated(&self) -> u64 {
        let file = allocated(&self.path);
        self.slice
            .as_ref()
            .map_or(file, |slice| file.min(slice.end - slice.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_named_with_its_place() {
        let raw = Layer {
            slice: Some(1024..5120),
            ..Layer::whole("/a\",b", "raw")
        };
        let node = json!({ "driver": "raw", "offset": 1024, "size": 4096, "file": { "driver": "file", "filename": "/a\",b" } });
        assert_eq!(raw.name(), format!("json:{node}"));
        let qcow2 = Layer {
            format: "qcow2".into(),
            ..raw
        };
        assert_eq!(qcow2.node(), json!({ "driver": "qcow2", "file": node }));
        assert_eq!(Layer::whole("/a", "qcow2").name(), "/a");
    }

    #[test]
    fn a_record_of_release_0_2_names_whole_files() {
        let layer: Layer = serde_json::from_value(json!(["/a", "raw"])).unwrap();
        assert_eq!(layer, Layer::whole("/a", "raw"));
        assert_eq!(serde_json::to_value(&layer).unwrap(), json!(["/a", "raw"]));
        let sliced = Layer {
            slice: Some(1..2),
            ..layer
        };
        let text = serde_json::to_string(&sliced).unwrap();
        assert_eq!(serde_json::from_str::<Layer>(&text).unwrap(), sliced);
    }
}
