// SPDX-License-Identifier: LGPL-2.1-or-later
//! The hands of the migration. What comes when is `next`'s.

use std::ffi::CString;
use std::os::unix::fs::{MetadataExt, lchown};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::plan::{Plan, Request};
use super::{Chain, Failure, Observed, Step, describe, model, next, phase, turn};
use crate::driver::{Active, BlockDevice, Guest, Nodes, Return, code_of_reason};
use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Destination, Identity, Made, Output, Place};
use crate::libvirt::xml::{
    Disk, Mirror, Target, copy_destination, external_snapshot, on_destination, overlay_destination,
};
use crate::libvirt::{BlockCopy, BlockJobType, IoTune, State};
use crate::operation::course::procedure::{Procedure, Ties, Turn};
use crate::operation::course::shared::Shared;
use crate::operation::ownership::claim::Claim;
use crate::operation::ownership::journal::Journal;
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
use crate::operation::parts::cloning;
use crate::operation::parts::offline;
use crate::operation::parts::throttle::Brake;
use crate::operation::parts::tracked::{End, Tracked, does_not_catch_up, is_drained};
use crate::operation::parts::unnamed::Unnamed;
use crate::operation::plan::preflight::{beside, is_at, libvirt_target, staging};
use crate::operation::state::{Goal, Image, Job, Mark, Remedy};
use crate::operation::types::{CloneMethod, Consistency, Method, Phase, Report};

const RETURN_INTERVAL: Duration = Duration::from_millis(20);

pub(in crate::operation) struct Engine {
    plan: Plan,
    ties: Ties,
    overlay_path: String,
    destination_overlay_path: String,
    overlay: Option<Made>,
    destination_overlay: Option<Made>,
    /// What a process that died left of them, and nobody uses.
    stale: Stale,
    /// Nobody saw what became of the snapshot that was asked for.
    unseen_snapshot: bool,
    /// B, made by a clone.
    clone: Option<Made>,
    /// B, made for a full copy.
    output: Option<Output>,
    cloned: bool,
    clone_progress: (u64, u64),
    copy: Tracked,
    /// The copy's, as soon as libvirt shows them.
    nodes: Option<Nodes>,
    /// The disk's element of the definition, while that names the destination because libvirt knows nothing of the pivot.
    home: Option<String>,
    /// Whose the images are that libvirt handed over to QEMU for the copy: path, user, group.
    handed_over: Vec<(String, u32, u32)>,
    /// QEMU and libvirt were seen to agree behind the copy.
    agreed: bool,
    returning: bool,
    return_failure: Option<String>,
    /// Whether the copy pivoted is known, also where QEMU does not tell any more.
    settled: bool,
    commit: Tracked,
    limited: bool,
    brake: Brake,
    verified: bool,
    source_deleted: bool,
    moved_at: Option<SystemTime>,
}

#[derive(Debug, Default)]
struct Stale {
    overlay: bool,
    destination_overlay: bool,
}

/// What the record keeps for whoever takes the operation up.
#[derive(Serialize, Deserialize)]
struct Details {
    request: Request,
    moved_at: Option<SystemTime>,
    /// Copied and to be copied, by the clone and by the copy.
    cloned: (u64, u64),
    copied: (u64, u64),
    /// The disk is throttled, and these limits are its own.
    throttled: Option<IoTune>,
    nodes: Option<Nodes>,
    home: Option<String>,
    handed_over: Vec<(String, u32, u32)>,
}

fn internal(reason: String) -> Error {
    Error::new(ErrorCode::Internal, reason)
}

/// The state before the first step.
fn at_start(plan: &Plan) -> Observed {
    Observed {
        method: plan.method,
        alive: true,
        off: false,
        mark: Mark::Absent,
        chain: Chain::Source,
        overlay: Image::Missing,
        destination: Image::Missing,
        cloned: false,
        destination_overlay: Image::Missing,
        copy: Job::NotStarted,
        way_back: Job::NotStarted,
        settled: true,
        commit: Job::NotStarted,
        limited: plan.bandwidth > 0,
        throttled: false,
        finish: plan.auto_finish,
        verify: plan.verify,
        delete_source: plan.delete_source,
        source_deleted: false,
    }
}

impl Engine {
    fn at_rest(plan: Plan, ties: Ties) -> Self {
        let id = ties.journal.read().id;
        Self {
            overlay_path: beside(&plan.source.0, &id, "source"),
            destination_overlay_path: beside(plan.destination_path(), &id, "destination"),
            limited: plan.bandwidth > 0,
            brake: Brake::default(),
            overlay: None,
            destination_overlay: None,
            stale: Stale::default(),
            unseen_snapshot: false,
            clone: None,
            output: None,
            cloned: false,
            clone_progress: (0, 0),
            copy: Tracked::default(),
            nodes: None,
            home: None,
            handed_over: Vec::new(),
            agreed: false,
            returning: false,
            return_failure: None,
            settled: true,
            commit: Tracked::default(),
            verified: false,
            source_deleted: false,
            moved_at: None,
            plan,
            ties,
        }
    }

    fn staging(&self) -> String {
        staging(&self.plan.destination, &self.ties.journal.read().id, &self.plan.target)
    }

    /// What stands under a name of our own.
    fn find(&self, path: &str) -> Result<Option<Made>> {
        if !self.plan.volumes {
            return Ok(Made::find(path));
        }
        let found = self.plan.guest.host().find_volume(path)?;
        Ok(found.map(|_| Made::volume(path)))
    }

