// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

// An operation is listed while it runs and after it was released, and a dry run of recovering counts it.
func TestOperations(t *testing.T) {
	connection, ctx := open(t), within(t, time.Minute)
	domain := bed.WithoutAgent.Domain(t)
	listed := func(of string, count int) []livedisk.OperationInfo {
		t.Helper()
		found, err := connection.Operations(ctx, of)
		if err != nil || len(found) != count {
			t.Fatalf("on '%s' it lists %+v (%v), expected %d", of, found, err, count)
		}
		return found
	}
	listed("", 0)
	operation, path := start(t, connection, bed.WithoutAgent, slow)
	// The phase begins before the job does.
	for progress := range operation.Progress() {
		if progress.BytesTotal > 0 {
			break
		}
	}
	listed(bed.WithAgent.Domain(t), 0)
	found := listed("", 1)[0]
	host, _ := os.Hostname()
	if found.Domain != domain || found.ID == "" || found.OwnerHost != host || found.OwnerProcess != os.Getpid() ||
		found.IsMigration || found.Method != livedisk.MethodMirror || found.Orphaned || found.BytesTotal == 0 ||
		len(found.Disks) != 1 || found.Disks[0] != (livedisk.OperationDisk{Target: "vda", Destination: path}) ||
		time.Since(found.Started) > time.Minute {
		t.Errorf("it lists %+v", found)
	}
	if recovery, err := connection.RecoverDryRun(ctx, ""); err != nil || recovery != (livedisk.Recovery{}) {
		t.Errorf("of what runs it would recover %+v, %v", recovery, err)
	}
	operation.Close()
	if left := listed(domain, 1)[0]; !left.Orphaned || left.ID != found.ID {
		t.Errorf("after it was released it lists %+v", left)
	}
	expected := livedisk.Recovery{Domains: 1, TakenBack: 1}
	if recovery, err := connection.RecoverDryRun(ctx, domain); err != nil || recovery != expected {
		t.Errorf("it would recover %+v, %v", recovery, err)
	}
	listed(domain, 1)
	recovered(t, connection, domain, expected)
	listed("", 0)
	if _, err := connection.Operations(ctx, "nobody"); !errors.Is(err, livedisk.ErrNoDomain) {
		t.Errorf("of a domain that there is not: %v", err)
	}
	if _, err := connection.Operations(ctx, "zero\x00"); !errors.Is(err, livedisk.ErrInvalidArgument) {
		t.Errorf("with a zero byte: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := connection.Operations(ended, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	bed.WithoutAgent.CheckClean(t)
}

// A cancel that does not wait.
func TestRequestCancel(t *testing.T) {
	connection, ctx := open(t), within(t, time.Minute)
	operation, path := start(t, connection, bed.WithoutAgent, slow)
	if _, err := operation.Wait(ctx, livedisk.PhaseCopying); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := operation.RequestCancel(); err != nil {
			t.Fatal(err)
		}
	}
	if progress, err := operation.Wait(ctx, livedisk.PhaseDone); err != nil || progress.Phase != livedisk.PhaseCancelled {
		t.Errorf("it ends in %v, %v", progress.Phase, err)
	}
	if _, err := operation.Finish(ctx); !errors.Is(err, livedisk.ErrCancelled) {
		t.Errorf("Finish says %v", err)
	}
	cancelled(t, operation, bed.WithoutAgent, path)
	operation.Close()
	if err := operation.RequestCancel(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed it says %v", err)
	}

	dry, err := connection.StartLiveSnapshot(ctx, bed.WithoutAgent.Domain(t), livedisk.SnapshotOptions{
		Disks: []livedisk.SnapshotDisk{{Target: "vda", Destination: path}}, DryRun: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	takeBack(t, dry)
	if err := dry.RequestCancel(); !errors.Is(err, livedisk.ErrNoOperation) {
		t.Errorf("of one that is complete it says %v", err)
	}
}
