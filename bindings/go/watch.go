// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "livedisk.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Progress is how far an operation is.
type Progress struct {
	// The [Phase]. It never goes back.
	Phase Phase
	// Step and StepCount: steps completed, and steps in total.
	Step, StepCount int
	// Bytes copied, over all disks.
	BytesDone uint64
	// Bytes to copy, as far as known now; grows while the guest writes.
	BytesTotal uint64
	// Current transfer rate, bytes per second.
	BytesPerSecond uint64
	// Time since the start.
	Elapsed time.Duration
	// Bytes per second to which the guest's writes to the disk are throttled, because its job cannot keep up
	// (migrations, and snapshots by [MethodClone]); 0: not throttled.
	GuestWriteLimit uint64
}

// watch reports to all waiting calls what the operation's descriptor announces. One goroutine waits on it, in the runtime's
// poller; it is the only one that livedisk_poll must reach in time, so every look goes through here.
type watch struct {
	operation *handle[*C.struct_livedisk_operation]
	// A descriptor of Go's own, because the runtime closes what it polls.
	file *os.File
	// Closed when the goroutine has ended.
	ended chan struct{}
	// The operation makes no more calls back.
	over func()

	mutex    sync.Mutex
	progress Progress
	// Why nothing more comes though the phase is not final.
	err error
	// Closed, and replaced, with each news.
	news        chan struct{}
	subscribers []chan Progress
}

func newWatch(operation *handle[*C.struct_livedisk_operation], over func()) (*watch, error) {
	descriptor, _, number := syscall.Syscall(syscall.SYS_FCNTL,
		uintptr(C.livedisk_operation_fd(operation.object)), syscall.F_DUPFD_CLOEXEC, 0)
	if number != 0 {
		return nil, fmt.Errorf("livedisk: cannot duplicate the operation's descriptor: %w", number)
	}
	w := &watch{
		operation: operation,
		file:      os.NewFile(descriptor, "livedisk operation"),
		ended:     make(chan struct{}),
		over:      over,
		news:      make(chan struct{}),
	}
	raw, err := w.file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("livedisk: cannot watch the operation's descriptor: %w", err)
	}
	w.look()
	go w.run(raw)
	return w, nil
}

func (w *watch) run(raw syscall.RawConn) {
	defer close(w.ended)
	defer w.file.Close()
	// The poller reports edges, so each look comes after it was armed. The look itself makes the descriptor unreadable.
	err := raw.Read(func(uintptr) bool { return w.look() })
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.end(fmt.Errorf("livedisk: cannot watch the operation's descriptor: %w", err))
	}
}

// stop ends the goroutine.
func (w *watch) stop() {
	// It fails where the goroutine has ended by itself.
	_ = w.file.SetReadDeadline(time.Unix(1, 0))
}

// look asks the operation, reports what is new, and says whether nothing more will come.
func (w *watch) look() bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.isOver() {
		return true
	}
	operation, err := w.operation.enter()
	if err != nil {
		return true
	}
	defer w.operation.leave()
	var seen C.struct_livedisk_progress
	err = check(func(failure **C.struct_livedisk_error) C.int32_t {
		return C.livedisk_poll(operation, 0, &seen, C.size_t(unsafe.Sizeof(seen)), failure)
	})
	if err != nil {
		w.conclude(err)
		return true
	}
	before := w.progress
	w.progress = Progress{
		Phase:           Phase(seen.phase),
		Step:            int(seen.step),
		StepCount:       int(seen.step_count),
		BytesDone:       uint64(seen.bytes_done),
		BytesTotal:      uint64(seen.bytes_total),
		BytesPerSecond:  uint64(seen.bytes_per_second),
		Elapsed:         time.Duration(seen.elapsed_ns),
		GuestWriteLimit: uint64(seen.guest_write_limit),
	}
	// Time alone is no news.
	before.Elapsed = w.progress.Elapsed
	if w.progress != before {
		w.announce()
	}
	if w.progress.Phase.Final() {
		w.conclude(nil)
		// Another goroutine than the watch's may have been the one to look.
		w.stop()
	}
	return w.isOver()
}

func (w *watch) isOver() bool {
	return w.err != nil || w.progress.Phase.Final()
}

// announce wakes all waiting calls. A subscriber that lags behind finds the latest progress only.
func (w *watch) announce() {
	close(w.news)
	w.news = make(chan struct{})
	for _, subscriber := range w.subscribers {
		select {
		case <-subscriber:
		default:
		}
		subscriber <- w.progress
	}
}

func (w *watch) conclude(err error) {
	w.err = err
	close(w.news)
	w.news = make(chan struct{})
	for _, subscriber := range w.subscribers {
		close(subscriber)
	}
	w.subscribers = nil
	if w.progress.Phase.Final() {
		w.over()
	}
}

// end reports to all calls, waiting and later ones, that nothing more comes.
func (w *watch) end(err error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.isOver() {
		w.err = err
	} else {
		w.conclude(err)
	}
}

func (w *watch) subscribe() <-chan Progress {
	// The sender is alone and makes room first, so it never waits.
	subscriber := make(chan Progress, 1)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	subscriber <- w.progress
	if w.isOver() {
		close(subscriber)
	} else {
		w.subscribers = append(w.subscribers, subscriber)
	}
	return subscriber
}

// wait returns when the phase is reached or passed.
func (w *watch) wait(ctx context.Context, phase Phase) (Progress, error) {
	for {
		w.mutex.Lock()
		progress, err, news := w.progress, w.err, w.news
		w.mutex.Unlock()
		switch {
		case err != nil:
			return progress, err
		case progress.Phase >= phase || progress.Phase.Final():
			return progress, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return progress, ctx.Err()
		}
	}
}