    fn find_destination(&mut self, recorded: Option<&Made>, mark: Mark) -> Result<()> {
        let plan = &self.plan;
        if plan.volumes {
            self.clone = match recorded {
                Some(made) => self.find(&made.path)?,
                None => None,
            };
            return Ok(());
        }
        let made = || Made::find_staged(recorded, plan.destination_path(), &self.staging());
        match (plan.method, &plan.place) {
            (Method::Clone, _) => self.clone = made(),
            (_, Place::Free) => {
                if let Some(made) = made() {
                    self.output = Output::reopen(&plan.destination, &plan.place, &plan.format, Some(made));
                }
            }
            // The caller's own is prepared again.
            _ if mark == Mark::Begun => {}
            _ => self.output = Output::reopen(&plan.destination, &plan.place, &plan.format, None),
        }
        Ok(())
    }

    /// Our jobs are those that go where only we would let them go.
    fn find_jobs(&mut self) -> Result<Chain> {
        let config = self.plan.guest.get_config(false)?;
        let disk = config.disk(&self.plan.target);
        let chain = self.classify(disk);
        let mirror = disk.and_then(|disk| disk.mirror.as_ref());
        let ours = |mirror: &Mirror| match self.plan.method {
            Method::Clone => mirror.source.path() == Some(&self.destination_overlay_path),
            _ => is_at(&self.plan.destination, &mirror.source),
        };
        self.copy = Tracked::found(mirror.is_some_and(|mirror| mirror.job == "copy" && ours(mirror)));
        let on_overlay = matches!(chain, Chain::Overlay | Chain::Moved);
        self.commit = Tracked::found(on_overlay && mirror.is_some_and(|mirror| mirror.job == "active-commit"));
        self.stale = Stale {
            overlay: chain == Chain::Source,
            destination_overlay: matches!(chain, Chain::Source | Chain::Overlay) && !self.copy.is_started(),
        };
        Ok(chain)
    }

