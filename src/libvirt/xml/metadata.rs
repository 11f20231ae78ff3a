// SPDX-License-Identifier: LGPL-2.1-or-later
//! A definition without the `<metadata/>` that libvirt would leave.

use super::{parse, to_text};

/// `None` where there is nothing to leave out: no `<metadata>`, or one that holds more than elements of this namespace.
pub(crate) fn without_metadata(definition: &str, uri: &str) -> Result<Option<String>, String> {
    let mut root = parse(definition).map_err(|error| error.to_string())?;
    let is_ours = root.get_child("metadata").is_some_and(|metadata| {
        let mut elements = metadata.children.iter().filter_map(|node| node.as_element());
        elements.all(|element| element.namespace.as_deref() == Some(uri))
    });
    if !is_ours {
        return Ok(None);
    }
    root.take_child("metadata");
    to_text(&root).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ours_goes() {
        let full = "<domain><metadata><a xmlns='urn:a'/><b xmlns='urn:b'/></metadata></domain>";
        assert_eq!(without_metadata(full, "urn:a").unwrap(), None);
        assert_eq!(
            without_metadata("<domain><name>x</name></domain>", "urn:a").unwrap(),
            None
        );
        for ours in ["", "<o:a xmlns:o='urn:a'>{}</o:a>"] {
            let text = format!(
                "<domain xmlns:qemu='urn:q'><name>x &lt;</name><metadata>{ours}</metadata><qemu:arg value='a&#10;b'/></domain>"
            );
            let tidy = without_metadata(&text, "urn:a").unwrap().unwrap();
            let tidy = parse(&tidy).unwrap();
            assert!(tidy.get_child("metadata").is_none());
            assert_eq!(tidy.get_child("name").unwrap().get_text().unwrap(), "x <");
            let argument = tidy.get_child("arg").unwrap();
            assert_eq!(argument.namespace.as_deref(), Some("urn:q"));
            assert_eq!(argument.attributes["value"], "a\nb");
        }
    }
}
