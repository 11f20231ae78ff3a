// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "callbacks.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"
)

// Operation is an operation on a running guest. It runs by itself; this handle watches and controls it. Close it when
// it is over, or to let it continue without this process.
type Operation struct {
	// Not part of the watch, which lives as long as the operation runs: a dropped Operation can be noticed.
	*shared
}

type shared struct {
	handle handle[*C.struct_livedisk_operation]
	watch  *watch
	clone  *clone
	domain string
}

// Warnings is what a finished operation warns of: any of the values below together.
type Warnings uint32

const (
	// livedisk read an image by its name and could not confirm that QEMU has that same file open, because neither
	// QEMU's open files nor its locks could be inspected. If another file had taken the name, that file was copied. The
	// log names the image.
	WarningUnidentifiedImage Warnings = C.LIVEDISK_WARNING_UNIDENTIFIED_IMAGE
	// The old image had a `<seclabel>` of its own, which the new one lacks. Add it to the definition before the
	// domain's next start.
	WarningLabelLost Warnings = C.LIVEDISK_WARNING_LABEL_LOST
	// The disk moved by a clone, and QEMU no longer detects zeroes in the guest's writes to it (detect_zeroes) until
	// the domain's next start.
	WarningZeroesUndetected Warnings = C.LIVEDISK_WARNING_ZEROES_UNDETECTED
	// The source was to be removed and was kept: it is not a file, or its name now leads to another file.
	WarningSourceKept Warnings = C.LIVEDISK_WARNING_SOURCE_KEPT
)

// Report is what a finished operation did.
type Report struct {
	// The method used.
	Method Method
	// What the images can be relied on for.
	Consistency Consistency
	// How many file systems were frozen.
	FilesystemsFrozen int
	// How many disks were copied.
	DiskCount int
	// The moment whose content the images have. They hold every write that was acknowledged to the guest before it;
	// without a freeze they may hold a little more. Zero for a dry run.
	PointInTime time.Time
	// Time from sending the freeze request to the answer to the thaw; 0: not frozen.
	Freeze time.Duration
	// How long the vCPUs were paused, to give several mirrors one point in time; 0: not paused.
	Pause time.Duration
	// Bytes copied, over all disks.
	BytesCopied uint64
	// Time from start to end.
	Elapsed time.Duration
	// Disks copied whole although Since was given.
	FullDisks int
	// The warnings that apply; 0: none.
	Warnings Warnings
}

func newOperation(object *C.struct_livedisk_operation, domain string, clone *clone) (*Operation, error) {
	made := &shared{clone: clone, domain: domain}
	made.handle.what = fmt.Sprintf("operation on domain '%s'", domain)
	made.handle.object = object
	var err error
	if made.watch, err = newWatch(&made.handle, clone.release); err != nil {
		// It cannot be watched, so it does not stay either.
		failure := check(func(failure **C.struct_livedisk_error) C.int32_t { return C.livedisk_cancel(object, failure) })
		C.livedisk_operation_free(object)
		clone.release()
		return nil, errors.Join(err, failure)
	}
	operation := &Operation{made}
	reportLeak(operation, fmt.Sprintf("an Operation on domain '%s'", domain))
	return operation, nil
}

func (o *Operation) usable() error {
	if o == nil || o.shared == nil {
		return closed("operation")
	}
	return nil
}

// Poll returns what the operation last saw, without waiting. It makes no libvirt call.
//
// Any phase. It fails with [os.ErrClosed], or with [ErrInternal] (close the handle).
func (o *Operation) Poll() (Progress, error) {
	if err := o.usable(); err != nil {
		return Progress{}, err
	}
	if o.watch.look() {
		return o.watch.wait(context.Background(), PhaseDone)
	}
	o.watch.mutex.Lock()
	defer o.watch.mutex.Unlock()
	return o.watch.progress, nil
}

// Progress returns a channel with the operation's progress: the current one at once, then each new one. A slow receiver
// gets only the latest. The channel is closed after the final phase, and when the operation is closed; it need not be
// drained. Each call returns a new channel.
//
// Any phase.
func (o *Operation) Progress() <-chan Progress {
	if o.usable() != nil {
		none := make(chan Progress)
		close(none)
		return none
	}
	return o.watch.subscribe()
}

// Wait waits until the phase is reached or passed, or the operation is over, and returns the progress there; see in its
// Phase which it was. [Operation.Finish] reports why an operation failed.
//
// Any phase. It fails with the context's error, [os.ErrClosed], or [ErrInternal] (close the handle).
func (o *Operation) Wait(ctx context.Context, phase Phase) (Progress, error) {
	if err := o.usable(); err != nil {
		return Progress{}, err
	}
	return o.watch.wait(ctx, phase)
}

// Finish waits for [PhaseReady] if necessary, completes the operation, and reports. Once done, it returns the same
// report again.
//
// If the context ends first, its error is returned and the operation is left as it is: before PhaseReady it stays
// unfinished and waits for another Finish; later it continues to its end by itself. [Operation.FinishOrCancel] rolls it
// back instead.
//
// Any phase. It fails with the context's error, [os.ErrClosed], [ErrCancelled] (it was cancelled and rolled back), or with
// what made the operation fail, after it was rolled back: [ErrDomainState], [ErrFreeze], [ErrDestination],
// [ErrNoSpace], [ErrPermission], [ErrJobFailed], [ErrVerify], [ErrNoConnection], [ErrLibvirt], [ErrIO], [ErrInternal]
// (see the message for what to do, then start again).
func (o *Operation) Finish(ctx context.Context) (Report, error) {
	if _, err := o.Wait(ctx, PhaseReady); err != nil {
		return Report{}, err
	}
	report, err := o.outcome()
	if !errors.Is(err, ErrTimeout) {
		return report, err
	}
	// It is on its way now.
	if _, err := o.Wait(ctx, PhaseDone); err != nil {
		return Report{}, err
	}
	return o.outcome()
}

