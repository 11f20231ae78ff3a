// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

// Checkpoints are listed, parents first, and deleted.
func TestCheckpoints(t *testing.T) {
	connection, ctx := open(t), within(t, time.Minute)
	domain := bed.WithoutAgent.Domain(t)
	listed := func(names ...string) []livedisk.Checkpoint {
		t.Helper()
		found, err := connection.Checkpoints(ctx, domain)
		if err != nil || len(found) != len(names) {
			t.Fatalf("it lists %+v (%v), expected %v", found, err, names)
		}
		parent := ""
		for i, name := range names {
			if found[i].Name != name || found[i].Parent != parent || !found[i].Usable || found[i].WhyNot != "" ||
				found[i].DiskCount != 1 || found[i].ChangedBytes == livedisk.ChangedUnknown ||
				time.Since(found[i].Created) > time.Minute {
				t.Errorf("it lists %+v as %s after '%s'", found[i], name, parent)
			}
			parent = name
		}
		return found
	}
	listed()
	for _, name := range []string{"first", "second"} {
		path := bed.Path(t, name+".xml")
		text := fmt.Sprintf("<domaincheckpoint><name>%s</name><disks><disk name='vda'/></disks></domaincheckpoint>", name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		bed.Virsh(t, "checkpoint-create", domain, path)
		os.Remove(path)
	}
	listed("first", "second")
	if err := connection.DeleteCheckpoint(ctx, domain, "first"); err != nil {
		t.Fatal(err)
	}
	listed("second")
	if err := connection.DeleteCheckpoint(ctx, domain, "first"); !errors.Is(err, livedisk.ErrNoCheckpoint) {
		t.Errorf("of one that is gone it says %v", err)
	}
	if err := connection.DeleteCheckpoint(ctx, domain, "second"); err != nil {
		t.Fatal(err)
	}
	listed()
	if _, err := connection.Checkpoints(ctx, "nobody"); !errors.Is(err, livedisk.ErrNoDomain) {
		t.Errorf("of a domain that there is not: %v", err)
	}
	if err := connection.DeleteCheckpoint(ctx, domain, "zero\x00"); !errors.Is(err, livedisk.ErrInvalidArgument) {
		t.Errorf("with a zero byte: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := connection.Checkpoints(ended, domain); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	connection.Close()
	if err := connection.DeleteCheckpoint(ctx, domain, "second"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("on a connection that is closed: %v", err)
	}
	bed.WithoutAgent.CheckClean(t)
}
