// SPDX-License-Identifier: LGPL-2.1-or-later
//! Definitions without what libvirt changes in them by itself.

/// Without what it adds and forgets: an empty element where metadata were, an alias when it is restarted.
pub fn plain(xml: &str) -> String {
    let alias = "<controller type='usb' index='0' model='none'>\n      <alias name='usb'/>\n    </controller>";
    xml.replace("  <metadata/>\n", "")
        .replace(alias, "<controller type='usb' index='0' model='none'/>")
}

/// And without what it numbers anew: images, and a domain that was started again.
pub fn unnumbered(xml: &str) -> String {
    let mut lines = Vec::new();
    for line in plain(xml).lines() {
        if let Some((start, _)) = line.split_once(" id='").filter(|_| line.starts_with("<domain ")) {
            lines.push(start.to_owned());
            continue;
        }
        // Its channels' sockets are named after it.
        if let Some((start, _)) = line.split_once("/channel/") {
            lines.push(start.to_owned());
            continue;
        }
        let is_image = line.contains("<source ") || line.contains("<backingStore ");
        let index = line.split_once(" index='").filter(|_| is_image);
        match index.and_then(|(start, rest)| Some((start, rest.split_once('\'')?.1))) {
            Some((start, rest)) => lines.push(format!("{start}{rest}")),
            None => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}
