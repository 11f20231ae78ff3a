// SPDX-License-Identifier: LGPL-2.1-or-later
//! The XML that is read from libvirt and written for it.

mod chain;
mod checkpoint;
mod definition;
mod disk;
mod label;
mod slice;
mod understood;
mod volume;
mod write;

pub(crate) use chain::{disk_on, on_destination, without_overlay};
pub(crate) use checkpoint::{CheckpointXml, checkpoint, checkpoint_without};
pub(crate) use definition::{has_fleeting_tpm, host_uuid, is_same_definition};
pub(crate) use disk::{
    Device, Disk, DomainXml, Encryption, Filter, Layer, Machine, Mirror, NbdServer, RunningBackup, Source, backup_disks,
};
pub(crate) use label::qemu_user;
pub(crate) use volume::{NewVolume, Permissions, volume, volume_format, volume_permissions};
pub(crate) use write::{BackupDisk, Below, Target, backup, copy_destination, external_snapshot, overlay_destination};

use xmltree::{Element, ParseError};

/// Every element called `name` directly under `parent`.
pub(crate) fn children<'a>(parent: &'a Element, name: &'a str) -> impl Iterator<Item = &'a Element> {
    parent
        .children
        .iter()
        .filter_map(|node| node.as_element())
        .filter(move |element| element.name == name)
}

pub(crate) fn attribute<'a>(element: &'a Element, name: &str) -> Option<&'a str> {
    element.attributes.get(name).map(String::as_str)
}

pub(crate) fn parse(text: &str) -> Result<Element, ParseError> {
    Element::parse(exact(text).as_bytes())
}

/// libvirt writes a newline or tab in an attribute as it is, and a parser takes it for a space there: a file of another name.
fn exact(text: &str) -> String {
    let mut exact = String::with_capacity(text.len());
    let (mut in_tag, mut quote) = (false, None);
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let verbatim = [("<!--", "-->"), ("<![CDATA[", "]]>")];
        let found = verbatim.iter().find(|(start, _)| !in_tag && rest.starts_with(start));
        if let Some((_, end)) = found {
            let length = rest.find(end).map_or(rest.len(), |at| at + end.len());
            exact.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        match (letter, quote) {
            ('\n' | '\t' | '\r', Some(_)) => exact.push_str(&format!("&#{};", letter as u32)),
            _ => exact.push(letter),
        }
        match (letter, quote) {
            ('\'' | '"', None) if in_tag => quote = Some(letter),
            (_, Some(open)) if letter == open => quote = None,
            ('<', None) => in_tag = true,
            ('>', None) => in_tag = false,
            _ => {}
        }
        rest = &rest[letter.len_utf8()..];
    }
    exact
}

/// Whether domain capabilities say `<NAME supported='yes'/>` among their features.
pub(crate) fn supports(capabilities: &str, feature: &str) -> Result<bool, ParseError> {
    let root = parse(capabilities)?;
    Ok(root
        .get_child("features")
        .and_then(|features| features.get_child(feature))
        .is_some_and(|feature| attribute(feature, "supported") == Some("yes")))
}

/// Without an XML declaration; newlines in attributes become character references.
pub(crate) fn to_text(element: &Element) -> Result<String, String> {
    let mut bytes = Vec::new();
    let config = xmltree::EmitterConfig::new().write_document_declaration(false);
    element
        .write_with_config(&mut bytes, config)
        .map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_read_as_it_is_and_the_rest_too() {
        let text = "<a>\n<!-- don't -->it's\n<b\n c='/x\ny\t' d=\"'\r>\"/><![CDATA[<e f='\n']]></a>";
        let root = parse(text).unwrap();
        let child = root.get_child("b").unwrap();
        assert_eq!(attribute(child, "c"), Some("/x\ny\t"));
        assert_eq!(attribute(child, "d"), Some("'\r>"));
        let known = "<a>\n<!-- don't -->it's\n<b\n c='/x&#10;y&#9;' d=\"'&#13;>\"/><![CDATA[<e f='\n']]></a>";
        assert_eq!(exact(text), known);
        assert_eq!(exact(known), known);
    }
}