    fn device(&self) -> BlockDevice<'_> {
        self.plan.guest.get_block_device(&self.plan.target)
    }

    // Observing.

    fn classify(&self, disk: Option<&Disk>) -> Chain {
        let Some(disk) = disk else { return Chain::Foreign };
        let path = |index: usize| disk.chain.get(index).and_then(|layer| layer.source.path());
        let (source, destination) = (self.plan.source.0.as_str(), self.plan.destination_path());
        match (path(0), path(1)) {
            // An inactive definition need not list the chain.
            (Some(active), below) if active == self.overlay_path => match below {
                Some(below) if below != source => Chain::Foreign,
                _ => Chain::Overlay,
            },
            (Some(active), below) if active == self.destination_overlay_path => match below {
                Some(below) if below != destination => Chain::Foreign,
                _ => Chain::Moved,
            },
            (Some(active), _) if active == source => Chain::Source,
            (Some(active), _) if active == destination => Chain::Destination,
            (None, _) if destination.is_empty() => Chain::Destination,
            (None, _) if source.is_empty() => Chain::Source,
            _ => Chain::Foreign,
        }
    }

    fn observe_disk(&mut self, finish: bool, last: Chain) -> Result<Chain> {
        let config = self.plan.guest.get_config(false)?;
        let disk = config.disk(&self.plan.target);
        let chain = self.classify(disk);
        if !self.copy.is_started() && !self.commit.is_started() {
            return Ok(chain);
        }
        let info = self.device().get_job_info()?;
        let mirror = disk.and_then(|disk| disk.mirror.clone());
        let job = mirror.as_ref().map(|mirror| mirror.job.as_str());
        let kind = match (info.map(|info| info.kind), job) {
            (None, None) => None,
            (Some(BlockJobType::ActiveCommit), _) | (_, Some("active-commit")) => Some(Which::Commit),
            // Behind the pivot libvirt says no longer what it was, and the chain not yet what it is.
            (_, Some("")) if self.commit.is_started() => Some(Which::Commit),
            _ => Some(Which::Copy),
        };
        if let (Some(Which::Copy), Some(disk), Some(mirror)) = (kind, disk, &mirror)
            && let Some(source) = disk.active().index
            && matches!(chain, Chain::Source | Chain::Overlay)
        {
            let destination = mirror.indices.clone();
            self.nodes = Some(Nodes { source, destination });
        }
        let at = self.ties.shared.began().elapsed();
        let target = self.plan.target.clone();
        let ends = self.ties.shared.facts(|facts| {
            (
                facts.qemu_end("copy", &target).cloned(),
                facts.qemu_end("commit", &target).cloned(),
            )
        });
        let died = self.ties.journal.libvirtd_may_have_died();
        for (which, tracked, end) in [
            (Which::Copy, &mut self.copy, ends.0),
            (Which::Commit, &mut self.commit, ends.1),
        ] {
            if !tracked.is_started() || tracked.is_over() {
                continue;
            }
            if tracked.is_dead(kind == Some(which) && info.is_none() && died) {
                return Err(self.plan.guest.get_block_device(&self.plan.target).dead_job());
            }
            if kind == Some(which) {
                let ready = mirror.as_ref().is_some_and(|mirror| mirror.ready);
                tracked.runs(info, ready, at, |sample| match which {
                    // Whoever waits at READY needs no more than that.
                    Which::Copy => !is_drained(sample.remainder()) && (finish || !ready),
                    Which::Commit => sample.remainder() > 0,
                });
            } else if chain == last {
                tracked.vanished(end.flatten());
            }
        }
        // Behind its pivot a commit on the other side of the point of no return may be started.
        if chain != last {
            if self.copy.is_pivoting() {
                self.copy.complete();
            }
            self.commit = Tracked::default();
        }
        Ok(chain)
    }

    /// Where nobody saw what became of the snapshot, the guest may be on the overlay.
    fn look_above(&mut self, chain: Chain, alive: bool, off: bool) -> Result<Chain> {
        self.unseen_snapshot &= chain != Chain::Overlay;
        // Volumes cannot be looked into from here.
        let is_out_of_sight = self.plan.volumes && !alive;
        if !self.unseen_snapshot || chain != Chain::Source || self.overlay.is_none() || is_out_of_sight {
            return Ok(chain);
        }
        if !self.unnamed().holds_last_writes(alive, off)? {
            return Ok(chain);
        }
        // What libvirt was just noting as QEMU was asked it has noted now.
        Ok(
            match self.classify(self.plan.guest.get_config(off)?.disk(&self.plan.target)) {
                Chain::Source => Chain::Unnamed,
                other => other,
            },
        )
    }

    fn unnamed(&self) -> Unnamed<'_> {
        Unnamed {
            guest: &self.plan.guest,
            target: &self.plan.target,
            overlay: &self.overlay_path,
            base: &self.plan.source.0,
        }
    }

    /// Where a pivot was about to be made and libvirt knows of no copy any more, QEMU has the last word: a libvirtd that died
    /// in the very pivot goes on with the chain from before, and whatever was done by its word would lose the guest's writes.
    fn look_behind_pivot(&mut self, chain: Chain, copy: Job) -> Result<(Chain, Job)> {
        let is_over = matches!(copy, Job::NotStarted | Job::Completed | Job::Failed);
        let copied = if self.plan.method == Method::Mirror {
            Chain::Source
        } else {
            Chain::Overlay
        };
        let is_before = chain == copied && self.ties.journal.mark() == Mark::Fixing;
        let Some(nodes) = self.nodes.as_ref().filter(|_| is_before && is_over && !self.agreed) else {
            return Ok((chain, Job::NotStarted));
        };
        Ok(match self.plan.guest.find_active(nodes)? {
            Active::Source { open: false } => {
                self.agreed = true;
                (chain, Job::NotStarted)
            }
            Active::Source { open: true } => (chain, Job::Completed),
            Active::Destination(None) => (Chain::Astray, Job::NotStarted),
            Active::Destination(Some(Return::Running)) => (Chain::Astray, Job::Running),
            Active::Destination(Some(Return::Ready)) => (Chain::Astray, Job::Ready),
            Active::Destination(Some(Return::Ending)) => (Chain::Astray, Job::Ending),
            Active::Destination(Some(Return::Failed(reason))) => {
                // What an earlier process failed with need not stay.
                let job = if self.returning { Job::Failed } else { Job::NotStarted };
                self.return_failure = Some(reason);
                (Chain::Astray, job)
            }
            Active::Other => (Chain::Foreign, Job::NotStarted),
        })
    }

    fn copy_job(&self, finish: bool) -> Job {
        let may_block = self.plan.write_blocking && !self.copy.write_blocking;
        let may_throttle = self.plan.method == Method::Clone && self.brake.can_be_tightened();
        let remedy = Remedy::choose(self.limited, may_block, may_throttle);
        self.copy.copy_job(remedy, finish)
    }

    // Stepping.

    fn throttle(&mut self) -> Result<()> {
        let rates = self.copy.rates().or(self.commit.rates()).unwrap_or_default();
        if self.brake.look(&self.plan.guest.get_block_device(&self.plan.target))? {
            self.write_record(self.ties.journal.mark())?;
        }
        let tightened = self.brake.tighten(&self.plan.guest, &self.plan.target, rates);
        self.tell_throttle();
        tightened?;
        self.copy.watch_anew();
        self.commit.watch_anew();
        Ok(())
    }

    fn unthrottle(&mut self) -> Result<()> {
        self.brake.release()?;
        self.tell_throttle();
        self.write_record(self.ties.journal.mark())
    }

    fn tell_throttle(&self) {
        let limit = self.brake.limit();
        self.ties.shared.publish(|progress| progress.guest_write_limit = limit);
    }

    fn write_record(&mut self, mark: Mark) -> Result<()> {
        if mark == Mark::Fixing && self.ties.journal.mark() < mark && !self.plan.volumes {
            self.handed_over = self.look_at_owners();
        }
        let made = self.clone.clone().or_else(|| self.output.as_ref()?.made().cloned());
        let details = Details {
            request: self.plan.request.clone(),
            // At the mark before the pivot it is nearly that moment.
            moved_at: self.moved_at.or((mark == Mark::Fixing).then(SystemTime::now)),
            cloned: self.clone_progress,
            copied: (self.copy.done, self.copy.total),
            throttled: self.brake.before().cloned(),
            nodes: self.nodes.clone(),
            home: self.home.clone(),
            handed_over: self.handed_over.clone(),
        };
        self.ties.journal.write(|record| {
            record.mark = mark;
            for disk in &mut record.disks {
                disk.made.clone_from(&made);
            }
            record.set_details(&details)
        })
    }

    fn remove_record(&mut self) -> Result<()> {
        let (overlay, destination_overlay) = (&self.overlay_path, &self.destination_overlay_path);
        let (source, destination) = (self.plan.source.0.as_str(), self.plan.destination_path());
        self.ties
            .journal
            .remove(&[overlay, destination_overlay, source, destination])
    }

    fn commit_offline(&mut self, chain: Chain) -> Result<()> {
        let plan = &self.plan;
        let what = format!("disk '{}' of domain '{}'", plan.target, plan.guest.name());
        if plan.volumes {
            return Err(Error::new(
                ErrorCode::Unsupported,
                format!("{what}: an overlay in a storage pool cannot be committed while the domain is off; start it"),
            ));
        }
        let (overlay, base, format) = match chain {
            Chain::Moved => (&self.destination_overlay_path, plan.destination_path(), &plan.format),
            _ => (&self.overlay_path, plan.source.0.as_str(), &plan.source.1),
        };
        let record = self.ties.journal.read();
        let recorded = record.disk(0)?;
        let home = recorded.home.as_deref().filter(|_| chain == Chain::Overlay);
        offline::commit(&plan.guest, recorded, overlay, (base, format), home)
    }

    fn merge_overlay(&mut self, alive: bool) -> Result<()> {
        self.unnamed().merge(alive)?;
        (self.unseen_snapshot, self.stale.overlay) = (false, true);
        Ok(())
    }

    fn settle_pivot(&mut self) -> Result<()> {
        let plan = &self.plan;
        let what = format!("disk '{}' of domain '{}'", plan.target, plan.guest.name());
        let (before, behind) = match (plan.method, &plan.destination) {
            (Method::Clone, _) if !plan.volumes => (
                (self.overlay_path.as_str(), "qcow2"),
                (self.destination_overlay_path.as_str(), "qcow2"),
            ),
            (Method::Mirror, Destination::Path(path)) if plan.encryption.is_none() => (
                (plan.source.0.as_str(), plan.source.1.as_str()),
                (path.as_str(), plan.format.as_str()),
            ),
            // Where the images cannot be looked at from here, the definition has the last word.
            _ => {
                self.settled = true;
                return Ok(());
            }
        };
        if offline::has_pivoted(before, behind, &what)? {
            let home = plan.guest.get_disk_definition(&plan.target, Some(before.0))?;
            self.define_on_destination(home.as_deref())?;
        }
        self.settled = true;
        Ok(())
    }

    fn take_snapshot(&mut self) -> Result<()> {
        let overlay = [(self.plan.target.as_str(), self.overlay_path.as_str())];
        let xml = external_snapshot(&overlay, &self.plan.other_disks).map_err(internal)?;
        let xml = CString::new(xml).map_err(|error| internal(error.to_string()))?;
        self.plan.guest.snapshot(&xml)
    }

    fn clone_base(&mut self) -> Result<()> {
        remove(&self.plan, &mut self.clone)?;
        let path = self.plan.destination_path().to_owned();
        if self.plan.volumes {
            return self.clone_volume(&path);
        }
        self.must_read_what_qemu_has()?;
        let shown = self.plan.destination.shown();
        let (how, source) = (self.plan.clone, self.plan.source.0.as_str());
        let file = if how == CloneMethod::Callback {
            cloning::call_back(self.plan.clone_callback.as_ref(), source, &path, &mut self.clone)?
        } else {
            let (made, file) = Made::stage(&path, &self.staging())?;
            self.clone = Some(made);
            image::succeed(source, &file);
            let mut watch = cloning::watch(&self.ties.shared, (0, 0), &mut self.clone_progress);
            cloning::clone_into(how, source, &file, &shown, self.plan.bandwidth, &mut watch)?;
            file
        };
        if self.plan.format == "qcow2" {
            let backing = self.plan.below.first();
            let backing = backing.map(|(path, format)| (path.as_str(), format.as_str()));
            image::name_backing(&file, backing, &path)?;
        }
        // Known by its inode before it has its name.
        self.write_record(Mark::Begun)?;
        if let Some(made) = &mut self.clone {
            made.publish()?;
            made.sync(&file)?;
        }
        self.cloned = true;
        Ok(())
    }

    fn clone_volume(&mut self, path: &str) -> Result<()> {
        let plan = &self.plan;
        let (source, format) = (plan.source.0.as_str(), plan.format.as_str());
        let backing = plan
            .below
            .first()
            .map(|(path, format)| (path.as_str(), format.as_str()));
        let host = plan.guest.host();
        host.clone_volume((source, format), plan.size, path, backing)?;
        self.clone = Some(Made::volume(path));
        // A pool guesses formats, and a guest may have written another one's header into its raw disk since the last look.
        plan.must_be_volume(source)?;
        plan.must_be_volume(path)?;
        self.cloned = true;
        Ok(())
    }

    /// The names may have been given to other files since the plan was made.
    fn must_read_what_qemu_has(&self) -> Result<()> {
        let plan = &self.plan;
        let below = plan.below.iter().map(|(path, _)| path.as_str());
        let paths: Vec<_> = std::iter::once(plan.source.0.as_str()).chain(below).collect();
        let what = format!("disk '{}' of domain '{}'", plan.target, plan.guest.name());
        plan.guest.must_have(&paths, &what)
    }

    fn verify(&mut self) -> Result<()> {
        let shown = self.plan.destination.shown();
        self.must_read_what_qemu_has()?;
        let (_, file) = Made::adopt(self.plan.destination_path())?;
        let (source, format) = (&self.plan.source.0, self.plan.format.as_str());
        let mut layers = vec![(source.clone(), format.to_owned())];
        layers.extend(self.plan.below.iter().cloned());
        if !image::compare_with_live(&layers, &file, format, &shown)? {
            return Err(Error::new(
                ErrorCode::Verify,
                format!(
                    "the clone '{shown}' differs from '{}'; see the storage, or the function that made it",
                    source.escape_debug()
                ),
            ));
        }
        self.verified = true;
        Ok(())
    }

    fn make_destination(&mut self) -> Result<()> {
        self.remove_destination()?;
        let plan = &self.plan;
        let (destination, place, format, staging) = (&plan.destination, &plan.place, &plan.format, self.staging());
        let output = match plan.encryption {
            // libvirt formats it, which alone has the secret.
            Some(_) => Output::open(destination, place, format, &staging)?,
            None => Output::prepare(destination, place, format, plan.size, None, false, &staging)?,
        };
        output.succeed(&plan.source.0);
        self.output = Some(output);
        self.write_record(Mark::Begun)?;
        self.output.as_mut().map_or(Ok(()), Output::publish)
    }

    fn nodes(&self) -> Result<&Nodes> {
        self.nodes
            .as_ref()
            .ok_or_else(|| internal("the copy's nodes are not known".into()))
    }

    fn look_at_owners(&self) -> Vec<(String, u32, u32)> {
        let mut destination = self.plan.destination_path().to_owned();
        if self.plan.place.is_device() {
            // libvirt hands over the device, and not a link to it.
            destination = image::without_links(&destination);
        }
        let paths = [destination, self.destination_overlay_path.clone()];
        let found = paths.into_iter().filter(|path| !path.is_empty()).filter_map(|path| {
            let metadata = std::fs::symlink_metadata(&path).ok()?;
            Some((path, metadata.uid(), metadata.gid()))
        });
        found.collect()
    }

    fn start_return(&mut self) -> Result<()> {
        // libvirt took them away from QEMU, which opens them anew when it stops writing to them.
        for (path, user, group) in &self.handed_over {
            if let Err(error) = lchown(path, Some(*user), Some(*group)) {
                log::debug!("cannot hand '{}' over to QEMU again: {error}", path.escape_debug());
            }
        }
        self.copy
            .fail("libvirtd died in its pivot, and the guest was brought back");
        // What the domain starts from if QEMU dies now is where the guest writes.
        let (target, guest) = (&self.plan.target, &self.plan.guest);
        if self.home.is_none() {
            let config = guest.get_config(false)?;
            if let Some(disk) = config.disk(target) {
                self.home = guest.get_disk_definition(target, disk.active().source.path())?;
            }
            self.write_record(self.ties.journal.mark())?;
        }
        self.define_on_destination(self.home.as_deref())?;
        self.plan
            .guest
            .start_return(self.nodes()?, self.plan.method == Method::Clone)?;
        self.returning = true;
        Ok(())
    }

    /// The definition has the disk, whose element is this, on the destination from now on.
    fn define_on_destination(&self, element: Option<&str>) -> Result<()> {
        let Some(element) = element else { return Ok(()) };
        let moved = on_destination(element, &self.destination_xml()?).map_err(internal)?;
        self.plan.guest.define_disk(&self.plan.target, &moved)
    }

    /// As virDomainBlockCopy takes it.
    fn destination_xml(&self) -> Result<String> {
        let plan = &self.plan;
        let xml = if plan.method == Method::Clone {
            let destination = Target::File(plan.destination_path().to_owned());
            let mut chain = vec![(destination, plan.format.as_str())];
            chain.extend(plan.below.iter().map(|(path, format)| (layer(path), format.as_str())));
            overlay_destination(&self.destination_overlay_path, &chain)
        } else {
            copy_destination(&target_of(plan), &plan.format, plan.encryption.as_ref())
        };
        xml.map_err(internal)
    }

    fn start_copy(&mut self) -> Result<()> {
        let xml = self.destination_xml()?;
        let plan = &self.plan;
        let clone = plan.method == Method::Clone;
        if let (Some(_), Some(output)) = (&plan.encryption, &self.output) {
            // libvirt formats an empty file only, and a copy that is made again had begun to fill it.
            output.empty()?;
        }
        self.ties.shared.facts(|facts| facts.forget(&plan.target));
        let shown = plan.destination.shown();
        let copy = BlockCopy {
            destination: &shown,
            destination_xml: &xml,
            bandwidth: if self.limited { plan.bandwidth } else { 0 },
            shallow: clone,
            reuse_existing: plan.volumes || !clone && plan.encryption.is_none(),
            write_blocking: self.copy.write_blocking,
        };
        let started = self.device().copy(&copy);
        let cut_off = matches!(&started, Err(error) if error.code() == ErrorCode::NoConnection);
        self.copy.begin(started.is_ok() || cut_off);
        started
    }

    fn start_commit(&mut self) -> Result<()> {
        self.ties.shared.facts(|facts| facts.forget(&self.plan.target));
        self.device().commit(None, None)?;
        self.commit = Tracked::found(true);
        Ok(())
    }

    /// The last moment at which a file that was removed or replaced can be noticed without harm.
    fn pivot_copy(&mut self) -> Result<()> {
        for made in [&self.clone, &self.destination_overlay].into_iter().flatten() {
            if !is_in_place(&self.plan, made) {
                return Err(Error::new(
                    ErrorCode::Destination,
                    format!(
                        "'{}' was removed or replaced during the migration; migrate again",
                        made.path.escape_debug()
                    ),
                ));
            }
        }
        if let Some(output) = &self.output {
            output.must_be_in_place()?;
        }
        self.moved_at = Some(SystemTime::now());
        self.settled = false;
        self.device().pivot()?;
        self.copy.ask(End::Pivot);
        Ok(())
    }

    /// No definition names an overlay that is removed.
    fn name_what_is_below(&self, chain: Chain, overlay: &str) -> Result<()> {
        let plan = &self.plan;
        let record = self.ties.journal.read();
        let recorded = record.disk(0)?;
        let source = (plan.source.0.as_str(), plan.source.1.as_str());
        let destination = (plan.destination_path(), plan.format.as_str());
        if chain != Chain::Destination {
            return offline::name_base(&plan.guest, recorded, overlay, source, recorded.home.as_deref());
        }
        if overlay == self.overlay_path {
            let old = plan.guest.get_disk_definition(&plan.target, Some(overlay))?;
            self.define_on_destination(old.as_deref())?;
        }
        offline::name_base(&plan.guest, recorded, &self.destination_overlay_path, destination, None)
    }

    fn remove_destination(&mut self) -> Result<()> {
        if let Some(output) = &mut self.output {
            output.remove()?;
        }
        self.output = None;
        self.cloned = false;
        remove(&self.plan, &mut self.clone)
    }

    fn delete_source(&mut self) -> Result<()> {
        let path = &self.plan.source.0;
        if self.plan.volumes {
            self.plan.guest.host().remove_volume(path)?;
            self.source_deleted = true;
            return Ok(());
        }
        let unchanged = self.plan.source_identity.is_some() && Identity::of_path(path) == self.plan.source_identity;
        if unchanged && matches!(self.plan.source_identity, Some(Identity::File { .. })) {
            image::remove_source(path)?;
        } else {
            log::warn!(
                "disk '{}' was on no file, or '{}' is not it any more; the source stays",
                self.plan.target,
                path.escape_debug()
            );
        }
        self.source_deleted = true;
        Ok(())
    }

    /// The same error, told of this disk.
    fn about_disk(&self, error: &Error) -> Error {
        let (target, name) = (&self.plan.target, self.plan.guest.name());
        let message = format!("disk '{target}' of domain '{name}': {}", error.message());
        Error::new(error.code(), message).with_libvirt_code(error.libvirt_code())
    }
}

