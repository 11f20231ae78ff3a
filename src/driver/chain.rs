// SPDX-License-Identifier: LGPL-2.1-or-later
//! Is a disk's chain one that livedisk can name itself, image by image, and is it what QEMU has? One function a question. Where
//! libvirt alone names the chain (a flat mirror, a backup) only QEMU's node matters.

use serde_json::Value;

use super::guest::Guest;
use super::open_files::{Found, OpenFiles};
use super::pivot::Nodes;
use crate::error::{Error, ErrorCode, Result};
use crate::image;
use crate::libvirt::xml::{Disk, Filter, Layer};

/// Why something cannot be done with a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hindrance {
    pub(crate) code: ErrorCode,
    /// Said of the disk: `its <source> has <slices>, ...`.
    pub(crate) why: String,
}

/// Which node libvirt starts a job at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// At its filter, where there is one.
    Mirror,
    /// At the active layer.
    Backup,
}

impl Hindrance {
    pub(crate) fn unsupported(why: impl Into<String>) -> Self {
        Self {
            code: ErrorCode::Unsupported,
            why: why.into(),
        }
    }

    /// `what` (a disk) cannot be treated so, and what helps.
    pub(crate) fn refuse(self, what: &str, cannot: &str, advice: &str) -> Error {
        Error::new(self.code, format!("{what} {cannot}: {}; {advice}", self.why))
    }
}

impl Guest {
    /// Why the images of the disk's chain from `first` on (0: the active layer) cannot be opened, copied or written down by
    /// their names, if so.
    pub(crate) fn why_not_named(&self, disk: &Disk, first: usize) -> Result<Option<Hindrance>> {
        let layers = disk.chain.get(first..).unwrap_or_default();
        let hindrance = self.why_not_written_down(disk, first)?;
        Ok(hindrance
            .or_else(|| self.why_not_found(paths(layers)))
            .or_else(|| self.why_not_read(layers)))
    }

    /// The same where the daemon alone opens them, whose files may be none that are seen from here.
    pub(crate) fn why_not_written_down(&self, disk: &Disk, first: usize) -> Result<Option<Hindrance>> {
        if let Some(hindrance) = why_not_understood(disk) {
            return Ok(Some(hindrance));
        }
        let layers = disk.chain.get(first..).unwrap_or_default();
        let data = data_file(&self.ask("query-named-block-nodes")?, layers);
        Ok(data.map(|data| {
            let why = format!("its content is in the external data file '{}'", data.escape_debug());
            Hindrance::unsupported(why)
        }))
    }

    /// Why a copy cannot be compared with the images of the chain by their names, if so.
    pub(crate) fn why_not_compared(&self, disk: &Disk) -> Option<Hindrance> {
        why_not_understood(disk)
            .or_else(|| self.why_not_found(paths(&disk.chain)))
            .or_else(|| self.why_not_read(&disk.chain))
    }

    /// Why we may not read the images, if so: QEMU's user, who has them, may be another than ours.
    fn why_not_read(&self, layers: &[Layer]) -> Option<Hindrance> {
        if !self.host().is_local() {
            return None;
        }
        let closed = paths(layers).find(|path| !image::is_readable(path))?;
        Some(Hindrance {
            code: ErrorCode::Permission,
            why: format!("the user who runs livedisk may not read '{}'", closed.escape_debug()),
        })
    }

