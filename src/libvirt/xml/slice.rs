// SPDX-License-Identifier: LGPL-2.1-or-later
//! The bytes of its file that an image is.

use std::ops::Range;

use xmltree::Element;

use super::{attribute, children};

/// The one slice of storage of a `<source>`; what else there may be is not understood.
pub(super) fn slice(source: &Element) -> Option<Range<u64>> {
    let slices = source.get_child("slices")?;
    let mut found = children(slices, "slice");
    let (slice, None) = (found.next()?, found.next()) else {
        return None;
    };
    let number = |name| attribute(slice, name)?.parse::<u64>().ok();
    let (offset, size) = (number("offset")?, number("size")?);
    let is_storage = attribute(slice, "type") == Some("storage");
    let end = offset.checked_add(size).filter(|_| is_storage)?;
    Some(offset..end)
}
