// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

// prompt is what a wait may take to end, on a busy machine.
const prompt = 30 * time.Second

// A deadline ends the wait and nothing else; the operation is not even asked to finish.
func TestFinishDeadline(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	operation, path := start(t, connection, bed.WithoutAgent, slow)
	began := time.Now()
	_, err := operation.Finish(within(t, 300*time.Millisecond))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Finish says %v", err)
	}
	if took := time.Since(began); took < 300*time.Millisecond || took > prompt {
		t.Errorf("Finish took %v", took)
	}
	if progress, err := operation.Poll(); err != nil || progress.Phase.Final() {
		t.Errorf("the operation is %v: %v", progress, err)
	}
	cancelled(t, operation, bed.WithoutAgent, path)
}

// An operation whose Finish was given up at READY is still there, and finishes for the next who asks.
func TestFinishAfterDeadline(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	operation, path := start(t, connection, bed.WithoutAgent, 0)
	ended, end := context.WithCancel(context.Background())
	end()
	if _, err := operation.Finish(ended); err != context.Canceled {
		t.Errorf("Finish with a context that has ended says %v", err)
	}
	if progress, err := operation.Wait(within(t, time.Minute), livedisk.PhaseReady); err != nil || progress.Phase != livedisk.PhaseReady {
		t.Fatalf("waiting for ready ended at %v: %v", progress.Phase, err)
	}
	// It was not asked to finish.
	if progress, err := operation.Wait(within(t, time.Second), livedisk.PhaseFinishing); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it went on to %v: %v", progress.Phase, err)
	}
	record := bed.WithoutAgent.LastRecord(t, "vda")
	if _, err := operation.Finish(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	bed.CheckImage(t, path, "qcow2", false, record)
}

// Cancel from another goroutine ends each wait with its own word.
func TestCancelEndsWaits(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	operation, path := start(t, connection, bed.WithoutAgent, slow)
	all := context.Background()
	finished, waited, streamed := make(chan error), make(chan livedisk.Phase), make(chan livedisk.Phase)
	go func() {
		_, err := operation.Finish(all)
		finished <- err
	}()
	go func() {
		progress, _ := operation.Wait(all, livedisk.PhaseDone)
		waited <- progress.Phase
	}()
	go func() {
		var last livedisk.Phase
		for progress := range operation.Progress() {
			last = progress.Phase
		}
		streamed <- last
	}()
	time.Sleep(200 * time.Millisecond)
	cancelled(t, operation, bed.WithoutAgent, path)
	if err := <-finished; !errors.Is(err, livedisk.ErrCancelled) {
		t.Errorf("Finish says %v", err)
	}
	if phase := <-waited; phase != livedisk.PhaseCancelled {
		t.Errorf("Wait ends at %v", phase)
	}
	if phase := <-streamed; phase != livedisk.PhaseCancelled {
		t.Errorf("the channel ends with %v", phase)
	}
	// Again: it is rolled back already.
	if err := operation.Cancel(all); err != nil {
		t.Errorf("cancelled again it says %v", err)
	}
}

// A context that has ended still requests the rollback.
func TestCancelDoesNotWait(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	operation, path := start(t, connection, bed.WithoutAgent, slow)
	ended, end := context.WithCancel(context.Background())
	end()
	if err := operation.Cancel(ended); err != nil && err != context.Canceled {
		t.Errorf("Cancel says %v", err)
	}
	progress, err := operation.Wait(within(t, time.Minute), livedisk.PhaseDone)
	if err != nil || progress.Phase != livedisk.PhaseCancelled {
		t.Errorf("it ends at %v: %v", progress.Phase, err)
	}
	cancelled(t, operation, bed.WithoutAgent, path)
}

