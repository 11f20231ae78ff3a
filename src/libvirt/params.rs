// SPDX-License-Identifier: LGPL-2.1-or-later
//! Typed parameters, read into a map of owned values.

use std::collections::HashMap;
use std::ffi::CStr;

use virt_sys as sys;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(i128),
    Text(String),
    Other,
}

/// # Safety
/// `params` is null or points to `count` parameters as libvirt filled them in.
pub(super) unsafe fn read(params: sys::virTypedParameterPtr, count: i32) -> HashMap<String, Value> {
    let mut map = HashMap::new();
    if params.is_null() {
        return map;
    }
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: index < count by the caller's promise; libvirt terminates `field` and string values with NUL,
        // and `type_` says which member of the union was written.
        let (name, value) = unsafe {
            let param = &*params.add(index);
            let name = CStr::from_ptr(param.field.as_ptr()).to_string_lossy().into_owned();
            let value = match param.type_ as u32 {
                sys::VIR_TYPED_PARAM_INT => Value::Number(param.value.i.into()),
                sys::VIR_TYPED_PARAM_UINT => Value::Number(param.value.ui.into()),
                sys::VIR_TYPED_PARAM_LLONG => Value::Number(param.value.l.into()),
                sys::VIR_TYPED_PARAM_ULLONG => Value::Number(param.value.ul.into()),
                sys::VIR_TYPED_PARAM_BOOLEAN => Value::Number((param.value.b != 0).into()),
                sys::VIR_TYPED_PARAM_STRING if !param.value.s.is_null() => {
                    Value::Text(CStr::from_ptr(param.value.s).to_string_lossy().into_owned())
                }
                _ => Value::Other,
            };
            (name, value)
        };
        map.insert(name, value);
    }
    map
}

/// The number called `name`, 0 where there is none.
pub(super) fn number(map: &HashMap<String, Value>, name: &CStr) -> u64 {
    match map.get(name.to_string_lossy().as_ref()) {
        Some(Value::Number(number)) => u64::try_from(*number).unwrap_or(0),
        _ => 0,
    }
}

/// The text called `name`.
pub(super) fn text(map: &HashMap<String, Value>, name: &CStr) -> Option<String> {
    match map.get(name.to_string_lossy().as_ref()) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    }
}
