// SPDX-License-Identifier: LGPL-2.1-or-later
//! The clone of a quiet image's file, as the caller wants it made.

use std::fs::File;

use crate::error::{Error, ErrorCode, Result};
use crate::image::{self, Cloned, Layer, Made};
use crate::operation::course::shared::Shared;
use crate::operation::types::{CloneCallback, CloneMethod};

/// Receives how much was copied of how much; false ends the copy, because it is asked for.
pub(in crate::operation) fn watch<'a>(
    shared: &'a Shared,
    before: (u64, u64),
    progress: &'a mut (u64, u64),
) -> impl FnMut(u64, u64) -> bool + 'a {
    move |done, total| {
        *progress = (done, total);
        shared.publish(|progress| {
            (progress.bytes_done, progress.bytes_total) = (before.0 + done, before.1 + total);
        });
        let requests = shared.requests();
        !(requests.cancel || requests.detach)
    }
}

/// Fills an empty file with what `source`, which is a file or a slice of one, holds: REFLINK, COPY, or AUTO, which is the cheaper of the two that works.
pub(in crate::operation) fn clone_into(
    how: CloneMethod,
    source: &Layer,
    file: &File,
    shown: &str,
    bandwidth: u64,
    watch: image::Watch<'_>,
) -> Result<()> {
    let slice = source.slice.as_ref();
    let source = image::open_source(&source.path)?;
    let failed = |error: std::io::Error| image::failed_clone(shown, error);
    if how != CloneMethod::Copy && slice.is_none() && image::reflink(&source, file).map_err(failed)? {
        log::info!("'{shown}' shares its blocks with the source");
        return Ok(());
    }
    if how == CloneMethod::Reflink {
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "'{shown}' cannot share blocks with its source: they are on different file systems, or on one that cannot share \
                 blocks; use AUTO or COPY"
            ),
        ));
    }
    finished(image::copy(&source, slice, file, bandwidth, watch).map_err(failed)?)
}

/// A copy that its watch ended is a cancel.
pub(in crate::operation) fn finished(cloned: Cloned) -> Result<()> {
    match cloned {
        Cloned::Whole => Ok(()),
        Cloned::Cancelled => Err(Error::new(ErrorCode::Cancelled, "cancelled")),
    }
}

/// The caller's function, which ends with its process: then what stands at the destination is not touched, for its owner is not
/// known.
pub(in crate::operation) fn of_caller<'a>(
    callback: Option<&'a CloneCallback>,
    destination: &str,
) -> Result<&'a CloneCallback> {
    callback.ok_or_else(|| {
        Error::new(
            ErrorCode::JobFailed,
            format!(
                "the caller's clone of '{}' ended with its process; what it left there is yours to remove",
                destination.escape_debug()
            ),
        )
    })
}

/// Has the caller's function clone `source` to `destination`, where there is nothing yet. Whatever it left is ours to
/// remove, also after a failure, and so is put into `made`.
pub(in crate::operation) fn call_back(
    callback: Option<&CloneCallback>,
    source: &str,
    destination: &str,
    made: &mut Option<Made>,
) -> Result<File> {
    let result = of_caller(callback, destination)?(source, destination);
    let adopted = Made::adopt(destination);
    if let Ok((left, _)) = &adopted {
        *made = Some(left.clone());
    }
    must_have_cloned(result, destination, adopted.map(|(_, file)| file))
}

/// The caller's function says that it succeeded, and what it left is as it should be.
pub(in crate::operation) fn must_have_cloned<T>(result: i32, destination: &str, left: Result<T>) -> Result<T> {
    let shown = destination.escape_debug();
    match (result, left) {
        (0, Ok(left)) => Ok(left),
        (0, Err(error)) => Err(Error::new(
            ErrorCode::JobFailed,
            format!(
                "the caller's clone of '{shown}' says it succeeded, but: {}",
                error.message()
            ),
        )),
        (result, _) => Err(Error::new(
            ErrorCode::JobFailed,
            format!("the caller's clone of '{shown}' failed with {result}"),
        )),
    }
}
