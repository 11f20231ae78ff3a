// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

// What the process to be killed is asked to do.
const (
	agentDomain      = "LIVEDISK_AGENT_DOMAIN"
	agentTarget      = "LIVEDISK_AGENT_TARGET"
	agentMethod      = "LIVEDISK_AGENT_METHOD"
	agentDestination = "LIVEDISK_AGENT_DESTINATION"
	agentBandwidth   = "LIVEDISK_AGENT_BANDWIDTH"
)

// TestMain is that process, too: it is this program with the variables above.
func TestMain(m *testing.M) {
	if domain, is := os.LookupEnv(agentDomain); is {
		fmt.Println(runAgent(domain))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// runAgent begins an operation and says how far it is. It returns only with an error.
func runAgent(domain string) error {
	ctx := context.Background()
	connection, err := livedisk.Open(os.Getenv("LIVEDISK_TEST_URI"), livedisk.RunEventLoop)
	if err != nil {
		return err
	}
	target, destination := os.Getenv(agentTarget), os.Getenv(agentDestination)
	var bandwidth uint64
	if _, err := fmt.Sscan(os.Getenv(agentBandwidth), &bandwidth); err != nil {
		return err
	}
	methods := map[string]livedisk.Method{"mirror": livedisk.MethodMirror, "backup": livedisk.MethodBackup}
	var operation *livedisk.Operation
	if method, is := methods[os.Getenv(agentMethod)]; is {
		operation, err = connection.StartLiveSnapshot(ctx, domain, livedisk.SnapshotOptions{
			Disks:  []livedisk.SnapshotDisk{{Target: target, Destination: destination, Format: "qcow2"}},
			Method: method, Bandwidth: bandwidth,
		})
	} else {
		operation, err = connection.MigrateDisk(ctx, domain, livedisk.MigrateOptions{
			Target: target, Destination: destination, Clone: livedisk.CloneCopy, Bandwidth: bandwidth,
		})
	}
	if err != nil {
		return err
	}
	for progress := range operation.Progress() {
		fmt.Println(progress.Phase, progress.BytesDone > 0)
	}
	_, err = operation.Finish(ctx)
	return fmt.Errorf("it was not killed: %w", err)
}

// agent is a process that has begun an operation.
type agent struct {
	*exec.Cmd
	output io.Reader
}

// startAgent waits until the process says so.
func startAgent(t *testing.T, guest bed.Guest, target, method, destination string, bandwidth uint64, says string) *agent {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), agentDomain+"="+guest.Domain(t), agentTarget+"="+target, agentMethod+"="+method,
		agentDestination+"="+destination, agentBandwidth+"="+fmt.Sprint(bandwidth))
	command.Stderr = os.Stderr
	output, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	started := &agent{command, output}
	t.Cleanup(started.kill)
	var said []string
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if lines.Text() == says {
			return started
		}
		said = append(said, lines.Text())
	}
	t.Fatalf("the agent did not say '%s': %s", says, strings.Join(said, "; "))
	return nil
}

// kill is SIGKILL, and waits until the process no longer counts as alive. A second call does nothing.
func (a *agent) kill() {
	_ = a.Process.Kill()
	_ = a.Wait()
}

// recovered cleans up what is left on the domain, and verifies the counts, and that a second call finds nothing.
func recovered(t *testing.T, connection *livedisk.Connection, domain string, expected livedisk.Recovery) {
	t.Helper()
	for _, expected := range []livedisk.Recovery{expected, {}} {
		if found, err := connection.Recover(within(t, time.Minute), domain); err != nil || found != expected {
			t.Errorf("recovering '%s' says %+v, %v; expected %+v", domain, found, err, expected)
		}
	}
}