/// Which of the two jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Copy,
    Commit,
}

/// Of qcow2, on an image that QEMU has open. It is in `made` also when only half made.
fn make_overlay(plan: &Plan, path: &str, backing: (&str, &str), made: &mut Option<Made>) -> Result<()> {
    if !plan.volumes {
        return image::make_overlay(path, plan.size, backing, made);
    }
    plan.guest.host().create_overlay_volume(path, plan.size, backing)?;
    *made = Some(Made::volume(path));
    Ok(())
}

fn is_in_place(plan: &Plan, made: &Made) -> bool {
    if !plan.volumes {
        return made.is_in_place();
    }
    let found = plan.guest.host().find_volume(&made.path);
    found.is_ok_and(|found| found.is_some())
}

fn made(made: &Option<Made>) -> Image {
    made.as_ref().map_or(Image::Missing, Image::of_made)
}

fn remove(plan: &Plan, made: &mut Option<Made>) -> Result<()> {
    match made {
        Some(volume) if plan.volumes => plan.guest.host().remove_volume(&volume.path)?,
        Some(file) => file.remove()?,
        None => {}
    }
    *made = None;
    Ok(())
}

/// An image below the destination, as libvirt is to name it.
fn layer(path: &str) -> Target {
    match Identity::of_path(path) {
        Some(Identity::Device { .. }) => Target::Block(path.to_owned()),
        _ => Target::File(path.to_owned()),
    }
}

