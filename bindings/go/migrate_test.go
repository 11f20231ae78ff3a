// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

func copyFile(source, destination string) error {
	from, err := os.Open(source)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(destination, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		return errors.Join(err, to.Close())
	}
	return to.Close()
}

// moveHome moves vda to where it was before, so that other tests find the guest as it was.
func moveHome(t *testing.T, ctx context.Context, connection *livedisk.Connection, guest bed.Guest, home string, options livedisk.MigrateOptions) livedisk.Report {
	t.Helper()
	if err := os.Remove(home); err != nil {
		t.Fatal(err)
	}
	options.Target, options.Destination, options.DeleteSource = "vda", home, true
	operation, err := connection.MigrateDisk(ctx, guest.Domain(t), options)
	if err != nil {
		t.Fatal(err)
	}
	takeBack(t, operation)
	report, err := operation.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// The disk moves by the caller's own clone, which uses the operation meanwhile, and back.
func TestMigrate(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	ctx := within(t, 2*time.Minute)
	guest := bed.Third
	home := strings.Fields(bed.Virsh(t, "domblklist", guest.Domain(t)))[1]
	path := bed.Path(t, "moved.qcow2")
	var calls atomic.Int32
	running := make(chan *livedisk.Operation, 1)
	operation, err := connection.MigrateDisk(ctx, guest.Domain(t), livedisk.MigrateOptions{
		Target: "vda", Destination: path, Method: livedisk.MethodClone, Clone: livedisk.CloneCallback, Verify: true,
		CloneFunc: func(source, destination string) error {
			calls.Add(1)
			if destination != path || source != home {
				t.Errorf("asked to clone %s to %s", source, destination)
			}
			if progress, err := (<-running).Poll(); err != nil || progress.Phase.Final() {
				t.Errorf("a poll within the clone says %v, %v", progress, err)
			}
			return copyFile(source, destination)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	running <- operation
	takeBack(t, operation)
	report, err := operation.Finish(ctx)
	if err != nil || report.Method != livedisk.MethodClone || report.DiskCount != 1 || report.Freeze != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	if calls.Load() != 1 {
		t.Errorf("the clone function was called %d times", calls.Load())
	}
	if err := operation.Cancel(ctx); !errors.Is(err, livedisk.ErrNoOperation) {
		t.Errorf("cancelling what is complete says %v", err)
	}
	if now := bed.Virsh(t, "domblklist", guest.Domain(t)); !strings.Contains(now, path) {
		t.Errorf("the disk is not at %s: %s", path, now)
	}
	guest.CheckClean(t)

	report = moveHome(t, ctx, connection, guest, home, livedisk.MigrateOptions{Method: livedisk.MethodMirror, AutoFinish: true})
	if report.Method != livedisk.MethodMirror {
		t.Fatalf("%+v", report)
	}
	if bed.Exists(path) {
		t.Errorf("%s is left", path)
	}
	guest.CheckClean(t)
}

// A clone function's own error is found in the operation's.
func TestCloneFails(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	path := bed.Path(t, "never.qcow2")
	noArray := errors.New("the array does not answer")
	operation, err := connection.MigrateDisk(within(t, time.Minute), bed.WithoutAgent.Domain(t), livedisk.MigrateOptions{
		Target: "vda", Destination: path, Method: livedisk.MethodClone, Clone: livedisk.CloneCallback,
		CloneFunc: func(string, string) error { return noArray },
	})
	if err != nil {
		t.Fatal(err)
	}
	takeBack(t, operation)
	_, err = operation.Finish(within(t, time.Minute))
	if !errors.Is(err, livedisk.ErrJobFailed) || !errors.Is(err, noArray) || !strings.Contains(err.Error(), noArray.Error()) {
		t.Errorf("%v", err)
	}
	if err := operation.Cancel(context.Background()); err != nil {
		t.Errorf("cancelling what has failed says %v", err)
	}
	if bed.Exists(path) {
		t.Errorf("%s is left", path)
	}
	bed.WithoutAgent.CheckClean(t)
}
