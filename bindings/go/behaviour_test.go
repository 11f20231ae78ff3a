// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

// TestBehaviour runs the table that every binding runs; see its own words in tests/behaviour/cases.
func TestBehaviour(t *testing.T) {
	table, err := os.ReadFile("../../tests/behaviour/cases")
	if err != nil {
		t.Fatal(err)
	}
	directory := bed.Path(t, "behaviour")
	if err := os.Mkdir(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	// It is not empty at the end, and so stays: a guest's disk is where the last case has moved it.
	connection := open(t, livedisk.RunEventLoop)
	count := 0
	for _, line := range strings.Split(string(table), "\n") {
		asked, expected, found := strings.Cut(line, " -> ")
		words, outcome := strings.Fields(asked), strings.Fields(expected)
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		if !found || len(words) < 3 || len(outcome) < 1 {
			t.Fatalf("no case: %q", line)
		}
		count++
		t.Run(words[0], func(t *testing.T) {
			one := &behaviour{T: t, connection: connection, directory: directory}
			one.options(words[1], words[2], words[3:])
			one.expect(outcome, one.call())
		})
	}
	if count == 0 {
		t.Fatal("the table is empty")
	}
}

// behaviour is one case.
type behaviour struct {
	*testing.T
	connection *livedisk.Connection
	// What is begun and closed before the call, or nothing.
	dropped, calls string
	directory      string
	guest          bed.Guest
	domain         string
	uri            string
	snapshot       livedisk.SnapshotOptions
	migrate        livedisk.MigrateOptions
	end            string
	busy           bool
	// A backup that is taken before: its checkpoint and its image.
	before   string
	report   livedisk.Report
	recovery livedisk.Recovery
	// Fails where what the case made is not as it was.
	unchanged func()
}

var behaviourMethods = map[string]livedisk.Method{
	"auto": livedisk.MethodAuto, "backup": livedisk.MethodBackup, "mirror": livedisk.MethodMirror,
	"rebase": livedisk.MethodRebase, "clone": livedisk.MethodClone,
}

var behaviourQuiesce = map[string]livedisk.Quiesce{
	"prefer": livedisk.QuiescePrefer, "require": livedisk.QuiesceRequire, "none": livedisk.QuiesceNone,
}

var behaviourClones = map[string]livedisk.CloneMethod{
	"auto": livedisk.CloneAuto, "reflink": livedisk.CloneReflink, "copy": livedisk.CloneCopy,
	"volume": livedisk.CloneVolume, "callback": livedisk.CloneCallback,
}

var behaviourCodes = map[string]livedisk.Code{
	"INVALID_ARGUMENT": livedisk.ErrInvalidArgument, "NO_CONNECTION": livedisk.ErrNoConnection,
	"NO_DOMAIN": livedisk.ErrNoDomain, "NO_DISK": livedisk.ErrNoDisk, "DOMAIN_STATE": livedisk.ErrDomainState,
	"BUSY": livedisk.ErrBusy, "UNSUPPORTED": livedisk.ErrUnsupported, "AGENT": livedisk.ErrAgent,
	"FREEZE": livedisk.ErrFreeze, "DESTINATION": livedisk.ErrDestination, "NO_SPACE": livedisk.ErrNoSpace,
	"PERMISSION": livedisk.ErrPermission, "JOB_FAILED": livedisk.ErrJobFailed, "CANCELLED": livedisk.ErrCancelled,
	"TIMEOUT": livedisk.ErrTimeout, "NO_OPERATION": livedisk.ErrNoOperation, "NO_CHECKPOINT": livedisk.ErrNoCheckpoint, "VERIFY": livedisk.ErrVerify,
	"LIBVIRT": livedisk.ErrLibvirt, "IO": livedisk.ErrIO, "INTERNAL": livedisk.ErrInternal,
}

func known[V any](t *testing.T, values map[string]V, name string) V {
	t.Helper()
	value, found := values[name]
	if !found {
		t.Fatalf("'%s' is a word that this runner does not know", name)
	}
	return value
}

func number(t *testing.T, text string) uint64 {
	t.Helper()
	value, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func (b *behaviour) path(name string) string {
	return filepath.Join(b.directory, name)
}

func (b *behaviour) options(calls, guest string, words []string) {
	var found bool
	if b.dropped, b.calls, found = strings.Cut(calls, "+"); !found {
		b.dropped, b.calls = "", calls
	}
	switch guest {
	case "1", "2":
		b.guest = bed.Guest(number(b.T, guest))
		b.domain = b.guest.Domain(b.T)
		// Last of all: after what rolls back.
		b.Cleanup(func() { b.guest.CheckClean(b.T) })
	case "none":
		b.domain = "nobody-has-this-name"
	default:
		b.Fatalf("unknown guest '%s'", guest)
	}
	s, m := &b.snapshot, &b.migrate
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "uri":
			b.uri = value
		case "disk":
			b.disk(value)
		case "method":
			s.Method = known(b.T, behaviourMethods, value)
			m.Method = s.Method
		case "quiesce":
			s.Quiesce = known(b.T, behaviourQuiesce, value)
		case "clone":
			s.Clone = known(b.T, behaviourClones, value)
			m.Clone = s.Clone
		case "bandwidth":
			s.Bandwidth = number(b.T, value)
			m.Bandwidth = s.Bandwidth
		case "checkpoint":
			s.Checkpoint = value
		case "since":
			s.Since = value
		case "backing":
			s.Disks[0].Backing = b.path(value)
		case "before":
			b.before = value
		case "freeze_limit_ms":
			s.FreezeLimit = time.Duration(number(b.T, value)) * time.Millisecond
		case "flags":
			for _, flag := range strings.Split(value, ",") {
				*known(b.T, map[string]map[string]*bool{
					"snapshot": {
						"shallow": &s.Shallow, "auto_finish": &s.AutoFinish, "dry_run": &s.DryRun, "verify": &s.Verify,
						"write_blocking": &s.WriteBlocking, "full_if_needed": &s.FullIfNeeded,
					},
					"migrate": {
						"auto_finish": &m.AutoFinish, "dry_run": &m.DryRun, "verify": &m.Verify,
						"delete_source": &m.DeleteSource, "write_blocking": &m.WriteBlocking,
						"allow_plaintext": &m.AllowPlaintext,
					},
				}[strings.Split(calls, "+")[0]], flag) = true
			}
		case "callback":
			m.CloneFunc = known(b.T, map[string]livedisk.CloneFunc{
				"copy": copyFile, "fail": func(string, string) error { return errors.New("asked to fail") },
			}, value)
			s.CloneFunc = m.CloneFunc
		case "make":
			b.make(value)
		case "busy":
			b.busy = true
		case "end":
			b.end = value
		default:
			b.Fatalf("unknown option '%s'", word)
		}
	}
}