fn target_of(plan: &Plan) -> Target {
    libvirt_target(&plan.destination, plan.place.is_device())
}

impl Procedure for Engine {
    type Plan = Plan;
    type Observed = Observed;
    type Step = Step;
    type Failure = Failure;

    fn method(plan: &Plan) -> Method {
        plan.method
    }

    fn targets(plan: &Plan) -> Vec<&str> {
        vec![plan.target.as_str()]
    }

    fn guest(plan: &Plan) -> &Arc<Guest> {
        &plan.guest
    }

    fn at_start(plan: &Plan) -> Observed {
        at_start(plan)
    }

    fn next(seen: &Observed, goal: Goal) -> Step {
        next(seen, goal)
    }

    fn turn(step: Step) -> Turn<Failure> {
        turn(step)
    }

    fn steps(_plan: &Plan, seen: &Observed, goal: Goal) -> Vec<Step> {
        model::plan(seen, goal)
    }

    fn describe(plan: &Plan, step: Step) -> String {
        describe::step(step, plan)
    }

    fn phase(seen: &Observed, goal: Goal, step: Step) -> Phase {
        phase(seen, goal, step)
    }

    fn passed_no_return(seen: &Observed) -> bool {
        seen.passed_no_return()
    }

    fn is_settled_forward(seen: &Observed) -> bool {
        seen.passed_no_return()
    }

