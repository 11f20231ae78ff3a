// SPDX-License-Identifier: LGPL-2.1-or-later
//! The limits of a disk's own I/O (`<iotune>`), read and set live.

use std::ffi::CString;
use std::ptr;

use serde::{Deserialize, Serialize};
use virt::error::Error;
use virt_sys as sys;

use super::domain::{Domain, check};
use super::params::{self, Value};

/// What QEMU may dirty in a mirror's bitmap beyond a write's own bytes: a piece before it and one after.
const AROUND_A_WRITE: u64 = 128 << 10;

/// Every limit of a disk by libvirt's name for it, 0: none. The group that a disk may share limits with is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IoTune(Vec<(String, u64)>);

impl IoTune {
    /// So that the guest makes a mirror no more than twice `limit` bytes dirty a second; tighter limits stay.
    #[must_use]
    pub(crate) fn with_writes_limited(&self, limit: u64) -> Self {
        let mut limits = self.0.clone();
        // Bursts would let it do more.
        for (name, value) in &mut limits {
            if name.contains("_max") {
                *value = 0;
            }
        }
        for (kind, wanted) in [("bytes", limit), ("iops", limit / AROUND_A_WRITE)] {
            let (total, writes) = (format!("total_{kind}_sec"), format!("write_{kind}_sec"));
            // libvirt takes one or the other.
            let has_total = self.0.iter().any(|(name, value)| *name == total && *value > 0);
            let wanted = wanted.max(1);
            for (name, value) in &mut limits {
                if name == if has_total { &total } else { &writes } && (*value == 0 || *value > wanted) {
                    *value = wanted;
                }
            }
        }
        Self(limits)
    }

    /// In one line.
    pub(crate) fn to_text(&self) -> String {
        let limits: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        limits.join(" ")
    }
}

impl Domain {
    /// virDomainGetBlockIoTune of the running domain.
    pub(crate) fn io_tune(&self, target: &str) -> Result<IoTune, Error> {
        let target = CString::new(target)?;
        let flags = sys::VIR_DOMAIN_AFFECT_LIVE;
        let mut count = 0;
        // SAFETY: asked without a list, libvirt says how many parameters there are; then it fills a list of that many
        // zeroed ones, of which it owns the strings until they are cleared.
        let map = unsafe {
            let ask = |list, count: &mut i32| {
                check(sys::virDomainGetBlockIoTune(
                    self.ptr(),
                    target.as_ptr(),
                    list,
                    count,
                    flags,
                ))
            };
            ask(ptr::null_mut(), &mut count)?;
            let mut list: Vec<sys::virTypedParameter> = Vec::new();
            list.resize_with(usize::try_from(count).unwrap_or(0), || std::mem::zeroed());
            ask(list.as_mut_ptr(), &mut count)?;
            let map = params::read(list.as_mut_ptr(), count);
            sys::virTypedParamsClear(list.as_mut_ptr(), count);
            map
        };
        let mut limits: Vec<_> = map
            .into_iter()
            .filter_map(|(name, value)| match value {
                Value::Number(value) => Some((name, u64::try_from(value).unwrap_or(0))),
                _ => None,
            })
            .collect();
        limits.sort();
        Ok(IoTune(limits))
    }

    /// virDomainSetBlockIoTune of the running domain; its definition stays.
    pub(crate) fn set_io_tune(&self, target: &str, tune: &IoTune) -> Result<(), Error> {
        let target = CString::new(target)?;
        let mut list: sys::virTypedParameterPtr = ptr::null_mut();
        let (mut count, mut capacity) = (0, 0);
        let names = tune
            .0
            .iter()
            .map(|(name, value)| Ok((CString::new(name.as_str())?, *value)));
        let limits: Vec<_> = names.collect::<Result<_, std::ffi::NulError>>()?;
        // SAFETY: libvirt allocates the parameters and this function frees them; all strings live until the calls return.
        unsafe {
            let mut result = Ok(0);
            for (name, value) in &limits {
                result = result.and_then(|_| {
                    check(sys::virTypedParamsAddULLong(
                        &mut list,
                        &mut count,
                        &mut capacity,
                        name.as_ptr(),
                        *value,
                    ))
                });
            }
            let result = result.and_then(|_| {
                check(sys::virDomainSetBlockIoTune(
                    self.ptr(),
                    target.as_ptr(),
                    list,
                    count,
                    sys::VIR_DOMAIN_AFFECT_LIVE,
                ))
            });
            sys::virTypedParamsFree(list, count);
            result.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tune(limits: &[(&str, u64)]) -> IoTune {
        IoTune(
            limits
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
        )
    }

    #[test]
    fn writes_are_limited_where_they_are_not_already() {
        let none = tune(&[
            ("total_bytes_sec", 0),
            ("total_iops_sec", 0),
            ("write_bytes_sec", 0),
            ("write_iops_sec", 0),
        ]);
        let limited = none.with_writes_limited(1 << 20);
        assert_eq!(
            limited.to_text(),
            "total_bytes_sec=0 total_iops_sec=0 write_bytes_sec=1048576 write_iops_sec=8"
        );
        assert_eq!(none.with_writes_limited(1).to_text().matches("=1").count(), 2);
    }

    #[test]
    fn what_is_set_is_kept_or_tightened() {
        let before = tune(&[
            ("total_bytes_sec", 5 << 20),
            ("total_bytes_sec_max", 9 << 20),
            ("total_bytes_sec_max_length", 3),
            ("write_bytes_sec", 0),
            ("write_iops_sec", 2),
        ]);
        let limited = before.with_writes_limited(1 << 20).to_text();
        let expected = "total_bytes_sec=1048576 total_bytes_sec_max=0 total_bytes_sec_max_length=0 write_bytes_sec=0 write_iops_sec=2";
        assert_eq!(limited, expected);
    }
}
