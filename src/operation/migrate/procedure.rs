// SPDX-License-Identifier: LGPL-2.1-or-later
//! The migration as the loop sees it.

use std::sync::Arc;
use std::time::Duration;

use super::clone::Clone as BaseClone;
use super::engine::{Engine, Note};
use super::plan::{Plan, Request};
use super::seen::{Observed, SeenCopy, SeenDestination, Source};
use super::step::Step;
use crate::error::{ErrorCode, Result};
use crate::operation::course::procedure::{Procedure, Ties};
use crate::operation::notice::Notice;
use crate::operation::ownership::record::{Kind, Record, RecordedDisk};
use crate::operation::parts::image::{DestinationImage, Like, Wanted};
use crate::operation::parts::mirror::Mirror;
use crate::operation::parts::overlay::Overlay;
use crate::operation::parts::pivot::Pivot;
use crate::operation::parts::site::Site;
use crate::operation::parts::throttle::Brake;
use crate::operation::plan::preflight::{beside, staging};
use crate::operation::state::{Job, Mark};
use crate::operation::types::{Consistency, Method, Report, Warnings};

impl Procedure for Engine {
    const KIND: Kind = Kind::Migration;
    type Request = Request;
    type Observed = Observed;
    type Step = Step;
    type Note = Note;

    fn at_start(plan: &Plan) -> Observed {
        Observed {
            finish: plan.auto_finish,
            ..Observed::at_start(plan.method, plan.bandwidth > 0, plan.verify, plan.delete_source)
        }
    }

    fn first_record(plan: &Plan) -> Result<(Vec<RecordedDisk>, Note)> {
        let disk = RecordedDisk::new(&plan.target, &plan.destination, &plan.format);
        let disk = disk.with_home(&plan.guest, &plan.source.path)?;
        Ok((vec![disk], Note::default()))
    }

    fn at_rest(plan: Arc<Plan>, ties: Arc<Ties>) -> Self {
        let id = ties.journal.read().id;
        let site = Site::new(&plan.guest, &ties, 0, &plan.target);
        let (source, destination) = (plan.source.path.as_str(), plan.destination_path());
        let overlay = |path, base| Overlay::new(&site, path, base, plan.size, plan.volumes);
        let wanted = Wanted {
            destination: plan.destination.clone(),
            place: plan.place.clone(),
            format: plan.format.clone(),
            size: plan.size,
            backing: None,
            reuse: false,
            compress: false,
            // libvirt formats it, which alone has the secret.
            blank: plan.encryption.is_some(),
            staging: staging(&plan.destination, &id, &plan.target),
            like: Some(Like::Disk(source.to_owned())),
        };
        Self {
            overlay: overlay(beside(source, &id, "source"), plan.source.clone()),
            clone: BaseClone::default(),
            destination: DestinationImage::new(wanted),
            destination_overlay: overlay(beside(destination, &id, "destination"), plan.destination_layer()),
            copy: Mirror::new(&site, plan.bandwidth, plan.write_blocking),
            pivot: Pivot::new(&site),
            brake: Brake::new(&site),
            source_deleted: false,
            source_kept: false,
            site,
            plan,
            ties,
        }
    }

    fn find(&mut self, record: &Record, note: Note) -> Result<Observed> {
        let recorded = record.disks.first();
        let turned_back = recorded.is_some_and(|disk| disk.pivoting);
        self.pivot.find(note.pivot, record.live, record.mark, turned_back);
        self.overlay.find()?;
        self.destination_overlay.find()?;
        let staging = self.staging();
        self.clone.find(&self.plan, recorded, &staging, record.mark)?;
        self.clone.progress = note.cloned;
        if self.plan.method == Method::Mirror {
            self.destination.find(recorded, record.mark);
        }
        let chain = self.find_jobs(note.copied)?;
        self.brake.find(note.throttled, record.live);
        let is_before = record.mark == Mark::Begun && record.back.is_none();
        let is_seen = !(is_before || self.overlay.is_open()?);
        self.overlay.snapshot_was_seen(is_seen);
        Ok(Observed {
            chain,
            ..Self::at_start(&self.plan)
        })
    }

    fn observe(&mut self, last: &Observed) -> Result<Observed> {
        let finish = self.plan.auto_finish || self.ties.shared.requests().finish;
        let plan = Arc::clone(&self.plan);
        let state = plan.guest.get_power_state()?;
        let chain = plan
            .guest
            .ask_while_alive(state, || self.observe_disk(finish, last.chain))?;
        let alive = chain.is_some();
        let off = !alive && !plan.guest.is_active()?;
        let chain = match chain {
            Some(chain) => chain,
            None => {
                self.brake.forget();
                self.copy.job.lost_domain();
                self.overlay.commit.lost_domain();
                self.destination_overlay.commit.lost_domain();
                // What it would start from, or has been started from.
                match plan.guest.get_config(off) {
                    Ok(config) => self.classify(config.disk(&plan.target)),
                    Err(error) if error.code() == ErrorCode::NoDomain => last.chain,
                    Err(error) => return Err(error),
                }
            }
        };
        let may_throttle = self.brake.can_be_tightened();
        let copy = self
            .copy
            .seen(may_throttle && self.plan.method == Method::Clone, finish);
        let (chain, way_back) = match self.look_above(chain, alive, off)? {
            chain if alive => self.look_after_pivot(chain, copy)?,
            chain => (chain, Job::NotStarted),
        };
        Ok(Observed {
            finish,
            alive,
            off,
            mark: self.ties.journal.mark(),
            chain,
            overlay: self.overlay.seen(may_throttle),
            destination: SeenDestination {
                image: match self.plan.method {
                    Method::Mirror => self.destination.seen(),
                    _ => self.clone.image(),
                },
                cloned: self.clone.is_whole(),
                verify: self.plan.verify && !self.clone.is_verified(),
            },
            destination_overlay: self.destination_overlay.seen(may_throttle),
            copy: SeenCopy {
                job: copy,
                limited: self.copy.limited,
                way_back,
                settled: self.pivot.settled,
            },
            throttled: self.brake.is_on(),
            source: match Self::at_start(&self.plan).source {
                _ if self.source_deleted => Source::Deleted,
                source => source,
            },
            method: self.plan.method,
        })
    }

    fn bytes(&self) -> (u64, u64) {
        let jobs = [&self.copy.job, &self.overlay.commit, &self.destination_overlay.commit];
        jobs.iter().fold(self.clone.progress, |(done, total), job| {
            (done + job.done, total + job.total)
        })
    }

    fn report(&self) -> Option<Report> {
        Some(Report {
            method: self.plan.method,
            consistency: Consistency::Crash,
            filesystems_frozen: 0,
            disk_count: 1,
            point_in_time: self.pivot.moved_at()?,
            freeze: Duration::ZERO,
            pause: Duration::ZERO,
            bytes_copied: self.bytes().0,
            elapsed: self.ties.shared.began().elapsed(),
            full_disks: 0,
            warnings: Warnings::default(),
        })
    }

    fn notices(&self) -> Vec<Notice> {
        self.source_kept.then_some(Notice::SourceKept).into_iter().collect()
    }
}