    fn begin(plan: Plan, claim: &Claim<'_>, shared: Arc<Shared>) -> Result<Self> {
        let disk = RecordedDisk::new(&plan.target, &plan.destination, &plan.format);
        let disk = disk.with_home(&plan.guest, &plan.source.0)?;
        let details = Details {
            request: plan.request.clone(),
            moved_at: None,
            cloned: (0, 0),
            copied: (0, 0),
            throttled: None,
            nodes: None,
            home: None,
            handed_over: Vec::new(),
        };
        let record = Record::new(Kind::Migration, plan.method, vec![disk], &details)?;
        let journal = Journal::begin(&plan.guest, record, claim)?;
        let ties = Ties::new(&plan.guest, journal, shared)?;
        Ok(Self::at_rest(plan, ties))
    }

    fn resume(guest: &Arc<Guest>, journal: Journal, shared: Arc<Shared>) -> Result<(Self, Observed)> {
        let record = journal.read();
        let details: Details = record.details()?;
        let ties = Ties::new(guest, journal, shared)?;
        let mut engine = Self::at_rest(Plan::found(guest, details.request), ties);
        engine.moved_at = details.moved_at;
        engine.clone_progress = details.cloned;
        (engine.copy.done, engine.copy.total) = details.copied;
        // Another QEMU numbers its nodes anew.
        engine.nodes = details.nodes.filter(|_| record.live);
        (engine.home, engine.handed_over) = (details.home, details.handed_over);
        // A commit that was about to pivot below this mark was one on the way back.
        let turned_back = record.disks.first().is_some_and(|disk| disk.pivoting);
        engine.settled = record.mark != Mark::Fixing || turned_back;
        // The mark is written behind the clone and the comparison.
        engine.cloned = record.mark >= Mark::Copying;
        engine.verified = engine.cloned;
        engine.overlay = engine.find(&engine.overlay_path)?;
        engine.destination_overlay = engine.find(&engine.destination_overlay_path)?;
        let recorded = record.disks.first().and_then(|disk| disk.made.as_ref());
        engine.find_destination(recorded, record.mark)?;
        let chain = engine.find_jobs()?;
        if let (Some(before), true) = (details.throttled, record.live && engine.ties.journal.is_owned()) {
            engine.brake = Brake::found(guest, &engine.plan.target, before);
        }
        let is_before = record.mark == Mark::Begun && record.back.is_none();
        engine.unseen_snapshot = is_before || engine.overlay.is_some() && engine.unnamed().is_open()?;
        let seen = Observed {
            chain,
            ..at_start(&engine.plan)
        };
        Ok((engine, seen))
    }

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn ties(&self) -> &Ties {
        &self.ties
    }