    /// Why the names lead to other files than QEMU has open, if so. A remote host's names are not looked at.
    fn why_not_found<'a>(&self, mut paths: impl Iterator<Item = &'a str>) -> Option<Hindrance> {
        if !self.host().is_local() {
            return None;
        }
        let open = OpenFiles::of_qemu(self.uuid());
        paths.find_map(|path| {
            let shown = path.escape_debug();
            match open.find(path) {
                Found::Same | Found::Unknown => None,
                Found::Other => Some(Hindrance::unsupported(format!(
                    "'{shown}' is another file than the one that QEMU has open under that name"
                ))),
                Found::Failed(error) => Some(Hindrance {
                    code: ErrorCode::of_io(error.kind()),
                    why: format!("'{shown}' can no longer be opened by its name ({error})"),
                }),
            }
        })
    }

    /// Whether it cannot be found out of one of these images, by its name, that it is what QEMU has open.
    pub(crate) fn has_unidentified(&self, layers: &[Layer]) -> bool {
        // To look for QEMU's open files takes all of /proc.
        if layers.is_empty() || !self.host().is_local() {
            return false;
        }
        let open = OpenFiles::of_qemu(self.uuid());
        let unknown: Vec<_> = paths(layers)
            .filter(|path| matches!(open.find(path), Found::Unknown))
            .collect();
        for path in &unknown {
            log::warn!(
                "domain '{}': neither QEMU's open files nor its locks show whether QEMU has '{}' open",
                self.name(),
                path.escape_debug()
            );
        }
        !unknown.is_empty()
    }

    /// Before these images are read by their names: they are what QEMU has open still.
    pub(crate) fn must_have<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Result<()> {
        match self.why_not_found(paths) {
            None => Ok(()),
            Some(Hindrance { code, why }) => Err(Error::new(
                code,
                format!("{why}; give the image its name back, and try again"),
            )),
        }
    }

    /// Why no mirror may run on the disk, if so: with its end QEMU opens a raw image anew, by its name, and the guest would go
    /// on with whatever has that name now.
    pub(crate) fn why_not_mirrored(&self, disk: &Disk) -> Option<Hindrance> {
        let active = &disk.chain[..1];
        if active[0].format.as_deref() != Some("raw") {
            return None;
        }
        self.why_not_found(paths(active))
            .filter(|hindrance| hindrance.code == ErrorCode::Unsupported)
    }

    /// No job on the disk may end in a pivot where libvirt has a filter above the image: it goes on with the filter's old node.
    pub(crate) fn must_be_pivotable(&self, disk: &Disk, what: &str) -> Result<()> {
        match why_not_pivoted(disk) {
            None => Ok(()),
            Some(hindrance) => Err(hindrance.refuse(
                what,
                "cannot be moved while the guest runs",
                "remove that from the definition and restart the domain, or move the image while the domain is off",
            )),
        }
    }

    /// The job starts at what the guest's device is attached to, whichever program pivoted it before.
    pub(crate) fn must_start_at_device(&self, disk: &Disk, job: Job, what: &str) -> Result<()> {
        let roots = self.roots()?;
        if starts_at_device(disk, job, &roots) {
            return Ok(());
        }
        let (why, advice) = match disk.filter {
            Some(filter) => (
                format!(
                    "it has {}, and the device no longer uses libvirt's filter",
                    filter.shown()
                ),
                "use BACKUP, or shut the domain off and start it again",
            ),
            None => (
                "the device does not use the image that libvirt names".to_owned(),
                "compare 'virsh dumpxml' with QEMU's query-block, and recover (livedisk recover) where livedisk moved it",
            ),
        };
        Err(Hindrance::unsupported(why).refuse(
            what,
            "was pivoted without libvirt's knowledge, so a copy would be of old content",
            advice,
        ))
    }
}

/// The image as it is opened by its name, where it has one and a stated format.
pub(crate) fn by_name(layer: &Layer) -> Option<image::Layer> {
    Some(image::Layer {
        path: layer.source.path()?.to_owned(),
        format: layer.format.clone()?,
        slice: layer.slice.clone(),
    })
}

/// Why what takes an image for all of its file cannot be done with one of these, if so.
pub(crate) fn why_not_whole(layers: &[Layer]) -> Option<Hindrance> {
    let sliced = layers.iter().find(|layer| layer.slice.is_some())?;
    let path = sliced.source.path().unwrap_or_default().escape_debug();
    Some(Hindrance::unsupported(format!(
        "it uses a part of '{path}' only (<slices>), which may hold other things too"
    )))
}

fn paths(layers: &[Layer]) -> impl Iterator<Item = &str> {
    layers.iter().filter_map(|layer| layer.source.path())
}

fn why_not_understood(disk: &Disk) -> Option<Hindrance> {
    let Some(what) = &disk.not_understood else {
        return why_not_opened(disk);
    };
    let why = format!("{what}, which would be lost when livedisk names the image itself");
    Some(Hindrance::unsupported(why))
}

/// QEMU's programs take no other file for a backing layer than the header's where the file that is stated is below two drivers
/// (bdrv_open_backing_file looks for file.filename), as that of a slice is in any format but raw.
fn why_not_opened(disk: &Disk) -> Option<Hindrance> {
    let is_nested = |layer: &&Layer| layer.slice.is_some() && layer.format.as_deref() != Some("raw");
    let layer = disk.chain[1..].iter().find(is_nested)?;
    let path = layer.source.path().unwrap_or_default().escape_debug();
    Some(Hindrance::unsupported(format!(
        "its backing layer '{path}' is a slice (<slices>) in a format other than raw, which qemu-img cannot open below an image"
    )))
}

/// Why no job on the disk may end in a pivot, if so.
pub(crate) fn why_not_pivoted(disk: &Disk) -> Option<Hindrance> {
    let filter = disk.filter?;
    Some(Hindrance::unsupported(format!(
        "it has {}, and libvirt would keep using the filter's old node after the pivot",
        filter.shown()
    )))
}

fn starts_at_device(disk: &Disk, job: Job, roots: &[String]) -> bool {
    // A libvirt that does not number its nodes has no other to start at.
    let Some(index) = disk.active().index else { return true };
    let on_image = roots.iter().any(|root| Nodes::is_of(root, index));
    let copies_on_read = format!("libvirt-CoR-{}", disk.target);
    let on_filter = roots.contains(&copies_on_read);
    match (disk.filter, job) {
        (None, _) => on_image,
        (Some(Filter::CopyOnRead), Job::Mirror) => on_filter,
        (Some(Filter::CopyOnRead), Job::Backup) => on_filter || on_image,
        // Their nodes are numbered as the images are.
        (Some(Filter::Throttle), Job::Mirror) => !on_image,
        (Some(Filter::Throttle), Job::Backup) => true,
    }
}

