// SPDX-License-Identifier: LGPL-2.1-or-later
//! Who QEMU runs as.

use super::{attribute, children, parse};

/// User and group, by number or name, of a running domain's DAC label; `None` where libvirt gives it none.
pub(crate) fn qemu_user(definition: &str) -> Result<Option<(String, String)>, String> {
    let root = parse(definition).map_err(|error| error.to_string())?;
    let label = children(&root, "seclabel")
        .filter(|label| attribute(label, "model") == Some("dac"))
        .find_map(|label| label.get_child("label")?.get_text());
    // A plus says that it is a number.
    let part = |part: &str| part.trim_start_matches('+').to_owned();
    Ok(label.and_then(|label| {
        let (user, group) = label.split_once(':')?;
        Some((part(user), part(group)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_names_user_and_group() {
        let domain = |labels: &str| format!("<domain>{labels}<devices/></domain>");
        let selinux = "<seclabel type='dynamic' model='selinux'><label>system_u:system_r:svirt_t:s0</label></seclabel>";
        for (label, user) in [("+107:+108", ("107", "108")), ("qemu:kvm", ("qemu", "kvm"))] {
            let dac = format!("<seclabel type='dynamic' model='dac' relabel='yes'><label>{label}</label></seclabel>");
            let found = qemu_user(&domain(&format!("{selinux}{dac}"))).unwrap();
            assert_eq!(found, Some((user.0.to_owned(), user.1.to_owned())));
        }
        let none = "<seclabel type='none' model='dac'/>";
        for labels in ["", selinux, none] {
            assert_eq!(qemu_user(&domain(labels)).unwrap(), None, "{labels}");
        }
    }
}