    fn ties_mut(&mut self) -> &mut Ties {
        &mut self.ties
    }

    fn observe(&mut self, last: &Observed) -> Result<Observed> {
        let finish = self.plan.auto_finish || self.ties.shared.requests().finish;
        let mut alive = self.plan.guest.get_power_state()? != State::Off;
        let mut chain = Ok(Chain::Foreign);
        if alive {
            chain = self.observe_disk(finish, last.chain);
            if chain.is_err() {
                // A guest that goes away between two calls makes the second one fail.
                alive = self.plan.guest.get_power_state()? != State::Off;
            }
        }
        let off = !alive && !self.plan.guest.is_active()?;
        if !alive {
            self.brake.forget();
            for job in [&mut self.copy, &mut self.commit] {
                job.lost_domain();
            }
            // What it would start from, or has been started from.
            chain = match self.plan.guest.get_config(off) {
                Ok(config) => Ok(self.classify(config.disk(&self.plan.target))),
                Err(error) if error.code() == ErrorCode::NoDomain => Ok(last.chain),
                Err(error) => Err(error),
            };
        }
        let copy = self.copy_job(finish);
        let (chain, way_back) = match self.look_above(chain?, alive, off)? {
            chain if alive => self.look_behind_pivot(chain, copy)?,
            chain => (chain, Job::NotStarted),
        };
        let destination = match &self.output {
            Some(output) => Image::of(Some(output)),
            None => made(&self.clone),
        };
        let stale = |made: &Option<Made>, stale| {
            if made.is_some() && stale {
                Image::Half
            } else {
                self::made(made)
            }
        };
        Ok(Observed {
            alive,
            off,
            mark: self.ties.journal.mark(),
            chain,
            overlay: stale(&self.overlay, self.stale.overlay),
            destination,
            cloned: self.cloned,
            destination_overlay: stale(&self.destination_overlay, self.stale.destination_overlay),
            copy,
            way_back,
            settled: self.settled,
            commit: self.commit.commit_job(self.brake.can_be_tightened()),
            limited: self.limited,
            throttled: self.brake.is_on(),
            finish,
            verify: self.plan.verify && !self.verified,
            source_deleted: self.source_deleted,
            ..at_start(&self.plan)
        })
    }

