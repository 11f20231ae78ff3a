// SPDX-License-Identifier: LGPL-2.1-or-later
//! An overlay of which libvirt and QEMU say different things, because libvirtd died after it had asked QEMU and before it recorded that.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::guest::Guest;
use super::monitor::uppermost;
use super::pivot::Nodes;
use crate::error::{Error, ErrorCode, Result};
use crate::image::Layer;

const INTERVAL: Duration = Duration::from_millis(20);
/// A guest that writes faster than its storage keeps a commit from catching up.
const PATIENCE: Duration = Duration::from_secs(600);

impl Guest {
    /// QEMU has this image open. Asked for a snapshot that libvirt does not show: no snapshot is being taken while QEMU
    /// answers (a job of libvirt's excludes the other).
    pub(crate) fn has_open(&self, path: &str) -> Result<bool> {
        Ok(!self.nodes_on(path)?.is_empty())
    }

    /// A device of the guest is on this image, with no overlay between.
    pub(crate) fn is_on(&self, image: &Layer) -> Result<bool> {
        let roots = self.roots()?;
        Ok(self.nodes_of(image)?.iter().any(|node| roots.contains(node)))
    }

    /// After a snapshot that libvirtd did not live to record: what the guest wrote to the overlay goes into `base`, right below
    /// it, and the guest goes on with that.
    pub(crate) fn merge_overlay(&self, path: &str, base: &Layer) -> Result<()> {
        let overlay = self.nodes_on(path)?;
        let Some(top) = uppermost(&overlay) else { return Ok(()) };
        // Its name in the job's distinguishes this commit from any other.
        let job = format!("livedisk-merge-{top}");
        if self.roots()?.contains(top) {
            let below = self.nodes_of(base)?;
            let Some(below) = uppermost(&below) else {
                return Err(self.not_merged(&format!("QEMU does not have '{}' open", base.path.escape_debug())));
            };
            self.commit_node(top, below, &job)?;
        }
        self.dismiss(&job)?;
        self.close(self.nodes_on(path)?)
    }

    fn commit_node(&self, top: &str, base: &str, job: &str) -> Result<()> {
        if self.job(job)?.is_none() {
            self.command(&json!({ "execute": "block-commit", "arguments": {
                "job-id": job,
                // Its end is to be seen.
                "auto-dismiss": false,
                "device": top,
                "top-node": top,
                // Without it everything would go into the deepest image.
                "base-node": base,
            }}))?;
        }
        let began = Instant::now();
        loop {
            let Some(seen) = self.job(job)? else { return Ok(()) };
            match seen["status"].as_str() {
                Some("ready") => self.command(&json!({ "execute": "job-complete", "arguments": { "id": job } }))?,
                Some("concluded") => {
                    let Some(reason) = seen["error"].as_str() else {
                        return Ok(());
                    };
                    self.dismiss(job)?;
                    return Err(self.not_merged(reason));
                }
                _ if began.elapsed() > PATIENCE => {
                    return Err(self.not_merged("the guest writes too much; recover again when it writes less"));
                }
                _ => {}
            }
            thread::sleep(INTERVAL);
        }
    }

    fn not_merged(&self, reason: &str) -> Error {
        let what = self.what("cannot commit an overlay that libvirt does not know of on");
        Error::new(ErrorCode::JobFailed, format!("{what}: {reason}"))
    }

    /// Of these images, closes what QEMU has open without a use: no device has it, and libvirt, which died as it was to close it,
    /// does not name it.
    pub(crate) fn close_unnamed(&self, paths: &[&str]) -> Result<()> {
        let config = self.get_config(false)?;
        let chains = config.disks.iter().flat_map(|disk| &disk.chain);
        let mirrors = config.disks.iter().filter_map(|disk| disk.mirror.as_ref());
        let mut named: Vec<u32> = chains.filter_map(|layer| layer.index).collect();
        named.extend(mirrors.flat_map(|mirror| &mirror.indices));
        let roots = self.roots()?;
        for path in paths {
            let mut nodes = self.nodes_on(path)?;
            nodes.retain(|node| {
                node.starts_with("libvirt-")
                    && !roots.contains(node)
                    && !named.iter().any(|&index| Nodes::is_of(node, index))
            });
            if !nodes.is_empty() {
                log::info!(
                    "closing '{}', which QEMU of domain '{}' has open and does not use",
                    path.escape_debug(),
                    self.name()
                );
            }
            self.close(nodes)?;
        }
        Ok(())
    }

    /// The nodes of a file, without those that QEMU puts on top of it for a job.
    fn nodes_on(&self, path: &str) -> Result<Vec<String>> {
        self.nodes_where(|file| file == path)
    }

    /// The nodes of an image. One that is a slice of its file has no plain name.
    fn nodes_of(&self, image: &Layer) -> Result<Vec<String>> {
        match &image.slice {
            None => self.nodes_on(&image.path),
            Some(slice) => self.nodes_where(|file| is_of_slice(file, &image.path, slice)),
        }
    }

    fn nodes_where(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let nodes = self.ask("query-named-block-nodes")?;
        let on = nodes
            .iter()
            .filter(|node| node["file"].as_str().is_some_and(&is_wanted));
        let names = on.filter_map(|node| node["node-name"].as_str());
        let named = names.filter(|name| !name.starts_with('#'));
        Ok(named.map(str::to_owned).collect())
    }
}

/// Whether a node with this name is of the slice of the file, or lies on that.
fn is_of_slice(file: &str, path: &str, slice: &Range<u64>) -> bool {
    let Some(text) = file.strip_prefix("json:") else {
        return false;
    };
    let Ok(mut node) = serde_json::from_str::<Value>(text) else {
        return false;
    };
    // As it was given.
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let mut is_slice = false;
    loop {
        let (offset, size) = (number(&node["offset"]), number(&node["size"]));
        is_slice |= offset == Some(slice.start) && size == Some(slice.end - slice.start);
        if node["filename"] == path {
            return is_slice;
        }
        match node["file"].take() {
            Value::Null => return false,
            below => node = below,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_a_slice_are_those_with_its_place() {
        let slice = |offset| json!({ "driver": "raw", "offset": offset, "size": 512, "file": { "driver": "file", "filename": "/a" } });
        let on = |node: Value| format!("json:{node}");
        for (file, wanted) in [
            (on(slice(1024)), true),
            (on(json!({ "driver": "qcow2", "file": slice(1024) })), true),
            (on(slice(2048)), false),
            ("/a".to_owned(), false),
            (
                on(json!({ "driver": "qcow2", "file": { "driver": "file", "filename": "/a" } })),
                false,
            ),
            ("json:{".to_owned(), false),
        ] {
            assert_eq!(is_of_slice(&file, "/a", &(1024..1536)), wanted, "{file}");
        }
        assert!(!is_of_slice(&on(slice(1024)), "/b", &(1024..1536)));
    }
}
