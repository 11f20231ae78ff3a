// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's events of one domain, and QEMU's own block job events, which alone carry the reason of a failure.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use virt::connect::Connect;
use virt::error::Error;
use virt_sys as sys;

use super::connection::Connection;
use super::domain::Domain;
use super::params;
use super::stats;

/// What a block job event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockJobStatus {
    Completed,
    Failed,
    Canceled,
    Ready,
}

/// One event of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2.
    BlockJob { target: String, status: BlockJobStatus },
    /// QEMU's BLOCK_JOB_COMPLETED or BLOCK_JOB_CANCELLED: it comes before libvirt's own event and carries the reason of a failure.
    QemuJobEnded { job: String, error: Option<String> },
    /// QEMU's JOB_STATUS_CHANGE to running. The jobs of a backup start together, in one transaction.
    QemuJobRunning { job: String },
    /// VIR_DOMAIN_EVENT_ID_JOB_COMPLETED of a backup: look at it again.
    BackupEnded,
    /// VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD: an image (`vda[4]`) has grown beyond what was set for it.
    BlockThreshold { image: String },
    /// VIR_DOMAIN_EVENT_ID_LIFECYCLE: look at the domain's state again. `ended`: its QEMU is gone.
    Lifecycle { ended: bool },
}

type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// Events arrive as long as it lives, on the thread that runs the event loop.
pub(crate) struct Subscription {
    connect: Connect,
    callbacks: Vec<c_int>,
    monitor_callbacks: Vec<c_int>,
}

impl Subscription {
    /// Every event is passed to `sink`, which must not block and must not call libvirt.
    pub(crate) fn new(connection: &Connection, domain: &Domain, sink: Sink) -> Result<Self, Error> {
        let mut subscription = Self {
            connect: connection.connect.clone(),
            callbacks: Vec::new(),
            monitor_callbacks: Vec::new(),
        };
        // SAFETY: libvirt casts the generic callback back to the type that belongs to the event's number, which is the
        // type each function below is written with.
        let wanted: [(sys::virDomainEventID, sys::virConnectDomainEventGenericCallback); 4] = unsafe {
            [
                (
                    sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
                    generic(block_job as *const c_void),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
                    generic(job_completed as *const c_void),
                ),
                (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, generic(lifecycle as *const c_void)),
                (
                    sys::VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD,
                    generic(block_threshold as *const c_void),
                ),
            ]
        };
        for (id, callback) in wanted {
            let data = into_data(&sink);
            // SAFETY: connection and domain are alive; `data` is freed by `free_data`, which libvirt calls when the
            // callback is gone, or here when it was not taken.
            let number = unsafe {
                sys::virConnectDomainEventRegisterAny(
                    subscription.connect.as_ptr(),
                    domain.inner.as_ptr(),
                    id as c_int,
                    callback,
                    data,
                    Some(free_data),
                )
            };
            if number < 0 {
                let error = Error::last_error();
                // SAFETY: libvirt did not take the data.
                unsafe { free_data(data) };
                return Err(error);
            }
            subscription.callbacks.push(number);
        }
        // Before 6.2 QEMU says CANCELLED of a mirror that ended whole.
        for name in [c"BLOCK_JOB_COMPLETED", c"BLOCK_JOB_CANCELLED", c"JOB_STATUS_CHANGE"] {
            subscription.register_monitor_event(domain, name, &sink);
        }
        Ok(subscription)
    }

