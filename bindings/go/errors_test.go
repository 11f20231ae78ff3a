// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

const noDomain = 42 // VIR_ERR_NO_DOMAIN

func TestErrors(t *testing.T) {
	connection := open(t)
	exists := bed.Path(t, "exists.qcow2")
	if err := os.WriteFile(exists, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	new := bed.Path(t, "new.qcow2")
	disk := func(target, destination string) []livedisk.SnapshotDisk {
		return []livedisk.SnapshotDisk{{Target: target, Destination: destination}}
	}
	guest := bed.WithoutAgent.Domain(t)
	resting := disk("vda", new)
	resting[0].Backing = "/backup/full.qcow2"
	for name, test := range map[string]struct {
		domain  string
		options livedisk.SnapshotOptions
		code    livedisk.Code
		libvirt int
		says    string
	}{
		"domain":         {"nobody", livedisk.SnapshotOptions{Disks: disk("vda", new)}, livedisk.ErrNoDomain, noDomain, "nobody"},
		"disk":           {guest, livedisk.SnapshotOptions{Disks: disk("vdz", new)}, livedisk.ErrNoDisk, 0, "vdz"},
		"no disks":       {guest, livedisk.SnapshotOptions{}, livedisk.ErrInvalidArgument, 0, "disk"},
		"exists":         {guest, livedisk.SnapshotOptions{Disks: disk("vda", exists)}, livedisk.ErrDestination, 0, exists},
		"agent":          {guest, livedisk.SnapshotOptions{Disks: disk("vda", new), Quiesce: livedisk.QuiesceRequire}, livedisk.ErrAgent, 0, guest},
		"method":         {guest, livedisk.SnapshotOptions{Disks: disk("vda", new), Method: 99}, livedisk.ErrInvalidArgument, 0, "99"},
		"zero byte":      {guest, livedisk.SnapshotOptions{Disks: disk("vda", new+"\x00.qcow2")}, livedisk.ErrInvalidArgument, 0, "disks[0].destination"},
		"zero in domain": {guest + "\x00", livedisk.SnapshotOptions{Disks: disk("vda", new)}, livedisk.ErrInvalidArgument, 0, "domain"},
		"not UTF-8":      {guest + "\xff", livedisk.SnapshotOptions{Disks: disk("vda", new)}, livedisk.ErrInvalidArgument, 0, "UTF-8"},
		"freeze limit":   {guest, livedisk.SnapshotOptions{Disks: disk("vda", new), FreezeLimit: -time.Second}, livedisk.ErrInvalidArgument, 0, "freeze_limit"},
		"no clone":       {guest, livedisk.SnapshotOptions{Disks: disk("vda", new), Method: livedisk.MethodClone, Clone: livedisk.CloneCallback}, livedisk.ErrInvalidArgument, 0, "callback"},
		"compress":       {guest, livedisk.SnapshotOptions{Disks: disk("vda", new), Method: livedisk.MethodMirror, Compress: true}, livedisk.ErrUnsupported, 0, "COMPRESS"},
		"full if needed": {guest, livedisk.SnapshotOptions{Disks: disk("vda", new), FullIfNeeded: true}, livedisk.ErrInvalidArgument, 0, "FULL_IF_NEEDED"},
		"scratch":        {guest, livedisk.SnapshotOptions{Disks: disk("vda", new), Scratch: "/tmp"}, livedisk.ErrInvalidArgument, 0, "scratch"},
		"backing":        {guest, livedisk.SnapshotOptions{Disks: resting}, livedisk.ErrInvalidArgument, 0, "backing of disk 'vda'"},
		"since":          {guest, livedisk.SnapshotOptions{Disks: disk("vda", new), Since: "never"}, livedisk.ErrNoCheckpoint, 0, "'never'"},
	} {
		t.Run(name, func(t *testing.T) {
			operation, err := connection.StartLiveSnapshot(context.Background(), test.domain, test.options)
			if operation != nil {
				t.Errorf("an operation came out")
				takeBack(t, operation)
			}
			if !errors.Is(err, test.code) {
				t.Fatalf("expected %v, got %v", test.code, err)
			}
			var failure *livedisk.Error
			if !errors.As(err, &failure) {
				t.Fatalf("%v is no *Error", err)
			}
			var code livedisk.Code
			if !errors.As(fmt.Errorf("wrapped: %w", err), &code) || code != test.code || failure.Code != test.code {
				t.Errorf("the code is %v and %v, not %v", code, failure.Code, test.code)
			}
			if failure.LibvirtCode != test.libvirt {
				t.Errorf("libvirt's code is %d, not %d", failure.LibvirtCode, test.libvirt)
			}
			if !strings.Contains(failure.Message, test.says) || err.Error() != failure.Message {
				t.Errorf("'%v' does not say '%s'", err, test.says)
			}
			if bed.Exists(new) {
				t.Errorf("%s was made", new)
			}
		})
	}
	if content, err := os.ReadFile(exists); err != nil || string(content) != "mine" {
		t.Errorf("the file that was there is now %q: %v", content, err)
	}
}

func TestBusy(t *testing.T) {
	connection := open(t, livedisk.RunEventLoop)
	operation, path := start(t, connection, bed.WithoutAgent, slow)
	_, err := connection.StartLiveSnapshot(context.Background(), bed.WithoutAgent.Domain(t), livedisk.SnapshotOptions{
		Disks: []livedisk.SnapshotDisk{{Target: "vda", Destination: bed.Path(t, "second.qcow2")}},
	})
	if !errors.Is(err, livedisk.ErrBusy) || errors.Is(err, livedisk.ErrNoDisk) {
		t.Errorf("expected busy, got %v", err)
	}
	cancelled(t, operation, bed.WithoutAgent, path)
}

func TestOpenFails(t *testing.T) {
	_, err := livedisk.Open("qemu+unix:///system?socket=/nonexistent")
	var failure *livedisk.Error
	if !errors.Is(err, livedisk.ErrNoConnection) || !errors.As(err, &failure) || failure.LibvirtCode == 0 {
		t.Errorf("%#v", err)
	}
	if _, err := livedisk.Open(bed.URI(t), 1<<30); !errors.Is(err, livedisk.ErrInvalidArgument) {
		t.Errorf("an unknown flag gives %v", err)
	}
	if _, err := livedisk.Open("qemu\x00:///system"); !errors.Is(err, livedisk.ErrInvalidArgument) {
		t.Errorf("a zero byte gives %v", err)
	}
	if _, err := livedisk.OpenFrom(nil); !errors.Is(err, livedisk.ErrInvalidArgument) {
		t.Errorf("no virConnectPtr gives %v", err)
	}
}

// Every code of the library has a name here, each another.
func TestCodes(t *testing.T) {
	seen := map[string]livedisk.Code{}
	for code := livedisk.ErrInvalidArgument; code >= livedisk.ErrInternal; code-- {
		text := code.Error()
		if other, found := seen[text]; found || strings.Contains(text, "error -") {
			t.Errorf("code %d is called '%s', as %d", int32(code), text, int32(other))
		}
		seen[text] = code
	}
	if text := livedisk.Code(-1000).Error(); text != "livedisk: error -1000" {
		t.Errorf("an unknown code is called '%s'", text)
	}
}

func TestNamesOfCodes(t *testing.T) {
	for code, name := range map[livedisk.Code]string{
		0: "OK", livedisk.ErrInvalidArgument: "INVALID_ARGUMENT", livedisk.ErrNoSpace: "NO_SPACE",
		livedisk.ErrCheckpoint: "CHECKPOINT", livedisk.ErrNoCheckpoint: "NO_CHECKPOINT", -1000: "unknown", 1: "unknown",
	} {
		if code.Name() != name {
			t.Errorf("%d is %s, expected %s", code, code.Name(), name)
		}
	}
}