/// The external data file of one of these images, as QEMU has them open: of qcow2, or an extent of vmdk.
fn data_file(nodes: &[Value], layers: &[Layer]) -> Option<String> {
    nodes.iter().find_map(|node| {
        let name = node["node-name"].as_str().unwrap_or_default();
        let is_of = |layer: &&Layer| layer.index.is_some_and(|index| Nodes::is_of(name, index));
        let layer = layers.iter().find(is_of)?;
        let data = &node["image"]["format-specific"]["data"];
        let extents = data["extents"].as_array().into_iter().flatten();
        // The only extent of most is in the image itself.
        let image = [node["file"].as_str(), layer.source.path()];
        let mut others = extents
            .filter_map(|extent| extent["filename"].as_str())
            .filter(|extent| !image.contains(&Some(extent)));
        data["data-file"].as_str().or_else(|| others.next()).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::libvirt::xml::DomainXml;

    fn disk(driver: &str, beside: &str) -> Disk {
        let text = format!(
            "<domain><devices><disk type='file'><driver type='qcow2' {driver}/><source file='/a' index='5'/>
             <backingStore type='file' index='2'><format type='qcow2'/><source file='/b'/></backingStore>{beside}
             <target dev='vda'/></disk></devices></domain>"
        );
        DomainXml::parse(&text).unwrap().disk("vda").unwrap().clone()
    }

    #[test]
    fn a_job_starts_where_the_device_is() {
        let plain = disk("", "");
        let copies = disk("copy_on_read='on'", "");
        let throttled = disk("", "<throttlefilters/>");
        for (disk, root, mirror, backup) in [
            (&plain, "libvirt-5-format", true, true),
            (&plain, "libvirt-5-slice-sto", true, true),
            (&plain, "libvirt-50-format", false, false),
            (&copies, "libvirt-CoR-vda", true, true),
            (&copies, "libvirt-5-format", false, true),
            (&copies, "libvirt-4-format", false, false),
            (&throttled, "libvirt-6-filter", true, true),
            (&throttled, "libvirt-5-format", false, true),
        ] {
            let roots = ["libvirt-1-format".to_owned(), root.to_owned()];
            assert_eq!(starts_at_device(disk, Job::Mirror, &roots), mirror, "{root}");
            assert_eq!(starts_at_device(disk, Job::Backup, &roots), backup, "{root}");
        }
    }

    #[test]
    fn a_slice_below_is_opened_in_raw_alone() {
        let mut disk = disk("", "");
        assert_eq!(why_not_understood(&disk), None);
        disk.chain[1].slice = Some(512..1024);
        let why = why_not_understood(&disk).unwrap().why;
        assert!(why.contains("'/b'") && why.contains("<slices>"), "{why}");
        disk.chain[1].format = Some("raw".into());
        disk.chain[0].slice = Some(512..1024);
        assert_eq!(why_not_understood(&disk), None);
    }

    #[test]
    fn no_pivot_under_a_filter() {
        assert_eq!(why_not_pivoted(&disk("copy_on_read='off'", "")), None);
        for (disk, part) in [
            (disk("copy_on_read='on'", ""), "copy_on_read"),
            (disk("", "<throttlefilters/>"), "throttlefilters"),
        ] {
            let error = why_not_pivoted(&disk).unwrap().refuse("disk 'vda'", "stays", "x");
            assert_eq!(error.code(), ErrorCode::Unsupported);
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn a_data_file_is_seen_in_any_layer_of_the_disk_and_in_no_other() {
        let node = |name: &str, data: Value| json!({ "node-name": name, "image": { "format-specific": { "type": "qcow2", "data": data } } });
        let disk = disk("", "");
        let nodes = |first: &str, second: &str| [node(first, json!({})), node(second, json!({ "data-file": "/d" }))];
        let found = |nodes: &[Value]| data_file(nodes, &disk.chain);
        assert_eq!(
            found(&nodes("libvirt-5-format", "libvirt-2-format")).as_deref(),
            Some("/d")
        );
        assert_eq!(
            found(&nodes("libvirt-2-format", "libvirt-5-format")).as_deref(),
            Some("/d")
        );
        assert_eq!(found(&nodes("libvirt-5-format", "libvirt-21-format")), None);
    }

    #[test]
    fn an_extent_in_another_file_is_a_data_file() {
        let found = |file: &str, extents: &[&str]| {
            let extents: Vec<_> = extents.iter().map(|name| json!({ "filename": name })).collect();
            let image = json!({ "format-specific": { "type": "vmdk", "data": { "extents": extents } } });
            let node = json!({ "node-name": "libvirt-5-format", "file": file, "image": image });
            data_file(&[node], &disk("", "").chain)
        };
        assert_eq!(found("/a", &["/a"]), None);
        assert_eq!(found("json:{}", &["/a"]), None);
        assert_eq!(found("/a", &["/a-flat"]).as_deref(), Some("/a-flat"));
        assert_eq!(found("/a", &["/a", "/a-2"]).as_deref(), Some("/a-2"));
    }
}
