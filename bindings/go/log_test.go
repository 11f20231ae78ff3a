// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

// recorder keeps the lines that it receives, from a level on.
type recorder struct {
	from    slog.Level
	mutex   sync.Mutex
	records []slog.Record
	called  func()
}

func (r *recorder) Enabled(_ context.Context, level slog.Level) bool { return level >= r.from }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler               { return r }
func (r *recorder) WithGroup(string) slog.Handler                    { return r }

func (r *recorder) Handle(_ context.Context, record slog.Record) error {
	if r.called != nil {
		r.called()
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.records = append(r.records, record)
	return nil
}

func (r *recorder) count(level slog.Level, words string) int {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	count := 0
	for _, record := range r.records {
		if record.Level == level && strings.Contains(record.Message, words) {
			count++
		}
	}
	return count
}

func setLogger(t *testing.T, to *recorder) {
	t.Helper()
	if err := livedisk.SetLogger(slog.New(to)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = livedisk.SetLogger(nil) })
}

// plan makes a dry run, which logs the plan.
func plan(t *testing.T, connection *livedisk.Connection) {
	t.Helper()
	operation, err := connection.StartLiveSnapshot(context.Background(), bed.WithoutAgent.Domain(t), livedisk.SnapshotOptions{
		Disks:  []livedisk.SnapshotDisk{{Target: "vda", Destination: bed.Path(t, "never-made.qcow2")}},
		DryRun: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	operation.Close()
}

func TestLog(t *testing.T) {
	connection := open(t)
	debug := &recorder{from: slog.LevelDebug}
	setLogger(t, debug)
	plan(t, connection)
	plans := debug.count(slog.LevelInfo, "step 1:")
	if plans != 1 {
		t.Errorf("the plan was logged %d times", plans)
	}
	operation, path := start(t, connection, bed.WithoutAgent, slow)
	cancelled(t, operation, bed.WithoutAgent, path)
	if debug.count(slog.LevelDebug, "") == 0 {
		t.Error("a debug logger received nothing at that level")
	}

	// Less is asked for, of another; the first hears no more.
	warn := &recorder{from: slog.LevelWarn}
	setLogger(t, warn)
	before := debug.count(slog.LevelInfo, "")
	plan(t, connection)
	if debug.count(slog.LevelInfo, "") != before || warn.count(slog.LevelInfo, "") != 0 {
		t.Error("a logger received no plan")
	}
}

// A logger may use the package; replacing itself is refused.
func TestLogFromWithin(t *testing.T) {
	connection := open(t)
	inside := make(chan error, 100)
	to := &recorder{from: slog.LevelInfo}
	to.called = func() {
		inside <- livedisk.SetLogger(nil)
		_ = livedisk.Version()
	}
	setLogger(t, to)
	plan(t, connection)
	if err := <-inside; !errors.Is(err, livedisk.ErrInvalidArgument) {
		t.Errorf("SetLogger within a handler says %v", err)
	}
	if to.count(slog.LevelInfo, "step 1:") != 1 {
		t.Error("the plan was not logged")
	}
}
