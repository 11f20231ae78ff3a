// SPDX-License-Identifier: LGPL-2.1-or-later
//! A migration is an overlay, a clone, a copy with a pivot, and another overlay; or a copy with a pivot alone. This connects
//! the parts. What comes when is `next`'s.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clone::Clone as BaseClone;
use super::plan::Plan;
use super::seen::{Chain, Observed};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Destination, Identity, Layer};
use crate::libvirt::IoTune;
use crate::libvirt::xml::{self, Below, Disk, Target, copy_destination, overlay_destination};
use crate::operation::course::procedure::{Model, Ties};
use crate::operation::parts::image::DestinationImage;
use crate::operation::parts::mirror::{Mirror, To};
use crate::operation::parts::overlay::{Overlay, must_be_in_place, snapshot_xml};
use crate::operation::parts::pivot::{self, Images, Pivot};
use crate::operation::parts::site::Site;
use crate::operation::parts::throttle::{Brake, Braked, Throttles};
use crate::operation::plan::preflight::{is_at, libvirt_target, staging};
use crate::operation::state::Mark;
use crate::operation::types::Method;

const RETURN_INTERVAL: Duration = Duration::from_millis(20);

pub(in crate::operation) struct Engine {
    pub(super) plan: Arc<Plan>,
    pub(super) ties: Arc<Ties>,
    pub(super) site: Site,
    /// A'.
    pub(super) overlay: Overlay,
    /// B, where it is cloned.
    pub(super) clone: BaseClone,
    /// B, where it is made for a full copy.
    pub(super) destination: DestinationImage,
    /// B'.
    pub(super) destination_overlay: Overlay,
    pub(super) copy: Mirror,
    pub(super) pivot: Pivot,
    pub(super) brake: Brake,
    pub(super) source_deleted: bool,
    /// It was to be deleted, and was not what it was to be.
    pub(super) source_kept: bool,
}

/// What the record keeps for the process that resumes the operation.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::operation) struct Note {
    /// Copied and to be copied, by the clone and by the copy.
    pub(super) cloned: (u64, u64),
    pub(super) copied: (u64, u64),
    /// The disk is throttled, and these limits are its own.
    pub(super) throttled: Option<IoTune>,
    #[serde(flatten)]
    pub(super) pivot: pivot::Note,
}

impl Engine {
    /// Our jobs are those that go where only we would let them go.
    pub(super) fn find_jobs(&mut self, copied: (u64, u64)) -> Result<Chain> {
        let config = self.plan.guest.get_config(false)?;
        let disk = config.disk(&self.plan.target);
        let chain = self.classify(disk);
        let mirror = disk.and_then(|disk| disk.mirror.as_ref());
        let is_ours = |mirror: &xml::Mirror| match self.plan.method {
            Method::Clone => mirror.source.path() == Some(self.destination_overlay.path()),
            _ => is_at(&self.plan.destination, &mirror.source),
        };
        let copies = mirror.is_some_and(|mirror| mirror.job == "copy" && is_ours(mirror));
        self.copy.find(copies, copied);
        match chain {
            Chain::Overlay => self.overlay.find_commit(mirror),
            Chain::Moved => self.destination_overlay.find_commit(mirror),
            _ => {}
        }
        if chain == Chain::Source {
            self.overlay.is_unused();
        }
        if matches!(chain, Chain::Source | Chain::Overlay) && !copies {
            self.destination_overlay.is_unused();
        }
        Ok(chain)
    }

    pub(super) fn classify(&self, disk: Option<&Disk>) -> Chain {
        let Some(disk) = disk else { return Chain::Foreign };
        let or_foreign = |is_ours, chain| if is_ours { chain } else { Chain::Foreign };
        if let Some(is_ours) = self.overlay.is_active(disk) {
            return or_foreign(is_ours, Chain::Overlay);
        }
        if let Some(is_ours) = self.destination_overlay.is_active(disk) {
            return or_foreign(is_ours, Chain::Moved);
        }
        let (source, destination) = (self.plan.source.path.as_str(), self.plan.destination_path());
        match disk.chain.first().and_then(|layer| layer.source.path()) {
            Some(active) if active == source => Chain::Source,
            Some(active) if active == destination => Chain::Destination,
            None if destination.is_empty() => Chain::Destination,
            None if source.is_empty() => Chain::Source,
            _ => Chain::Foreign,
        }
    }

    pub(super) fn staging(&self) -> String {
        staging(&self.plan.destination, &self.ties.journal.read().id, &self.plan.target)
    }

    // Stepping.

    /// The overlay that the guest is on.
    pub(super) fn active_overlay(&mut self, seen: &Observed) -> &mut Overlay {
        if seen.passed_no_return() {
            &mut self.destination_overlay
        } else {
            &mut self.overlay
        }
    }

