// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an operation does otherwise than its caller may think. It is one list, of the plan and of what came up on the way:
//! the handle says in words what was known at the start, the report warns and counts.

use crate::operation::types::Warnings;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// See [`Warnings`].
    UnidentifiedImage,
    LabelLost,
    ZeroesUndetected,
    SourceKept,
    /// The new checkpoint leaves the disk out.
    NotCovered {
        target: String,
        why: String,
    },
    /// Changes alone were to be copied.
    CopiedWhole {
        target: String,
        why: String,
    },
    /// An increment on no image.
    Alone {
        target: String,
    },
}

impl Notice {
    /// In words, where it is about what was asked for.
    fn remark(&self) -> Option<String> {
        match self {
            Self::UnidentifiedImage | Self::LabelLost | Self::ZeroesUndetected | Self::SourceKept => None,
            Self::NotCovered { target, why } => {
                Some(format!("disk '{target}' is not covered by the new checkpoint: {why}"))
            }
            Self::CopiedWhole { target, why } => Some(format!("disk '{target}' is copied whole: {why}")),
            Self::Alone { target } => Some(format!(
                "disk '{target}' has an increment without a backing file, because none was named: it is not the whole \
                 disk by itself"
            )),
        }
    }
}

pub(crate) fn remarks(notices: &[Notice]) -> Vec<String> {
    notices.iter().filter_map(Notice::remark).collect()
}

/// As the report has them.
pub(crate) fn warnings(notices: &[Notice]) -> Warnings {
    let has = |notice| notices.contains(&notice);
    Warnings {
        unidentified_image: has(Notice::UnidentifiedImage),
        label_lost: has(Notice::LabelLost),
        zeroes_undetected: has(Notice::ZeroesUndetected),
        source_kept: has(Notice::SourceKept),
    }
}

/// How many disks are copied whole that were not to be.
pub(crate) fn full_disks(notices: &[Notice]) -> u32 {
    let whole = notices
        .iter()
        .filter(|notice| matches!(notice, Notice::CopiedWhole { .. }));
    u32::try_from(whole.count()).unwrap_or(u32::MAX)
}

/// As the record keeps them.
impl From<Warnings> for Vec<Notice> {
    fn from(warnings: Warnings) -> Self {
        let all = [
            (warnings.unidentified_image, Notice::UnidentifiedImage),
            (warnings.label_lost, Notice::LabelLost),
            (warnings.zeroes_undetected, Notice::ZeroesUndetected),
            (warnings.source_kept, Notice::SourceKept),
        ];
        all.into_iter()
            .filter_map(|(is_set, notice)| is_set.then_some(notice))
            .collect()
    }
}
