// SPDX-License-Identifier: LGPL-2.1-or-later
//! A definition without the `<metadata/>` that libvirt leaves behind.

use super::{parse, to_text};

/// `None` where there is nothing to leave out: no `<metadata>`, or one that holds something.
pub(crate) fn without_empty_metadata(definition: &str) -> Result<Option<String>, String> {
    let mut root = parse(definition).map_err(|error| error.to_string())?;
    let empty = root
        .get_child("metadata")
        .is_some_and(|metadata| metadata.children.iter().all(|node| node.as_element().is_none()));
    if !empty {
        return Ok(None);
    }
    root.take_child("metadata");
    to_text(&root).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_one_goes() {
        let full = "<domain><metadata><a/></metadata></domain>";
        assert_eq!(without_empty_metadata(full).unwrap(), None);
        assert_eq!(without_empty_metadata("<domain><name>x</name></domain>").unwrap(), None);
        let empty = "<domain xmlns:qemu='urn:q'><name>x &lt;</name><metadata/><qemu:arg value='a&#10;b'/></domain>";
        let tidy = without_empty_metadata(empty).unwrap().unwrap();
        let tidy = parse(&tidy).unwrap();
        assert!(tidy.get_child("metadata").is_none());
        assert_eq!(tidy.get_child("name").unwrap().get_text().unwrap(), "x <");
        let argument = tidy.get_child("arg").unwrap();
        assert_eq!(argument.namespace.as_deref(), Some("urn:q"));
        assert_eq!(argument.attributes["value"], "a\nb");
    }
}
