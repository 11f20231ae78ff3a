// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the procedures distinguish in the world.

use serde::{Deserialize, Serialize};

use crate::image::{Made, Output};

/// Where the loop is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Goal {
    /// To the end.
    Forward,
    /// Everything as before.
    Back,
}

/// The progress that the operation's record states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
    Absent,
    /// The destinations are being made.
    Begun,
    /// Mirrors are being started, or run.
    Copying,
    /// The freeze window is about to open, or is open.
    Fixing,
    /// The point in time is fixed.
    Fixed,
}

impl Mark {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Begun => "begun",
            Self::Copying => "copying",
            Self::Fixing => "fixing",
            Self::Fixed => "fixed",
        }
    }
}

/// A block job of ours (a backup of several disks is one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    NotStarted,
    Running,
    /// Runs and will not converge as it is.
    Stuck(Remedy),
    /// A mirror in the state `ready='yes'`.
    Ready,
    /// Asked to end, and not yet gone.
    Ending,
    Completed,
    /// Failed, or vanished in a way that was not observed, which is no success.
    Failed,
}

impl Job {
    /// It runs on, under better conditions.
    pub(crate) fn helped(self) -> Self {
        match self {
            Self::Stuck(_) => Self::Running,
            job => job,
        }
    }
}

#[cfg(any(test, debug_assertions, feature = "faults"))]
impl Job {
    pub(crate) fn runs(self) -> bool {
        matches!(self, Self::Running | Self::Stuck(_) | Self::Ready | Self::Ending)
    }

    /// What a job that runs can become by itself, short of its end.
    pub(crate) fn moves(self, limited: bool) -> impl Iterator<Item = Self> {
        let stuck = [Remedy::LiftLimit, Remedy::WriteBlocking, Remedy::Throttle, Remedy::None];
        let stuck = stuck
            .into_iter()
            .filter(move |remedy| limited || *remedy != Remedy::LiftLimit);
        // Ending also where libvirt shows a job that QEMU has not.
        let others = [Self::Running, Self::Ready, Self::Ending, Self::Failed];
        let all = others.into_iter().chain(stuck.map(Self::Stuck));
        all.filter(move |job| self.runs() && *job != self)
    }
}

/// What may still make a job converge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Remedy {
    LiftLimit,
    WriteBlocking,
    /// Of the guest's disk, and tighter where it is throttled already.
    Throttle,
    None,
}

impl Remedy {
    /// The cheapest for the guest first.
    pub(crate) fn choose(limited: bool, may_block: bool, may_throttle: bool) -> Self {
        if limited {
            Self::LiftLimit
        } else if may_block {
            Self::WriteBlocking
        } else if may_throttle {
            Self::Throttle
        } else {
            Self::None
        }
    }
}

/// What stands at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Image {
    Missing,
    /// Begun by this operation, and of no use: to be made anew or removed.
    Half,
    /// Made by this operation: to be removed on the way back.
    Made,
    /// The caller's: never removed.
    Taken,
}

impl Image {
    pub(crate) fn of(output: Option<&Output>) -> Self {
        output.map_or(Self::Missing, |output| output.made().map_or(Self::Taken, Self::of_made))
    }

    pub(crate) fn of_made(made: &Made) -> Self {
        match made.staging {
            Some(_) => Self::Half,
            None => Self::Made,
        }
    }

    /// Of this operation, and so to be removed on the way back.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Half | Self::Made)
    }

    /// To be made, or made anew.
    pub(crate) fn is_wanting(self) -> bool {
        matches!(self, Self::Missing | Self::Half)
    }
}

/// The stored definition of a domain that must not be defined for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stored {
    /// libvirt has it, and nobody else.
    Stands,
    /// So have we. `again`: somebody else has defined the domain, once, since it was taken away.
    Saved { again: bool },
    /// Only we have it.
    Away { again: bool },
    /// libvirt has one, and so have we. Somebody else has defined the domain a second time, and would do so again.
    Contested,
}

impl Stored {
    /// It was taken away from libvirt.
    pub(crate) fn undefined(self) -> Self {
        match self {
            Self::Stands => Self::Away { again: false },
            Self::Saved { again } | Self::Away { again } => Self::Away { again },
            Self::Contested => Self::Away { again: true },
        }
    }
}

#[cfg(any(test, debug_assertions, feature = "faults"))]
impl Stored {
    /// Somebody else undefined the domain, or defined it.
    pub(crate) fn changed_by_others(self) -> Option<Self> {
        match self {
            Self::Stands => None,
            Self::Saved { .. } | Self::Contested => Some(self.undefined()),
            Self::Away { again: false } => Some(Self::Saved { again: true }),
            Self::Away { again: true } => Some(Self::Contested),
        }
    }
}

pub(crate) fn position<T>(list: &[T], matches: impl Fn(&T) -> bool) -> Option<usize> {
    list.iter().position(matches)
}

/// No procedure is this long; a plan that is has a fault.
const LONGEST: usize = 10_000;

/// The steps from `seen` to the end, when all goes well: `apply` says what a step does then, `is_last` where it ends.
pub(crate) fn steps<O: Clone, S: Copy>(
    seen: &O,
    next: impl Fn(&O) -> S,
    apply: impl Fn(&mut O, S),
    is_last: impl Fn(S) -> bool,
) -> Vec<S> {
    let mut seen = seen.clone();
    let mut steps = Vec::new();
    while steps.len() < LONGEST {
        let step = next(&seen);
        if is_last(step) {
            break;
        }
        apply(&mut seen, step);
        steps.push(step);
    }
    steps
}