    pub(super) fn write_record(&mut self, mark: Mark) -> Result<()> {
        if mark == Mark::Fixing && self.ties.journal.mark() < mark && !self.plan.volumes {
            let mut destination = self.plan.destination_path().to_owned();
            if self.plan.place.is_device() {
                // libvirt hands over the device, and not a link to it.
                destination = image::without_links(&destination);
            }
            let images = [destination, self.destination_overlay.path().to_owned()];
            self.pivot.look_at_owners(&images);
        }
        let made = self.clone.made().or_else(|| self.destination.made());
        let note = Note {
            cloned: self.clone.progress,
            copied: (self.copy.job.done, self.copy.job.total),
            throttled: self.brake.before().cloned(),
            pivot: self.pivot.note(mark),
        };
        self.ties.note(mark, [made], &self.plan.request, note)
    }

    pub(super) fn remove_record(&self) -> Result<()> {
        let overlays = [self.overlay.path(), self.destination_overlay.path()];
        let images = [self.plan.source.path.as_str(), self.plan.destination_path()];
        self.ties.journal.remove(&[overlays, images].concat())
    }

    pub(super) fn take_snapshot(&mut self) -> Result<()> {
        let xml = snapshot_xml([&self.overlay].into_iter(), &self.plan.other_disks)?;
        let taken = self.plan.guest.snapshot(&xml);
        self.overlay.snapshot_was_seen(taken.is_ok());
        taken
    }

    pub(super) fn clone_base(&mut self) -> Result<()> {
        self.clone_quiet_base().map_err(|error| self.site.explain(&error))
    }

    fn clone_quiet_base(&mut self) -> Result<()> {
        self.clone.remove(&self.plan)?;
        if self.plan.volumes {
            return self.clone.clone_volume(&self.plan);
        }
        let staging = self.staging();
        let file = self.clone.fill(&self.plan, &self.site, &staging)?;
        self.write_record(Mark::Begun)?;
        self.clone.publish(&file)
    }

    pub(super) fn verify(&mut self) -> Result<()> {
        self.clone.verify(&self.plan).map_err(|error| self.site.explain(&error))
    }

    pub(super) fn make_destination(&mut self) -> Result<()> {
        self.destination.prepare()?;
        self.write_record(Mark::Begun)?;
        self.destination.publish()
    }

    pub(super) fn make_destination_overlay(&mut self) -> Result<()> {
        if self.plan.volumes {
            self.destination_overlay.make()
        } else {
            self.destination_overlay.make_blank(&self.plan.source.path)
        }
    }

    pub(super) fn start_copy(&mut self) -> Result<()> {
        let plan = &self.plan;
        let is_shallow = plan.method == Method::Clone;
        if let (Some(_), Some(output)) = (&plan.encryption, &self.destination.output) {
            // libvirt formats an empty file only, and a copy that is made again had begun to fill it.
            output.empty()?;
        }
        self.copy.start(&To {
            xml: &self.destination_xml()?,
            shown: &plan.destination.shown(),
            shallow: is_shallow,
            reuse: plan.volumes || !is_shallow && plan.encryption.is_none(),
        })
    }

    /// The last moment at which a file that was removed or replaced can be noticed without harm.
    pub(super) fn pivot_copy(&mut self) -> Result<()> {
        if let Some(made) = self.clone.made() {
            must_be_in_place(&self.site, made, self.plan.volumes)?;
        }
        self.destination_overlay.must_be_in_place()?;
        if let Some(output) = &self.destination.output {
            output.must_be_in_place()?;
        }
        self.pivot.is_about_to_be();
        self.copy.pivot()
    }

    pub(super) fn start_return(&mut self) -> Result<()> {
        self.pivot.hand_over_again();
        let job = &mut self.copy.job;
        job.fail("libvirtd died in its pivot, and the guest was brought back");
        if self.pivot.find_home()? {
            self.write_record(self.ties.journal.mark())?;
        }
        let xml = self.destination_xml()?;
        self.pivot.start_return(&xml, self.plan.method == Method::Clone)
    }

    /// libvirt has no event for a job that it does not know.
    pub(super) fn await_return(&self) -> Result<()> {
        let news = self.ties.shared.news();
        self.ties.shared.await_news(news, RETURN_INTERVAL);
        Ok(())
    }