func (b *behaviour) disk(value string) {
	parts := append(strings.Split(value, ":"), "", "", "")
	disk := livedisk.SnapshotDisk{Target: parts[0], Destination: parts[1], Format: parts[2]}
	if disk.Destination != "" && disk.Destination != "REL" {
		disk.Destination = b.path(disk.Destination)
	}
	if flag := parts[3]; flag != "" {
		*known(b.T, map[string]*bool{"reuse_existing": &disk.ReuseExisting, "allow_plaintext": &disk.AllowPlaintext}, flag) = true
	}
	b.snapshot.Disks = append(b.snapshot.Disks, disk)
	b.migrate.Target, b.migrate.Destination, b.migrate.Format = disk.Target, disk.Destination, disk.Format
}

func (b *behaviour) make(value string) {
	kind, name, _ := strings.Cut(value, ":")
	path, err := b.path(name), error(nil)
	switch kind {
	case "text":
		err = os.WriteFile(path, []byte("mine\n"), 0o666)
	case "directory":
		err = os.Mkdir(path, 0o755)
	case "link":
		err = os.Symlink(b.path("nowhere"), path)
	case "raw32M":
		if err = os.WriteFile(path, nil, 0o666); err == nil {
			err = os.Truncate(path, 32<<20)
		}
	default:
		b.Fatalf("unknown kind '%s'", kind)
	}
	if err != nil {
		b.Fatal(err)
	}
	before, err := os.Lstat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.unchanged = func() {
		now, err := os.Lstat(path)
		if err != nil || !os.SameFile(now, before) || now.Mode() != before.Mode() || !now.ModTime().Equal(before.ModTime()) {
			b.Errorf("%s is not as it was made: %v, %v", path, now, err)
		}
	}
}

