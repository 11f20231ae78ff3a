// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "callbacks.h"
import "C"

import (
	"fmt"
	"os"
)

// Code is the kind of a failure. The codes below are errors to compare with: errors.Is(err, livedisk.ErrBusy).
type Code int32

// What can be wrong, and what to do about it.
const (
	// An argument is invalid: nil, an unknown flag or value, text that is not UTF-8, no disks. Correct the call.
	ErrInvalidArgument Code = C.LIVEDISK_ERR_INVALID_ARGUMENT
	// libvirt cannot be reached. Check the URI and the daemon, then open again.
	ErrNoConnection Code = C.LIVEDISK_ERR_NO_CONNECTION
	// There is no such domain on this connection. Check the name or UUID.
	ErrNoDomain Code = C.LIVEDISK_ERR_NO_DOMAIN
	// The domain has no such disk, or the disk has no medium. Check the disk target.
	ErrNoDisk Code = C.LIVEDISK_ERR_NO_DISK
	// The domain is not running, is paused, or was shut off under the operation. Start or resume it and try again.
	ErrDomainState Code = C.LIVEDISK_ERR_DOMAIN_STATE
	// A block job, backup, freeze or operation is in the way. Wait for it or end it, then try again.
	ErrBusy Code = C.LIVEDISK_ERR_BUSY
	// This libvirt, QEMU, disk, format or version of livedisk cannot do it. Ask for something else.
	ErrUnsupported Code = C.LIVEDISK_ERR_UNSUPPORTED
	// Quiescing is required and no guest agent answers. Start the agent in the guest, or ask for less.
	ErrAgent Code = C.LIVEDISK_ERR_AGENT
	// Freeze or thaw failed, or the freeze limit was passed. The operation was rolled back. Try again, perhaps with a
	// higher limit.
	ErrFreeze Code = C.LIVEDISK_ERR_FREEZE
	// The destination exists, has the wrong size or format, or cannot be reached. Name another one, or fix this one.
	ErrDestination Code = C.LIVEDISK_ERR_DESTINATION
	// The destination's file system is full. Make room, or name another destination.
	ErrNoSpace Code = C.LIVEDISK_ERR_NO_SPACE
	// livedisk or QEMU may not read or write a path. Fix its owner, mode or security label.
	ErrPermission Code = C.LIVEDISK_ERR_PERMISSION
	// A block job failed in QEMU, for the reason in the message. The operation was rolled back.
	ErrJobFailed Code = C.LIVEDISK_ERR_JOB_FAILED
	// The operation was cancelled and rolled back.
	ErrCancelled Code = C.LIVEDISK_ERR_CANCELLED
	// The wait ended and the operation continues. Wait again, or cancel.
	ErrTimeout Code = C.LIVEDISK_ERR_TIMEOUT
	// There is no such operation, or it is over. Nothing is left to do.
	ErrNoOperation Code = C.LIVEDISK_ERR_NO_OPERATION
	// The copy failed its check, or differs from the source. It was removed.
	ErrVerify Code = C.LIVEDISK_ERR_VERIFY
	// Any other libvirt error; LibvirtCode of the [Error] has its number.
	ErrLibvirt Code = C.LIVEDISK_ERR_LIBVIRT
	// A file could not be read or written.
	ErrIO Code = C.LIVEDISK_ERR_IO
	// A bug in livedisk. Please report it.
	ErrInternal Code = C.LIVEDISK_ERR_INTERNAL
	// A checkpoint's bitmap is missing or inconsistent. Take a full backup.
	ErrCheckpoint Code = C.LIVEDISK_ERR_CHECKPOINT
	// The domain has no checkpoint of that name. Check the name.
	ErrNoCheckpoint Code = C.LIVEDISK_ERR_NO_CHECKPOINT
)

var codeNames = map[Code]string{
	ErrInvalidArgument: "invalid argument",
	ErrNoConnection:    "no connection",
	ErrNoDomain:        "no such domain",
	ErrNoDisk:          "no such disk",
	ErrDomainState:     "wrong state of the domain",
	ErrBusy:            "busy",
	ErrUnsupported:     "unsupported",
	ErrAgent:           "no guest agent",
	ErrFreeze:          "freeze failed",
	ErrDestination:     "unusable destination",
	ErrNoSpace:         "no space",
	ErrPermission:      "permission denied",
	ErrJobFailed:       "block job failed",
	ErrCancelled:       "cancelled",
	ErrTimeout:         "timeout",
	ErrNoOperation:     "no operation",
	ErrVerify:          "verification failed",
	ErrLibvirt:         "libvirt error",
	ErrIO:              "input/output error",
	ErrInternal:        "internal error",
	ErrCheckpoint:      "unusable checkpoint",
	ErrNoCheckpoint:    "no such checkpoint",
}

// Error names the kind in a few words, or its number where a newer library has codes that this package does not know.
func (c Code) Error() string {
	if name, known := codeNames[c]; known {
		return "livedisk: " + name
	}
	return fmt.Sprintf("livedisk: error %d", int32(c))
}

// Name returns the code's name in the C header, such as "NO_SPACE"; "unknown" for a code that the C library does not know,
// or where the library is older than 0.2.
func (c Code) Name() string {
	if needs("Name") != nil {
		return "unknown"
	}
	return C.GoString(C.livedisk_go_error_name(C.int32_t(c)))
}

// Error is a failure that livedisk reports.
type Error struct {
	// Code is the kind; errors.Is finds it.
	Code Code
	// Message is one line: what failed, on which domain, disk or path, why, and what to do.
	Message string
	// LibvirtCode is the virErrorNumber that caused the failure, 0 where libvirt did not fail.
	LibvirtCode int
	// What came from Go and made the operation fail: a clone function's error, a context's.
	cause error
}

// Error returns the message.
func (e *Error) Error() string {
	if e.cause == nil {
		return e.Message
	}
	return e.Message + ": " + e.cause.Error()
}

// Unwrap returns the code and, where Go code made the operation fail (a clone function, a context), that error.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.cause}
}

// check makes a C call and takes over its error object.
func check(call func(failure **C.struct_livedisk_error) C.int32_t) error {
	var failure *C.struct_livedisk_error
	code := call(&failure)
	if code == C.LIVEDISK_OK {
		return nil
	}
	defer C.livedisk_error_free(failure)
	return &Error{
		Code:        Code(code),
		Message:     C.GoString(C.livedisk_error_message(failure)),
		LibvirtCode: int(C.livedisk_error_libvirt_code(failure)),
	}
}

func invalid(format string, arguments ...any) error {
	return &Error{Code: ErrInvalidArgument, Message: fmt.Sprintf(format, arguments...)}
}

func closed(what string) error {
	return fmt.Errorf("livedisk: the %s is closed: %w", what, os.ErrClosed)
}