// A process that copies is killed; what it began is attached to and finished.
func TestAttach(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	guest, ctx := bed.WithAgent, within(t, 2*time.Minute)
	domain := guest.Domain(t)
	for _, method := range []livedisk.Method{livedisk.MethodMirror, livedisk.MethodBackup} {
		t.Run(method.String(), func(t *testing.T) {
			path, began := bed.Path(t, "vdb.qcow2"), time.Now()
			if _, err := connection.Attach(ctx, domain, "vdb"); !errors.Is(err, livedisk.ErrNoOperation) {
				t.Errorf("before there is an operation it says %v", err)
			}
			agent := startAgent(t, guest, "vdb", method.String(), path, 4<<20, "copying true")
			_, err := connection.Attach(ctx, domain, "vdb")
			if !errors.Is(err, livedisk.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprint(agent.Process.Pid)) {
				t.Errorf("while its process lives it says %v", err)
			}
			// Which recovering leaves alone.
			recovered(t, connection, domain, livedisk.Recovery{})
			agent.kill()
			if _, err := connection.Attach(ctx, domain, "vda"); !errors.Is(err, livedisk.ErrNoOperation) {
				t.Errorf("for a disk that it has not, it says %v", err)
			}

			operation, err := connection.Attach(ctx, domain, "vdb")
			if err != nil {
				t.Fatal(err)
			}
			takeBack(t, operation)
			if _, err := connection.Attach(ctx, domain, "vdb"); !errors.Is(err, livedisk.ErrBusy) {
				t.Errorf("attached to twice it says %v", err)
			}
			record := 1
			if method == livedisk.MethodMirror {
				// Its point in time is yet to come.
				record = guest.LastRecord(t, "vdb")
			}
			report, err := operation.Finish(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if report.Method != method || report.DiskCount != 1 || report.BytesCopied == 0 ||
				report.Consistency != livedisk.ConsistencyFilesystem || report.PointInTime.Before(began) {
				t.Errorf("unexpected report %+v", report)
			}
			bed.CheckImage(t, path, "qcow2", true, record)
			guest.CheckClean(t)
		})
	}
}

// A migration whose process was killed, goes on to its end.
func TestAttachToMigration(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	guest, ctx := bed.Third, within(t, 2*time.Minute)
	home := strings.Fields(bed.Virsh(t, "domblklist", guest.Domain(t)))[1]
	moved := bed.Path(t, "moved.qcow2")
	startAgent(t, guest, "vda", "migrate", moved, 0, "ready true").kill()
	operation, err := connection.Attach(ctx, guest.Domain(t), "vda")
	if err != nil {
		t.Fatal(err)
	}
	takeBack(t, operation)
	if report, err := operation.Finish(ctx); err != nil || report.Method != livedisk.MethodClone {
		t.Fatalf("%+v, %v", report, err)
	}
	if now := bed.Virsh(t, "domblklist", guest.Domain(t)); !strings.Contains(now, moved) {
		t.Errorf("the disk is not at %s: %s", moved, now)
	}
	guest.CheckClean(t)
	moveHome(t, ctx, connection, guest, home, livedisk.MigrateOptions{})
}

// Two processes are killed, on two guests; what can be completed is, the rest is rolled back.
func TestRecover(t *testing.T) {
	connection := open(t)
	complete, partial := bed.Path(t, "complete.qcow2"), bed.Path(t, "partial.qcow2")
	startAgent(t, bed.WithAgent, "vdb", "backup", complete, 0, "ready true").kill()
	startAgent(t, bed.WithoutAgent, "vda", "mirror", partial, slow, "copying true").kill()
	if _, err := connection.StartLiveSnapshot(within(t, time.Minute), bed.WithoutAgent.Domain(t), livedisk.SnapshotOptions{
		Disks: []livedisk.SnapshotDisk{{Target: "vda", Destination: bed.Path(t, "refused.qcow2")}},
	}); !errors.Is(err, livedisk.ErrBusy) {
		t.Errorf("before it is resolved, a start says %v", err)
	}
	if _, err := connection.Recover(within(t, time.Minute), "nobody"); !errors.Is(err, livedisk.ErrNoDomain) {
		t.Errorf("a domain that there is not gives %v", err)
	}
	recovered(t, connection, bed.Third.Domain(t), livedisk.Recovery{})
	recovered(t, connection, "", livedisk.Recovery{Domains: 2, Completed: 1, TakenBack: 1})
	bed.CheckImage(t, complete, "qcow2", true, 1)
	if bed.Exists(partial) {
		t.Errorf("%s is left", partial)
	}
	bed.WithAgent.CheckClean(t)
	bed.WithoutAgent.CheckClean(t)
}

// A context that ends, ends the wait and not the recovery.
func TestRecoverIsInterrupted(t *testing.T) {
	connection, err := livedisk.Open(bed.URI(t))
	if err != nil {
		t.Fatal(err)
	}
	path := bed.Path(t, "vda.qcow2")
	operation, err := connection.StartLiveSnapshot(within(t, time.Minute), bed.WithoutAgent.Domain(t), livedisk.SnapshotOptions{
		Disks: []livedisk.SnapshotDisk{{Target: "vda", Destination: path}}, Bandwidth: slow,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operation.Wait(within(t, time.Minute), livedisk.PhaseCopying); err != nil {
		t.Fatal(err)
	}
	operation.Close()
	if _, err := connection.Recover(within(t, time.Millisecond), ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it says %v", err)
	}
	// It waits for what goes on in the background.
	connection.Close()
	if bed.Exists(path) {
		t.Errorf("%s is left", path)
	}
	bed.WithoutAgent.CheckClean(t)
}