// FinishOrCancel is [Operation.Finish], but if the context ends first, it cancels the operation and waits until it is
// rolled back. Its error then is both [ErrCancelled] and the context's. An operation that was complete before is
// reported without an error.
//
// Any phase. Otherwise it fails as Finish, or with what could not be rolled back, joined with the context's error.
func (o *Operation) FinishOrCancel(ctx context.Context) (Report, error) {
	report, err := o.Finish(ctx)
	if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		return report, err
	}
	all := context.WithoutCancel(ctx)
	failure := o.Cancel(all)
	if errors.Is(failure, ErrNoOperation) {
		return o.Finish(all)
	}
	if failure != nil {
		return Report{}, errors.Join(failure, ctx.Err())
	}
	return Report{}, &Error{
		Code:    ErrCancelled,
		Message: fmt.Sprintf("the operation on domain '%s' was cancelled and rolled back", o.domain),
		cause:   ctx.Err(),
	}
}

// outcome asks for completion and does not wait for it.
func (o *Operation) outcome() (Report, error) {
	operation, err := o.handle.enter()
	if err != nil {
		return Report{}, err
	}
	defer o.handle.leave()
	var found C.struct_livedisk_report
	err = check(func(failure **C.struct_livedisk_error) C.int32_t {
		return C.livedisk_finish(operation, 0, &found, C.size_t(unsafe.Sizeof(found)), failure)
	})
	if failure := (*Error)(nil); errors.As(err, &failure) && failure.Code == ErrJobFailed {
		failure.cause = o.clone.failure()
	}
	if err != nil {
		return Report{}, err
	}
	report := Report{
		Method:            Method(found.method),
		Consistency:       Consistency(found.consistency),
		FilesystemsFrozen: int(found.filesystems_frozen),
		DiskCount:         int(found.disk_count),
		Freeze:            time.Duration(found.freeze_ns),
		Pause:             time.Duration(found.pause_ns),
		BytesCopied:       uint64(found.bytes_copied),
		Elapsed:           time.Duration(found.elapsed_ns),
		FullDisks:         int(found.full_disks),
		Warnings:          Warnings(found.warnings),
	}
	if found.point_in_time_ns != 0 {
		report.PointInTime = time.Unix(0, int64(found.point_in_time_ns))
	}
	return report, nil
}

// Cancel rolls the operation back and waits until that is done: jobs are ended, the guest is thawed, disk chain and
// definition are as before, and the files that the operation made are removed. Nothing else is touched. An operation
// that was cancelled or failed is rolled back already.
//
// Any phase. It fails with the context's error, [os.ErrClosed], [ErrNoOperation] (it was complete: its images are yours
// to remove; a migration after its pivot is completed), or with what could not be rolled back (the message says what is
// left and where).
func (o *Operation) Cancel(ctx context.Context) error {
	if err := o.usable(); err != nil {
		return err
	}
	operation, err := o.handle.enter()
	if err != nil {
		return err
	}
	_, err = await(ctx, &o.handle, func() (none struct{}, err error) {
		return none, check(func(failure **C.struct_livedisk_error) C.int32_t {
			return C.livedisk_cancel(operation, failure)
		})
	}, func(struct{}) {})
	return err
}

// RequestCancel requests what [Operation.Cancel] does, and returns at once. [Operation.Wait] and the channel of
// [Operation.Progress] show when it is over: the phase is then [PhaseCancelled], and [Operation.Finish] returns
// [ErrCancelled]. [PhaseDone] means that the request came too late. [PhaseFailed] means that not everything could be
// rolled back; [Operation.Finish] reports what is left. A second request does nothing.
//
// Any phase. It fails with [os.ErrClosed], [ErrNoOperation] (it was complete: its images are yours to remove), or
// [ErrInternal] (close the handle).
func (o *Operation) RequestCancel() error {
	if err := o.usable(); err != nil {
		return err
	}
	if err := needs("RequestCancel"); err != nil {
		return err
	}
	operation, err := o.handle.enter()
	if err != nil {
		return err
	}
	defer o.handle.leave()
	return check(func(failure **C.struct_livedisk_error) C.int32_t {
		return C.livedisk_go_request_cancel(operation, failure)
	})
}

// Close frees the handle. It does not end the operation: one that runs is neither completed nor rolled back; QEMU's
// jobs continue, and the domain is busy until it is resolved by [Connection.Attach] or [Connection.Recover]. So Finish
// or Cancel first. In the freeze window it returns after the thaw. Calls that wait return [os.ErrClosed], and channels
// of Progress are closed; a Cancel in progress is waited for. Closing again does nothing. It returns nil.
func (o *Operation) Close() error {
	if o.usable() != nil || !o.handle.close() {
		return nil
	}
	o.watch.end(closed(o.handle.what))
	o.watch.stop()
	<-o.watch.ended
	o.handle.drain()
	C.livedisk_operation_free(o.handle.object)
	o.clone.release()
	runtime.SetFinalizer(o, nil)
	return nil
}
