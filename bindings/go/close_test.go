// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
	"livedisk.invalid/livedisk/internal/virt"
)

var (
	_ io.Closer = (*livedisk.Connection)(nil)
	_ io.Closer = (*livedisk.Operation)(nil)
)

// useConnection is every call on a connection that must refuse.
func useConnection(t *testing.T, connection *livedisk.Connection) {
	t.Helper()
	all := context.Background()
	_, start := connection.StartLiveSnapshot(all, "guest", livedisk.SnapshotOptions{})
	_, migrate := connection.MigrateDisk(all, "guest", livedisk.MigrateOptions{})
	_, attach := connection.Attach(all, "guest", "vda")
	_, recover := connection.Recover(all, "")
	for call, err := range map[string]error{"start": start, "migrate": migrate, "attach": attach, "recover": recover} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s says %v", call, err)
		}
	}
	if err := connection.Close(); err != nil {
		t.Errorf("closed again it says %v", err)
	}
}

func useOperation(t *testing.T, operation *livedisk.Operation) {
	t.Helper()
	all := context.Background()
	_, poll := operation.Poll()
	_, wait := operation.Wait(all, livedisk.PhaseReady)
	_, finish := operation.Finish(all)
	_, either := operation.FinishOrCancel(all)
	cancel := operation.Cancel(all)
	for call, err := range map[string]error{"poll": poll, "wait": wait, "finish": finish, "either": either, "cancel": cancel} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s says %v", call, err)
		}
	}
	for range operation.Progress() {
	}
	if err := operation.Close(); err != nil {
		t.Errorf("closed again it says %v", err)
	}
}

func TestClosed(t *testing.T) {
	useConnection(t, nil)
	useConnection(t, new(livedisk.Connection))
	useOperation(t, nil)
	useOperation(t, new(livedisk.Operation))

	connection := open(t, livedisk.RunEventLoop)
	operation, path := start(t, connection, bed.WithoutAgent, slow)
	connection.Close()
	useConnection(t, connection)
	// The operation keeps what it needs.
	cancelled(t, operation, bed.WithoutAgent, path)
	operation.Close()
	useOperation(t, operation)
}

// Closing ends every wait and nothing else: the copy goes on.
func TestCloseEndsWaits(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	guest := bed.WithoutAgent
	operation, path := start(t, connection, guest, slow)
	errs := make(chan error, 4)
	var waiting sync.WaitGroup
	for i := range cap(errs) {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			var err error
			switch i {
			case 0:
				_, err = operation.Wait(context.Background(), livedisk.PhaseDone)
			case 1:
				for range operation.Progress() {
				}
				err = os.ErrClosed
			default:
				_, err = operation.Finish(context.Background())
			}
			errs <- err
		}()
	}
	if _, err := operation.Wait(within(t, time.Minute), livedisk.PhaseCopying); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	operation.Close()
	waiting.Wait()
	close(errs)
	for err := range errs {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("a wait ended with %v", err)
		}
	}
	if job := bed.Virsh(t, "blockjob", guest.Domain(t), "vda"); !strings.Contains(job, "Copy") {
		t.Errorf("the copy does not go on: %s", job)
	}
	recovered(t, connection, guest.Domain(t), livedisk.Recovery{Domains: 1, TakenBack: 1})
	if bed.Exists(path) {
		t.Errorf("%s is left", path)
	}
	guest.CheckClean(t)
}

// What is used and closed at the same time from many sides neither crashes nor hangs.
func TestCloseRaces(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	operation, _ := start(t, connection, bed.WithoutAgent, 0)
	var using sync.WaitGroup
	for i := range 16 {
		using.Add(1)
		go func() {
			defer using.Done()
			for range 50 {
				switch i % 4 {
				case 0:
					_, _ = operation.Poll()
				case 1:
					<-operation.Progress()
				case 2:
					_, _ = operation.Finish(within(t, time.Millisecond))
				default:
					if i == 15 {
						_ = operation.Cancel(context.Background())
					}
					operation.Close()
				}
			}
		}()
	}
	using.Wait()
	useOperation(t, operation)
	// Whichever came first, it is resolved.
	recovery, err := connection.Recover(within(t, time.Minute), bed.WithoutAgent.Domain(t))
	if err != nil || recovery.Failed != 0 {
		t.Errorf("%+v, %v", recovery, err)
	}
	bed.WithoutAgent.CheckClean(t)
}

// A dropped handle is reported, and not closed.
func TestLeakIsReported(t *testing.T) {
	var lines lockedBuffer
	if err := livedisk.SetLogger(slog.New(slog.NewTextHandler(&lines, nil))); err != nil {
		t.Fatal(err)
	}
	defer livedisk.SetLogger(nil)
	func() {
		if _, err := livedisk.Open(bed.URI(t)); err != nil {
			t.Fatal(err)
		}
	}()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		if strings.Contains(lines.String(), "a Connection was dropped without Close") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no word of the leak in: %s", lines.String())
		}
	}
}

type lockedBuffer struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(text []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.Write(text)
}

func (b *lockedBuffer) String() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.String()
}

// A virConnectPtr of the program's own, with a reference taken and given back.
func TestOpenFrom(t *testing.T) {
	pointer, err := virt.Open(bed.URI(t))
	if err != nil {
		t.Fatal(err)
	}
	connection, err := livedisk.OpenFrom(pointer)
	if err != nil {
		t.Fatal(err)
	}
	operation, path := start(t, connection, bed.WithAgent, 0)
	connection.Close()
	if _, err := operation.Finish(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	operation.Close()
	bed.CheckImage(t, path, "qcow2", true, 1)
	if !virt.IsAlive(pointer) {
		t.Error("the program's own connection is dead")
	}
	if left := virt.Close(pointer); left != 0 {
		t.Errorf("%d references are left", left)
	}
}