    /// Without it a reason is missing and a window is longer, but nothing fails.
    fn register_monitor_event(&mut self, domain: &Domain, name: &CStr, sink: &Sink) {
        let data = into_data(sink);
        // SAFETY: as in `new`.
        let number = unsafe {
            sys::virConnectDomainQemuMonitorEventRegister(
                self.connect.as_ptr(),
                domain.inner.as_ptr(),
                name.as_ptr(),
                Some(qemu_event),
                data,
                Some(free_data),
                0,
            )
        };
        if number < 0 {
            log::debug!("no QEMU monitor events: {}", Error::last_error());
            // SAFETY: libvirt did not take the data.
            unsafe { free_data(data) };
        } else {
            self.monitor_callbacks.push(number);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: the numbers came from this connection; a connection that is gone makes the calls fail harmlessly.
        unsafe {
            for number in self.callbacks.drain(..) {
                sys::virConnectDomainEventDeregisterAny(self.connect.as_ptr(), number);
            }
            for number in self.monitor_callbacks.drain(..) {
                sys::virConnectDomainQemuMonitorEventDeregister(self.connect.as_ptr(), number);
            }
        }
    }
}

/// # Safety
/// `function` is an `extern "C"` function of the type that belongs to the event it is registered for.
unsafe fn generic(function: *const c_void) -> sys::virConnectDomainEventGenericCallback {
    // SAFETY: all C function pointers have one representation, and `Option` of one is null-or-pointer.
    unsafe { std::mem::transmute(function) }
}

fn into_data(sink: &Sink) -> *mut c_void {
    Box::into_raw(Box::new(Arc::clone(sink))).cast()
}

unsafe extern "C" fn free_data(data: *mut c_void) {
    // SAFETY: made by `into_data`, freed once.
    drop(unsafe { Box::from_raw(data.cast::<Sink>()) });
}

/// # Safety
/// `data` was made by `into_data` and is alive.
unsafe fn deliver(data: *mut c_void, event: Event) {
    // SAFETY: by the caller's promise.
    let sink = unsafe { &*data.cast::<Sink>() };
    // A panic must not unwind into libvirt.
    if catch_unwind(AssertUnwindSafe(|| sink(event))).is_err() {
        log::error!("a panic in an event handler");
    }
}

/// # Safety
/// `text` is null or a NUL-terminated string.
unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

unsafe extern "C" fn block_job(
    _connect: sys::virConnectPtr,
    _domain: sys::virDomainPtr,
    disk: *const c_char,
    _kind: c_int,
    status: c_int,
    data: *mut c_void,
) {
    let status = match status as u32 {
        sys::VIR_DOMAIN_BLOCK_JOB_COMPLETED => BlockJobStatus::Completed,
        sys::VIR_DOMAIN_BLOCK_JOB_FAILED => BlockJobStatus::Failed,
        sys::VIR_DOMAIN_BLOCK_JOB_CANCELED => BlockJobStatus::Canceled,
        sys::VIR_DOMAIN_BLOCK_JOB_READY => BlockJobStatus::Ready,
        _ => return,
    };
    // SAFETY: libvirt's own string, and our data.
    unsafe {
        let target = owned(disk);
        deliver(data, Event::BlockJob { target, status });
    }
}

unsafe extern "C" fn job_completed(
    _connect: sys::virConnectPtr,
    _domain: sys::virDomainPtr,
    list: sys::virTypedParameterPtr,
    count: c_int,
    data: *mut c_void,
) {
    // SAFETY: libvirt's own parameters, and our data.
    unsafe {
        if stats::is_backup(&params::read(list, count)) {
            deliver(data, Event::BackupEnded);
        }
    }
}

unsafe extern "C" fn block_threshold(
    _connect: sys::virConnectPtr,
    _domain: sys::virDomainPtr,
    image: *const c_char,
    _path: *const c_char,
    _threshold: c_ulonglong,
    _excess: c_ulonglong,
    data: *mut c_void,
) {
    // SAFETY: libvirt's own string, and our data.
    unsafe {
        let image = owned(image);
        deliver(data, Event::BlockThreshold { image });
    }
}

unsafe extern "C" fn lifecycle(
    _connect: sys::virConnectPtr,
    _domain: sys::virDomainPtr,
    event: c_int,
    _detail: c_int,
    data: *mut c_void,
) {
    let ended = [sys::VIR_DOMAIN_EVENT_STOPPED, sys::VIR_DOMAIN_EVENT_CRASHED].contains(&event.unsigned_abs());
    // SAFETY: our data.
    unsafe { deliver(data, Event::Lifecycle { ended }) }
}

unsafe extern "C" fn qemu_event(
    _connect: sys::virConnectPtr,
    _domain: sys::virDomainPtr,
    _event: *const c_char,
    _seconds: c_longlong,
    _micros: c_uint,
    details: *const c_char,
    data: *mut c_void,
) {
    // SAFETY: libvirt's own string.
    let details = unsafe { owned(details) };
    let Ok(details) = serde_json::from_str::<serde_json::Value>(&details) else {
        return;
    };
    let field = |name: &str| details.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    // BLOCK_JOB_COMPLETED and BLOCK_JOB_CANCELLED name a device, JOB_STATUS_CHANGE an id.
    let event = match (field("device"), field("id"), field("status").as_deref()) {
        (Some(job), ..) => Event::QemuJobEnded {
            job,
            error: field("error"),
        },
        (None, Some(job), Some("running")) => Event::QemuJobRunning { job },
        _ => return,
    };
    // SAFETY: our data.
    unsafe { deliver(data, event) }
}
