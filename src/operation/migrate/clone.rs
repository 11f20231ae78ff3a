// SPDX-License-Identifier: LGPL-2.1-or-later
//! B as a clone of A, which is quiet below its overlay: a file, or a storage volume that the daemon clones.

use super::plan::Plan;
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Made};
use crate::operation::ownership::record::RecordedDisk;
use crate::operation::parts::clone;
use crate::operation::parts::site::Site;
use crate::operation::state::{Image, Mark};
use crate::operation::types::{CloneMethod, Method};

#[derive(Default)]
pub(super) struct Clone {
    made: Option<Made>,
    /// It holds all of A, and is on disk.
    is_whole: bool,
    is_verified: bool,
    /// Copied and to be copied.
    pub(super) progress: (u64, u64),
}

impl Clone {
    /// Another process made it, or began to. The mark is written after the clone and the comparison.
    pub(super) fn find(
        &mut self,
        plan: &Plan,
        recorded: Option<&RecordedDisk>,
        staging: &str,
        mark: Mark,
    ) -> Result<()> {
        self.is_whole = mark >= Mark::Copying;
        self.is_verified = self.is_whole;
        let recorded = recorded.and_then(|disk| disk.made.as_ref());
        self.made = match recorded {
            _ if plan.method != Method::Clone => None,
            Some(made) if plan.volumes => {
                let volume = plan.guest.host().find_volume(&made.path)?;
                volume.map(|_| Made::volume(&made.path))
            }
            None if plan.volumes => None,
            recorded => Made::find_staged(recorded, plan.destination_path(), staging),
        };
        Ok(())
    }

    pub(super) fn image(&self) -> Image {
        self.made.as_ref().map_or(Image::Missing, Image::of_made)
    }

    pub(super) fn made(&self) -> Option<&Made> {
        self.made.as_ref()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub(super) fn is_verified(&self) -> bool {
        self.is_verified
    }

    /// The file with all of A in it. It is written to the record, which then knows it by its inode, before it is published.
    pub(super) fn fill(&mut self, plan: &Plan, site: &Site, staging: &str) -> Result<std::fs::File> {
        must_read_what_qemu_has(plan)?;
        let (how, source, path) = (plan.clone, &plan.source, plan.destination_path());
        let file = if how == CloneMethod::Callback {
            clone::call_back(plan.clone_callback.as_ref(), &source.path, path, &mut self.made)?
        } else {
            let (made, file) = Made::stage(path, staging)?;
            self.made = Some(made);
            image::succeed(&source.path, &file);
            let mut watch = clone::watch(&site.shared, (0, 0), &mut self.progress);
            let shown = plan.destination.shown();
            clone::clone_into(how, source, &file, &shown, plan.bandwidth, &mut watch)?;
            file
        };
        if plan.format == "qcow2" {
            image::name_backing(&file, plan.below.first(), path)?;
            image::must_have_bitmaps_of(source, &file, &plan.destination.shown())?;
        }
        Ok(file)
    }

    /// Under its own name, and on disk.
    pub(super) fn publish(&mut self, file: &std::fs::File) -> Result<()> {
        if let Some(made) = &mut self.made {
            made.publish()?;
            made.sync(file)?;
        }
        self.is_whole = true;
        Ok(())
    }

    pub(super) fn clone_volume(&mut self, plan: &Plan) -> Result<()> {
        let (source, path) = (plan.source.path.as_str(), plan.destination_path());
        let host = plan.guest.host();
        host.clone_volume((source, &plan.format), plan.size, path, backing(plan))?;
        self.made = Some(Made::volume(path));
        // A pool guesses formats, and a guest may have written another one's header into its raw disk since the last look.
        plan.must_be_volume(source)?;
        plan.must_be_volume(path)?;
        self.is_whole = true;
        Ok(())
    }

    pub(super) fn verify(&mut self, plan: &Plan) -> Result<()> {
        must_read_what_qemu_has(plan)?;
        let shown = plan.destination.shown();
        let (_, file) = Made::adopt(plan.destination_path())?;
        let format = plan.format.as_str();
        let layers: Vec<_> = std::iter::once(&plan.source).chain(&plan.below).cloned().collect();
        if !image::compare_with_live(&layers, &file, format, &shown)? {
            return Err(Error::new(
                ErrorCode::Verify,
                format!(
                    "the clone '{shown}' differs from '{}'; see the storage, or the function that made it",
                    plan.source.path.escape_debug()
                ),
            ));
        }
        self.is_verified = true;
        Ok(())
    }

    pub(super) fn remove(&mut self, plan: &Plan) -> Result<()> {
        match &self.made {
            Some(volume) if plan.volumes => plan.guest.host().remove_volume(&volume.path)?,
            Some(file) => file.remove()?,
            None => {}
        }
        self.made = None;
        self.is_whole = false;
        Ok(())
    }
}

/// The names may have been given to other files since the plan was made.
fn must_read_what_qemu_has(plan: &Plan) -> Result<()> {
    let layers = std::iter::once(&plan.source).chain(&plan.below);
    plan.guest.must_have(layers.map(|layer| layer.path.as_str()))
}

/// Path and format of what A rests on.
fn backing(plan: &Plan) -> Option<(&str, &str)> {
    let below = plan.below.first();
    below.map(|below| (below.path.as_str(), below.format.as_str()))
}
