// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

// Two disks of a guest that writes, to one point in time.
func TestSnapshot(t *testing.T) {
	for name, test := range map[string]struct {
		flags  []livedisk.OpenFlag
		method livedisk.Method
		auto   bool
	}{
		"mirror":         {[]livedisk.OpenFlag{livedisk.RunEventLoop}, livedisk.MethodMirror, false},
		"mirror polled":  {nil, livedisk.MethodMirror, false},
		"backup":         {[]livedisk.OpenFlag{livedisk.RunEventLoop}, livedisk.MethodBackup, false},
		"auto finishing": {[]livedisk.OpenFlag{livedisk.RunEventLoop}, livedisk.MethodMirror, true},
	} {
		t.Run(name, func(t *testing.T) {
			connection := open(t, test.flags...)
			ctx := within(t, time.Minute)
			disks := []livedisk.SnapshotDisk{
				{Target: "vda", Destination: bed.Path(t, "vda.qcow2"), Format: "qcow2"},
				{Target: "vdb", Destination: bed.Path(t, "vdb.raw"), Format: "raw"},
			}
			began := time.Now()
			records := lastRecords(t, disks)
			operation, err := connection.StartLiveSnapshot(ctx, bed.WithAgent.Domain(t), livedisk.SnapshotOptions{
				Disks: disks, Method: test.method, Quiesce: livedisk.QuiesceRequire, AutoFinish: test.auto, Verify: true,
				FreezeLimit: 20 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			takeBack(t, operation)
			if !test.auto {
				progress, err := operation.Wait(ctx, livedisk.PhaseReady)
				if err != nil || progress.Phase != livedisk.PhaseReady {
					t.Fatalf("waiting for ready ended at %v: %v", progress.Phase, err)
				}
				// A backup's content is that of the start.
				if test.method == livedisk.MethodMirror {
					records = lastRecords(t, disks)
				}
			}
			report, err := operation.Finish(ctx)
			if err != nil {
				t.Fatal(err)
			}
			ended := time.Now()
			if report.Method != test.method || report.Consistency != livedisk.ConsistencyFilesystem ||
				report.FilesystemsFrozen < 1 || report.DiskCount != 2 || report.Freeze <= 0 || report.Pause != 0 {
				t.Errorf("unexpected report %+v", report)
			}
			if report.PointInTime.Before(began) || report.PointInTime.After(ended) ||
				report.Elapsed <= report.Freeze || report.Elapsed > ended.Sub(began) {
				t.Errorf("times of %+v are not between %v and %v", report, began, ended)
			}
			for i, disk := range disks {
				bed.CheckImage(t, disk.Destination, disk.Format, true, records[i])
			}
			if again, err := operation.Finish(ctx); err != nil || again != report {
				t.Errorf("finished again it reports %+v, %v; before %+v", again, err, report)
			}
			bed.WithAgent.CheckClean(t)
		})
	}
}

func lastRecords(t *testing.T, disks []livedisk.SnapshotDisk) (last []int) {
	for _, disk := range disks {
		last = append(last, bed.WithAgent.LastRecord(t, disk.Target))
	}
	return last
}

// The channel shows the way to the end, in order, and is closed there, for each who listens.
func TestProgress(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	operation, path := start(t, connection, bed.WithoutAgent, 48<<20)
	first, second, never := operation.Progress(), operation.Progress(), operation.Progress()
	finished := make(chan error, 1)
	go func() {
		_, err := operation.Finish(within(t, time.Minute))
		finished <- err
	}()
	var before livedisk.Progress
	phases := map[livedisk.Phase]bool{}
	for progress := range first {
		if progress.Phase < before.Phase || progress.Step < before.Step || progress.BytesDone < before.BytesDone {
			t.Errorf("progress went back from %+v to %+v", before, progress)
		}
		before = progress
		phases[progress.Phase] = true
	}
	if before.Phase != livedisk.PhaseDone || before.Step != before.StepCount || before.BytesDone == 0 {
		t.Errorf("the last progress is %+v", before)
	}
	if !phases[livedisk.PhaseCopying] {
		t.Errorf("no copying among the phases %v", phases)
	}
	if err := <-finished; err != nil {
		t.Error(err)
	}
	var last livedisk.Progress
	for last = range second {
	}
	if last != before {
		t.Errorf("another channel ends with %+v, the first with %+v", last, before)
	}
	// Nothing was received from it, so it holds the latest.
	if latest := <-never; latest != before {
		t.Errorf("a receiver that lags behind gets %+v, not %+v", latest, before)
	}
	late := operation.Progress()
	if progress := <-late; progress.Phase != livedisk.PhaseDone {
		t.Errorf("after the end the channel starts with %v", progress.Phase)
	}
	if _, open := <-late; open {
		t.Error("after the end the channel is not closed")
	}
	bed.CheckImage(t, path, "qcow2", false, 1)
}

// Nothing is made by a dry run, and it is done at once.
func TestDryRun(t *testing.T) {
	connection := open(t)
	path := bed.Path(t, "never-made.qcow2")
	ctx := within(t, time.Minute)
	operation, err := connection.StartLiveSnapshot(ctx, bed.WithoutAgent.Domain(t), livedisk.SnapshotOptions{
		Disks: []livedisk.SnapshotDisk{{Target: "vda", Destination: path}}, DryRun: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer operation.Close()
	report, err := operation.Finish(ctx)
	if err != nil || report.Method != livedisk.MethodMirror || !report.PointInTime.IsZero() {
		t.Errorf("a dry run reports %+v, %v", report, err)
	}
	if bed.Exists(path) {
		t.Errorf("%s was made", path)
	}
}