// start makes one of the calls that give an operation.
func (b *behaviour) start(ctx context.Context, call string) (*livedisk.Operation, error) {
	switch call {
	case "snapshot":
		return b.connection.StartLiveSnapshot(ctx, b.domain, b.snapshot)
	case "migrate":
		return b.connection.MigrateDisk(ctx, b.domain, b.migrate)
	case "attach":
		return b.connection.Attach(ctx, b.domain, b.migrate.Target)
	}
	b.Fatalf("unknown call '%s'", call)
	return nil, nil
}

// drop lets go of an operation that copies.
func (b *behaviour) drop(ctx context.Context) {
	operation, err := b.start(ctx, b.dropped)
	if err != nil {
		b.Fatal(err)
	}
	defer operation.Close()
	if progress, err := operation.Wait(ctx, livedisk.PhaseCopying); err != nil || progress.Phase != livedisk.PhaseCopying {
		b.Fatalf("what is to be dropped is at %v: %v", progress.Phase, err)
	}
}

func (b *behaviour) recover(ctx context.Context) (livedisk.Recovery, error) {
	found, err := b.connection.Recover(ctx, b.domain)
	if err != nil {
		return found, err
	}
	if again, err := b.connection.Recover(ctx, b.domain); err != nil || again != (livedisk.Recovery{}) {
		b.Errorf("recovered again it says %+v, %v", again, err)
	}
	return found, nil
}

// call makes the case's calls, and returns the first failure.
func (b *behaviour) call() error {
	ctx := within(b.T, 2*time.Minute)
	if b.busy {
		slowly, err := b.connection.StartLiveSnapshot(ctx, b.domain, livedisk.SnapshotOptions{
			Disks: []livedisk.SnapshotDisk{{Target: "vda", Destination: b.path("busy")}}, Bandwidth: slow,
		})
		if err != nil {
			b.Fatal(err)
		}
		takeBack(b.T, slowly)
	}
	if name, image, found := strings.Cut(b.before, ":"); found {
		first, err := b.connection.StartLiveSnapshot(ctx, b.domain, livedisk.SnapshotOptions{
			Disks:      []livedisk.SnapshotDisk{{Target: b.snapshot.Disks[0].Target, Destination: b.path(image)}},
			Checkpoint: name,
		})
		if err != nil {
			b.Fatal(err)
		}
		defer first.Close()
		if _, err := first.Finish(ctx); err != nil {
			b.Fatal(err)
		}
	}
	if b.dropped != "" {
		b.drop(ctx)
	}
	switch b.calls {
	case "open":
		connection, err := livedisk.Open(b.uri)
		connection.Close()
		return err
	case "recover":
		found, err := b.recover(ctx)
		b.recovery = found
		return err
	}
	operation, err := b.start(ctx, b.calls)
	if b.dropped != "" && b.calls != "attach" {
		if found, err := b.recover(ctx); err != nil || found.TakenBack != 1 {
			b.Errorf("what was dropped gives %+v, %v", found, err)
		}
	}
	if err != nil {
		return err
	}
	takeBack(b.T, operation)
	switch b.end {
	case "", "finish", "late":
	case "poll":
		if progress, err := operation.Wait(ctx, livedisk.PhaseDone); err != nil || progress.Phase != livedisk.PhaseDone {
			b.Fatalf("it ends at %v: %v", progress.Phase, err)
		}
	case "timeout":
		// A timeout is a context's in Go.
		ended, end := context.WithCancel(ctx)
		end()
		if _, err := operation.Finish(ended); err != context.Canceled {
			b.Fatalf("finish without waiting says %v", err)
		}
		if err := operation.Cancel(ctx); err != nil {
			b.Fatal(err)
		}
		return livedisk.ErrTimeout
	case "cancel":
		if _, err := operation.Wait(ctx, livedisk.PhaseReady); err != nil {
			b.Fatal(err)
		}
		if err := operation.Cancel(ctx); err != nil {
			return err
		}
	default:
		b.Fatalf("unknown end '%s'", b.end)
	}
	report, err := operation.Finish(ctx)
	if err != nil {
		return err
	}
	if again, err := operation.Finish(ctx); err != nil || again != report {
		b.Errorf("finished again it reports %+v, %v; before %+v", again, err, report)
	}
	b.report = report
	if b.end == "late" {
		return operation.Cancel(ctx)
	}
	return nil
}