    pub(super) fn settle_pivot(&mut self) -> Result<()> {
        let plan = &self.plan;
        let images = match (plan.method, &plan.destination) {
            (Method::Clone, _) if !plan.volumes => Some(Images {
                before: Layer::whole(self.overlay.path(), "qcow2"),
                after: (self.destination_overlay.path(), "qcow2"),
            }),
            (Method::Mirror, Destination::Path(path)) if plan.encryption.is_none() => Some(Images {
                before: plan.source.clone(),
                after: (path, &plan.format),
            }),
            _ => None,
        };
        let xml = self.destination_xml()?;
        self.pivot.settle(images, &xml)
    }

    /// As virDomainBlockCopy takes it.
    fn destination_xml(&self) -> Result<String> {
        let plan = &self.plan;
        let cache = plan.metadata_cache.as_deref();
        let xml = if plan.method == Method::Clone {
            let destination = Below {
                target: Target::File(plan.destination_path().to_owned()),
                format: &plan.format,
                slice: None,
            };
            let chain: Vec<_> = std::iter::once(destination)
                .chain(plan.below.iter().map(below))
                .collect();
            overlay_destination(self.destination_overlay.path(), &chain, cache)
        } else {
            copy_destination(&target_of(plan), &plan.format, plan.encryption.as_ref(), cache)
        };
        xml.map_err(|reason| Error::new(ErrorCode::Internal, reason))
    }

    pub(super) fn commit_offline(&mut self, seen: &Observed) -> Result<()> {
        let recorded = self.site.recorded()?;
        let home = recorded.home.as_deref().filter(|_| seen.chain == Chain::Overlay);
        self.active_overlay(seen).commit_offline(home)
    }

    pub(super) fn remove_overlay(&mut self, seen: &Observed) -> Result<()> {
        if seen.chain == Chain::Destination {
            let (guest, target) = (&self.plan.guest, &self.plan.target);
            let old = guest.get_disk_definition(target, Some(self.overlay.path()))?;
            self.pivot
                .define_on_destination(old.as_deref(), &self.destination_xml()?)?;
        }
        self.name_what_is_below(&self.overlay, seen)?;
        self.overlay.remove_file()
    }

    pub(super) fn remove_destination_overlay(&mut self, seen: &Observed) -> Result<()> {
        self.name_what_is_below(&self.destination_overlay, seen)?;
        self.destination_overlay.remove_file()
    }

    /// No definition names an overlay that is removed.
    fn name_what_is_below(&self, overlay: &Overlay, seen: &Observed) -> Result<()> {
        let plan = &self.plan;
        if seen.chain == Chain::Destination {
            return self.destination_overlay.name_instead(&plan.destination_layer(), None);
        }
        let recorded = self.site.recorded()?;
        overlay.name_instead(&plan.source, recorded.home.as_deref())
    }

    pub(super) fn remove_destination(&mut self) -> Result<()> {
        self.destination.remove()?;
        self.clone.remove(&self.plan)
    }

    pub(super) fn delete_source(&mut self) -> Result<()> {
        let path = &self.plan.source.path;
        let identity = self.plan.source_identity;
        if self.plan.volumes {
            self.plan.guest.host().remove_volume(path)?;
        } else if matches!(identity, Some(Identity::File { .. })) && Identity::of_path(path) == identity {
            image::remove_source(path)?;
        } else {
            self.source_kept = true;
            log::warn!(
                "disk '{}' was not on a file, or '{}' is no longer that file; the source is kept",
                self.plan.target,
                path.escape_debug()
            );
        }
        self.source_deleted = true;
        Ok(())
    }
}

impl Throttles for Engine {
    fn braked(&mut self) -> Vec<Braked<'_>> {
        let commits = [&mut self.overlay.commit, &mut self.destination_overlay.commit];
        vec![Braked {
            brake: &mut self.brake,
            jobs: [&mut self.copy.job].into_iter().chain(commits).collect(),
        }]
    }

    fn record_throttle(&mut self) -> Result<()> {
        self.write_record(self.ties.journal.mark())
    }
}

/// An image below the destination, as libvirt is to name it.
fn below(layer: &Layer) -> Below<'_> {
    let path = layer.path.clone();
    Below {
        target: match Identity::of_path(&path) {
            Some(Identity::Device { .. }) => Target::Block(path),
            _ => Target::File(path),
        },
        format: &layer.format,
        slice: layer.slice.as_ref(),
    }
}

fn target_of(plan: &Plan) -> Target {
    libvirt_target(&plan.destination, plan.place.is_device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::course::procedure::Details;
    use crate::operation::migrate::plan::Request;
    use crate::operation::ownership::record::must_be_read;

    #[test]
    fn records_of_release_0_2_are_read() {
        must_be_read::<Details<Request, Note>>(include_str!("../ownership/records/migrate-clone.json"));
        must_be_read::<Details<Request, Note>>(include_str!("../ownership/records/migrate-mirror.json"));
    }
}
