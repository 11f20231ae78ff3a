// SPDX-License-Identifier: LGPL-2.1-or-later
//! A whole definition: whether it is still the same one, and what its domain would lose without it.

use xmltree::{Element, ParseError, XMLNode};

use super::{attribute, children, parse};

/// Every metadata namespace of livedisk's begins so.
const OURS: &str = "urn:livedisk:";

/// Whether two definitions, both as libvirt writes them, differ in no more than livedisk's own metadata.
pub(crate) fn is_same_definition(one: &str, other: &str) -> Result<bool, ParseError> {
    Ok(without_ours(one)? == without_ours(other)?)
}

fn without_ours(definition: &str) -> Result<Element, ParseError> {
    let mut root = parse(definition)?;
    if let Some(metadata) = root.get_mut_child("metadata") {
        let is_ours = |node: &XMLNode| {
            let namespace = node.as_element().and_then(|element| element.namespace.as_deref());
            namespace.is_some_and(|namespace| namespace.starts_with(OURS))
        };
        metadata.children.retain(|node| !is_ours(node));
        if metadata.children.is_empty() {
            root.take_child("metadata");
        }
    }
    Ok(root)
}

/// Its emulated TPM has a state that libvirt removes with a transient domain.
pub(crate) fn has_fleeting_tpm(definition: &str) -> Result<bool, ParseError> {
    let root = parse(definition)?;
    let tpms = root.get_child("devices").into_iter();
    let mut backends = tpms
        .flat_map(|devices| children(devices, "tpm"))
        .flat_map(|tpm| children(tpm, "backend"));
    Ok(backends.any(|backend| {
        attribute(backend, "type") == Some("emulator") && attribute(backend, "persistent_state") != Some("yes")
    }))
}

/// The UUID of the host, from its capabilities.
pub(crate) fn host_uuid(capabilities: &str) -> Result<Option<String>, ParseError> {
    let root = parse(capabilities)?;
    let host = root.get_child("host").and_then(|host| host.get_child("uuid"));
    Ok(host.and_then(|uuid| uuid.get_text()).map(|uuid| uuid.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_metadata_do_not_count() {
        let with = |metadata: &str| format!("<domain><name>a</name>{metadata}<devices/></domain>");
        let ours = "<l:operation xmlns:l='urn:livedisk:operation:1'>{}</l:operation>";
        let theirs = "<q:q xmlns:q='urn:q'/>";
        for same in [
            String::new(),
            "<metadata/>".into(),
            format!("<metadata>\n  {ours}\n</metadata>"),
        ] {
            assert!(is_same_definition(&with(""), &with(&same)).unwrap(), "{same}");
        }
        let both = with(&format!("<metadata>{theirs}{ours}</metadata>"));
        assert!(!is_same_definition(&with(""), &both).unwrap());
        assert!(is_same_definition(&with(&format!("<metadata>{theirs}</metadata>")), &both).unwrap());
    }

    #[test]
    fn an_emulated_tpm_is_kept_only_where_its_state_is_persistent() {
        let with = |backend: &str| format!("<domain><devices><tpm model='tpm-crb'>{backend}</tpm></devices></domain>");
        for (backend, is_fleeting) in [
            ("<backend type='emulator' version='2.0'/>", true),
            ("<backend type='emulator' version='2.0' persistent_state='yes'/>", false),
            (
                "<backend type='passthrough'><device path='/dev/tpm0'/></backend>",
                false,
            ),
        ] {
            assert_eq!(has_fleeting_tpm(&with(backend)).unwrap(), is_fleeting, "{backend}");
        }
    }
}
