// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"context"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

// Slow enough that a copy of vda takes far longer than any test waits.
const slow = 1 << 20

func open(t testing.TB, flags ...livedisk.OpenFlag) *livedisk.Connection {
	t.Helper()
	connection, err := livedisk.Open(bed.URI(t), flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

// within bounds a test's waits.
func within(t testing.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// start snapshots vda; what the test leaves running is rolled back.
func start(t testing.TB, connection *livedisk.Connection, guest bed.Guest, bandwidth uint64) (*livedisk.Operation, string) {
	t.Helper()
	path := bed.Path(t, "vda.qcow2")
	operation, err := connection.StartLiveSnapshot(within(t, time.Minute), guest.Domain(t), livedisk.SnapshotOptions{
		Disks:     []livedisk.SnapshotDisk{{Target: "vda", Destination: path}},
		Bandwidth: bandwidth,
	})
	if err != nil {
		t.Fatal(err)
	}
	takeBack(t, operation)
	return operation, path
}

func takeBack(t testing.TB, operation *livedisk.Operation) {
	t.Cleanup(func() {
		_ = operation.Cancel(context.Background())
		operation.Close()
	})
}

// cancelled rolls the operation back now, and verifies that nothing is left.
func cancelled(t testing.TB, operation *livedisk.Operation, guest bed.Guest, path string) {
	t.Helper()
	if err := operation.Cancel(within(t, time.Minute)); err != nil {
		t.Fatalf("Cancel: %v", err)
	}
	if progress, err := operation.Poll(); err != nil || progress.Phase != livedisk.PhaseCancelled {
		t.Errorf("after Cancel the phase is %v (%v)", progress.Phase, err)
	}
	if bed.Exists(path) {
		t.Errorf("%s is left", path)
	}
	guest.CheckClean(t)
}
