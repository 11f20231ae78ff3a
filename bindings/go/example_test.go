// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"livedisk.invalid/livedisk"
)

// What an agent does when it starts: it resumes its own operations, and recovers whatever else was left.
func Example_afterACrash() {
	ctx := context.Background()
	// libvirt's own test driver, so that this runs anywhere; else "qemu:///system".
	connection, err := livedisk.Open("test:///default", livedisk.RunEventLoop)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()

	operation, err := connection.Attach(ctx, "test", "vda")
	switch {
	case errors.Is(err, livedisk.ErrNoOperation):
		fmt.Println("nothing to go on with")
	case err != nil:
		log.Fatal(err)
	default:
		defer operation.Close()
		report, err := operation.Finish(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(report.Consistency, "as of", report.PointInTime)
	}

	recovery, err := connection.Recover(ctx, "")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d domains: %d completed, %d rolled back, %d not resolved\n",
		recovery.Domains, recovery.Completed, recovery.TakenBack, recovery.Failed)
	// Output:
	// nothing to go on with
	// 0 domains: 0 completed, 0 rolled back, 0 not resolved
}