func (b *behaviour) expect(outcome []string, err error) {
	words := outcome[1:]
	switch outcome[0] {
	case "ok":
		if err != nil {
			b.Fatalf("%v", err)
		}
	case "fails":
		if code := known(b.T, behaviourCodes, words[0]); !errors.Is(err, code) {
			b.Fatalf("expected %v, got %v", code, err)
		}
		words = words[1:]
		if b.unchanged != nil {
			b.unchanged()
		}
	default:
		b.Fatalf("unknown outcome '%s'", outcome[0])
	}
	found := &b.recovery
	counts := map[string]*int{
		"domains": &found.Domains, "thawed": &found.Thawed, "completed": &found.Completed,
		"taken_back": &found.TakenBack, "failed": &found.Failed,
	}
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		var is string
		switch name {
		case "method":
			is = b.report.Method.String()
		case "consistency":
			is = b.report.Consistency.String()
		case "disks":
			is = fmt.Sprint(b.report.DiskCount)
		case "full":
			is = fmt.Sprint(b.report.FullDisks)
		case "forget":
			if err := b.connection.DeleteCheckpoint(context.Background(), b.domain, value); err != nil {
				b.Error(err)
			}
			continue
		case "frozen":
			is = map[bool]string{false: "no", true: "yes"}[b.report.Freeze > 0]
			if frozen := b.report.FilesystemsFrozen > 0; frozen != (b.report.Freeze > 0) {
				b.Errorf("frozen for %v, and %d file systems", b.report.Freeze, b.report.FilesystemsFrozen)
			}
		case "domains", "thawed", "completed", "taken_back", "failed":
			is = fmt.Sprint(*counts[name])
			*counts[name] = 0
		case "image":
			name, format, _ := strings.Cut(value, ":")
			b.image(b.path(name), format)
			continue
		case "gone", "there":
			if found := bed.Exists(b.path(value)); found != (name == "there") {
				b.Errorf("expected %s: %v", word, found)
			}
			continue
		default:
			b.Fatalf("unknown expectation '%s'", word)
		}
		if is != value {
			b.Errorf("expected %s, got %s", word, is)
		}
	}
	// What was expected is zero now.
	if b.recovery != (livedisk.Recovery{}) {
		b.Errorf("it recovered more than expected: %+v", b.recovery)
	}
}

// image is whole; a shallow one is only on its backing file.
func (b *behaviour) image(path, format string) {
	bed.CheckImage(b.T, path, format, b.report.Consistency == livedisk.ConsistencyFilesystem, 1)
}
