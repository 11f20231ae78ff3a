// SPDX-License-Identifier: LGPL-2.1-or-later

// Somebody else's program, as consumer.c.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"livedisk.invalid/livedisk"
)

func main() {
	connection, err := livedisk.Open("test:///default")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer connection.Close()
	_, err = connection.StartLiveSnapshot(context.Background(), "no-such-domain", livedisk.SnapshotOptions{
		Disks: []livedisk.SnapshotDisk{{Target: "vda", Destination: "/never-made"}},
	})
	fmt.Println(livedisk.Version(), err)
	if !errors.Is(err, livedisk.ErrNoDomain) {
		os.Exit(1)
	}
}
