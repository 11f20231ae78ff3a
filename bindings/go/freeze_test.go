// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"errors"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

// A freeze is thawed over another connection, or by its limit, which Thaw reports.
func TestFreeze(t *testing.T) {
	connection, other, ctx := open(t), open(t), within(t, time.Minute)
	domain := bed.WithAgent.Domain(t)
	frozen, err := connection.Freeze(ctx, domain, time.Minute)
	if err != nil || frozen == 0 {
		t.Fatalf("it freezes %d, %v", frozen, err)
	}
	connection.Close()
	if _, err := other.Freeze(ctx, domain, time.Minute); !errors.Is(err, livedisk.ErrBusy) {
		t.Errorf("a second freeze says %v", err)
	}
	if found, err := other.Operations(ctx, domain); err != nil || len(found) != 1 || found[0].Orphaned || found[0].Disks != nil {
		t.Errorf("it is listed as %+v, %v", found, err)
	}
	if thawed, err := other.Thaw(ctx, domain); err != nil || thawed != frozen {
		t.Errorf("it thaws %d of %d, %v", thawed, frozen, err)
	}
	if _, err := other.Freeze(ctx, domain, time.Second); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	if _, err := other.Thaw(ctx, domain); !errors.Is(err, livedisk.ErrFreeze) {
		t.Errorf("after the limit it says %v", err)
	}
	if _, err := other.Thaw(ctx, domain); !errors.Is(err, livedisk.ErrNoOperation) {
		t.Errorf("of what is not frozen it says %v", err)
	}
	if _, err := other.Freeze(ctx, domain, -time.Second); !errors.Is(err, livedisk.ErrInvalidArgument) {
		t.Errorf("with a limit below nothing it says %v", err)
	}
	if _, err := other.Freeze(ctx, bed.WithoutAgent.Domain(t), 0); !errors.Is(err, livedisk.ErrAgent) {
		t.Errorf("without an agent it says %v", err)
	}
	bed.WithAgent.CheckClean(t)
}