func TestFinishOrCancel(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	operation, path := start(t, connection, bed.WithoutAgent, slow)
	_, err := operation.FinishOrCancel(within(t, 300*time.Millisecond))
	if !errors.Is(err, livedisk.ErrCancelled) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it says %v", err)
	}
	cancelled(t, operation, bed.WithoutAgent, path)

	whole, path := start(t, connection, bed.WithAgent, 0)
	if _, err := whole.FinishOrCancel(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	bed.CheckImage(t, path, "qcow2", true, 1)
	// It was complete: the context comes too late.
	ended, end := context.WithCancel(context.Background())
	end()
	if report, err := whole.FinishOrCancel(ended); err != nil && !errors.Is(err, context.Canceled) || err == nil && report.DiskCount != 1 {
		t.Errorf("what is complete says %+v, %v", report, err)
	}
	if !bed.Exists(path) {
		t.Errorf("%s was taken away", path)
	}
}

// A context that ends while a start is under way leaves no operation.
func TestStartIsInterrupted(t *testing.T) {
	connection, err := livedisk.Open(bed.URI(t), livedisk.RunEventLoop)
	if err != nil {
		t.Fatal(err)
	}
	for limit := time.Duration(0); limit < 40*time.Millisecond; limit += 8 * time.Millisecond {
		path := bed.Path(t, "vda.qcow2")
		began := time.Now()
		operation, err := connection.StartLiveSnapshot(within(t, limit), bed.WithoutAgent.Domain(t), livedisk.SnapshotOptions{
			Disks: []livedisk.SnapshotDisk{{Target: "vda", Destination: path}}, Bandwidth: slow,
		})
		switch {
		case err == nil:
			takeBack(t, operation)
			cancelled(t, operation, bed.WithoutAgent, path)
		case !errors.Is(err, context.DeadlineExceeded):
			// The one before is not rolled back yet.
			if !errors.Is(err, livedisk.ErrBusy) {
				t.Errorf("the start says %v", err)
			}
		case time.Since(began) > limit+prompt:
			t.Errorf("the start took %v", time.Since(began))
		}
	}
	// It waits for what goes on in the background.
	connection.Close()
	bed.WithoutAgent.CheckClean(t)
}

func threads(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\nThreads:")
	line, _, _ := strings.Cut(rest, "\n")
	count, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// 200 goroutines wait for three operations, and no thread waits with them.
func TestWaitingCostsNoThreads(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	guests := []bed.Guest{bed.WithAgent, bed.WithoutAgent, bed.Third}
	operations, paths := make([]*livedisk.Operation, len(guests)), make([]string, len(guests))
	for i, guest := range guests {
		operations[i], paths[i] = start(t, connection, guest, slow)
	}
	before := threads(t)
	ctx, end := context.WithCancel(context.Background())
	var waiting sync.WaitGroup
	outcomes := make(chan error, 200)
	for i := range 200 {
		operation := operations[i%len(operations)]
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			var err error
			switch i % 4 {
			case 0:
				_, err = operation.Wait(ctx, livedisk.PhaseReady)
			case 1:
				progress := operation.Progress()
				for err == nil {
					select {
					case <-progress:
					case <-ctx.Done():
						err = ctx.Err()
					}
				}
			default:
				_, err = operation.Finish(ctx)
			}
			outcomes <- err
		}()
	}
	// Long enough for several lots of progress to wake them all.
	time.Sleep(2 * time.Second)
	during := threads(t)
	t.Logf("%d threads before, %d with %d goroutines", before, during, runtime.NumGoroutine())
	// The runtime may have started one for each processor meanwhile, and a few of its own.
	if during > before+runtime.GOMAXPROCS(0)+4 {
		t.Errorf("%d threads became %d", before, during)
	}
	end()
	began := time.Now()
	waiting.Wait()
	if took := time.Since(began); took > prompt {
		t.Errorf("the waits took %v to end", took)
	}
	close(outcomes)
	for err := range outcomes {
		if err != context.Canceled {
			t.Errorf("a wait ended with %v", err)
		}
	}
	for i, guest := range guests {
		cancelled(t, operations[i], guest, paths[i])
	}
}