    fn perform(&mut self, step: Step, seen: &Observed) -> Result<()> {
        match step {
            Step::WriteRecord(mark) => self.write_record(mark),
            Step::MakeOverlay => {
                remove(&self.plan, &mut self.overlay)?;
                self.stale.overlay = false;
                let (source, format) = &self.plan.source;
                make_overlay(&self.plan, &self.overlay_path, (source, format), &mut self.overlay)
            }
            Step::TakeSnapshot => {
                let taken = self.take_snapshot();
                self.unseen_snapshot = taken.is_err();
                taken
            }
            Step::MergeOverlay => self.merge_overlay(seen.alive),
            Step::Clone => self.clone_base().map_err(|error| self.about_disk(&error)),
            Step::Verify => self.verify().map_err(|error| self.about_disk(&error)),
            Step::MakeDestination => self.make_destination(),
            Step::MakeDestinationOverlay => {
                remove(&self.plan, &mut self.destination_overlay)?;
                self.stale.destination_overlay = false;
                if !self.plan.volumes {
                    // libvirt makes it an overlay.
                    let (made, file) = Made::create(&self.destination_overlay_path)?;
                    self.destination_overlay = Some(made);
                    image::give_as(&self.plan.source.0, &file);
                    return Ok(());
                }
                let (plan, path) = (&self.plan, &self.destination_overlay_path);
                let backing = (plan.destination_path(), plan.format.as_str());
                make_overlay(plan, path, backing, &mut self.destination_overlay)
            }
            Step::StartCopy => self.start_copy(),
            Step::LiftLimit => {
                self.device().set_job_speed(0)?;
                self.limited = false;
                self.copy.watch_anew();
                Ok(())
            }
            Step::RestartWriteBlocking => {
                self.device().abort_job()?;
                self.copy.ask(End::Restart);
                Ok(())
            }
            Step::StartCommit => self.start_commit(),
            Step::PivotCopy => self.pivot_copy(),
            Step::StartReturn => self.start_return(),
            // libvirt has no event for a job that it does not know.
            Step::AwaitReturn => {
                let news = self.ties.shared.news();
                self.ties.shared.await_news(news, RETURN_INTERVAL);
                Ok(())
            }
            Step::Return => {
                // Both have all that the guest wrote.
                if let Some(home) = &self.home {
                    self.plan.guest.define_disk(&self.plan.target, home)?;
                }
                self.plan.guest.complete_return(self.nodes()?)
            }
            Step::SettlePivot => self.settle_pivot(),
            Step::CloseDestination => self.plan.guest.close_destination(self.nodes()?),
            Step::PivotCommit => {
                self.ties.journal.note_pivot(0)?;
                self.settled = true;
                self.device().pivot()?;
                self.commit.ask(End::Pivot);
                Ok(())
            }
            Step::AbortCopy => {
                self.device().abort_job()?;
                self.copy.ask(End::Abort);
                Ok(())
            }
            Step::AbortCommit => {
                self.device().abort_job()?;
                self.commit.give_up("commit");
                Ok(())
            }
            Step::Throttle => self.throttle(),
            Step::Unthrottle => self.unthrottle(),
            Step::CommitOffline => self.commit_offline(seen.chain),
            Step::RemoveOverlay => {
                self.name_what_is_below(seen.chain, &self.overlay_path)?;
                remove(&self.plan, &mut self.overlay)
            }
            Step::RemoveDestinationOverlay => {
                self.name_what_is_below(seen.chain, &self.destination_overlay_path)?;
                remove(&self.plan, &mut self.destination_overlay)
            }
            Step::RemoveDestination => self.remove_destination(),
            Step::DeleteSource => self.delete_source(),
            Step::RemoveRecord => self.remove_record(),
            Step::AwaitJobs | Step::AwaitFinish | Step::Fail(_) | Step::Done => Ok(()),
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        let what = format!("disk '{}' of domain '{}'", self.plan.target, self.plan.guest.name());
        let shown = self.plan.destination.shown();
        match failure {
            Failure::DomainGone => Error::new(
                ErrorCode::DomainState,
                format!(
                    "{what}: the domain was shut off, destroyed or restarted during the migration; start again when it runs"
                ),
            ),
            Failure::Restarted => Error::new(
                ErrorCode::DomainState,
                format!(
                    "{what}: the domain was restarted during the migration and runs on an overlay with what it wrote since; \
                     let recover settle it (livedisk recover)"
                ),
            ),
            Failure::Copy | Failure::Commit => {
                let tracked = if failure == Failure::Copy {
                    &self.copy
                } else {
                    &self.commit
                };
                let reason = tracked.failure().unwrap_or("nobody saw how it ended");
                let job = if failure == Failure::Copy {
                    "copy to"
                } else {
                    "active commit on the way to"
                };
                Error::new(
                    code_of_reason(reason),
                    format!("{what}: the {job} '{shown}' failed: {reason}; see QEMU's log of the domain"),
                )
            }
            Failure::NotConverging => {
                let reason = does_not_catch_up("copy", self.copy.rates().unwrap_or_default());
                Error::new(
                    ErrorCode::JobFailed,
                    format!("{what}: {reason}; ask for WRITE_BLOCKING, or try again when the guest writes less"),
                )
            }
            Failure::Return => Error::new(
                ErrorCode::JobFailed,
                format!(
                    "{what}: libvirtd died in the pivot and does not know that the guest writes to '{shown}', and QEMU's copy \
                     back to where libvirt has it failed: {}; mend that, then recover (livedisk recover); until then every \
                     image must stay",
                    self.return_failure.as_deref().unwrap_or("without a reason")
                ),
            ),
            Failure::ForeignChain => Error::new(
                ErrorCode::Busy,
                format!(
                    "{what}: its backing chain is none that the migration makes, so somebody else changed it; nothing more is \
                     touched; compare 'virsh dumpxml' with QEMU's query-block (virsh qemu-monitor-command)"
                ),
            ),
        }
    }

    fn bytes(&self) -> (u64, u64) {
        let (done, total) = self.clone_progress;
        (
            done + self.copy.done + self.commit.done,
            total + self.copy.total + self.commit.total,
        )
    }

    fn report(&self) -> Option<Report> {
        Some(Report {
            method: self.plan.method,
            consistency: Consistency::Crash,
            filesystems_frozen: 0,
            disk_count: 1,
            point_in_time: self.moved_at?,
            freeze: std::time::Duration::ZERO,
            pause: std::time::Duration::ZERO,
            bytes_copied: self.bytes().0,
            elapsed: self.ties.shared.began().elapsed(),
            full_disks: 0,
        })
    }
}
