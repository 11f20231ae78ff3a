// SPDX-License-Identifier: LGPL-2.1-or-later

// Orchestrator snapshots many guests of a host at once, a chosen number at a time, and shows the progress of each. One
// interrupt (Ctrl-C) rolls back everything that is not complete.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"livedisk.invalid/livedisk"
)

const usage = `Usage: orchestrator [OPTION]... --directory DIR GUEST...

Takes live snapshots of running guests: each disk becomes a standalone image DIR/DOMAIN-TARGET.qcow2, those of a guest of
one point in time. A GUEST is DOMAIN[:TARGET[,TARGET]...], by default with the disk vda:

  orchestrator --directory /backup --jobs 4 $(virsh list --name)
  orchestrator --directory /backup web1 db1:vda,vdb

On a terminal it shows a table that changes, elsewhere a line for each change. Ctrl-C rolls back what is not complete.
Exit status: 0 all guests, 1 not all, 2 wrong usage, 130 interrupted.

`

// guest is one to snapshot.
type guest struct {
	domain string
	disks  []livedisk.SnapshotDisk
}

type settings struct {
	uri       string
	directory string
	jobs      int
	bandwidth uint64
	require   bool
	verbose   bool
}

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(arguments []string) int {
	settings, guests, err := parse(arguments)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "orchestrator:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second interrupt ends the process, as it would without all this.
	context.AfterFunc(ctx, stop)

	if settings.verbose {
		handler := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})
		if err := livedisk.SetLogger(slog.New(handler)); err != nil {
			fmt.Fprintln(os.Stderr, "orchestrator:", err)
			return 1
		}
	}
	connection, err := livedisk.Open(settings.uri, livedisk.RunEventLoop)
	if err != nil {
		fmt.Fprintln(os.Stderr, "orchestrator:", err)
		return 1
	}
	defer connection.Close()

	table := newTable(os.Stdout)
	var running sync.WaitGroup
	limit := make(chan struct{}, settings.jobs)
	for _, guest := range guests {
		running.Add(1)
		row := table.add(guest.domain)
		go func() {
			defer running.Done()
			select {
			case limit <- struct{}{}:
				defer func() { <-limit }()
				report, err := snapshot(ctx, connection, guest, settings, row)
				row.end(report, err)
			case <-ctx.Done():
				row.end(livedisk.Report{}, ctx.Err())
			}
		}()
	}
	running.Wait()
	failed := table.close()
	switch {
	case ctx.Err() != nil:
		return 130
	case failed > 0:
		return 1
	}
	return 0
}

// snapshot takes one guest's snapshot, or rolls it back.
func snapshot(ctx context.Context, connection *livedisk.Connection, guest guest, settings settings, row *row) (livedisk.Report, error) {
	options := livedisk.SnapshotOptions{Disks: guest.disks, Bandwidth: settings.bandwidth}
	if settings.require {
		options.Quiesce = livedisk.QuiesceRequire
	}
	operation, err := connection.StartLiveSnapshot(ctx, guest.domain, options)
	if err != nil {
		return livedisk.Report{}, err
	}
	defer operation.Close()
	// It ends with the operation.
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		for progress := range operation.Progress() {
			row.show(progress)
		}
	}()
	report, err := operation.FinishOrCancel(ctx)
	<-shown
	return report, err
}

func parse(arguments []string) (settings, []guest, error) {
	var settings settings
	flags := flag.NewFlagSet("orchestrator", flag.ContinueOnError)
	flags.StringVar(&settings.uri, "connect", "", "libvirt `URI`; libvirt's own default if empty")
	flags.StringVar(&settings.directory, "directory", "", "where the images go: `DIR`, reached by QEMU's user")
	flags.IntVar(&settings.jobs, "jobs", 4, "how many guests at a time: `N`")
	flags.Uint64Var(&settings.bandwidth, "bandwidth", 0, "limit for each guest in `bytes` per second; 0: none")
	flags.BoolVar(&settings.require, "require-freeze", false, "fail where no guest agent answers, instead of being crash-consistent")
	flags.BoolVar(&settings.verbose, "verbose", false, "log to standard error what livedisk does")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage, "Options:\n")
		flags.PrintDefaults()
	}
	for _, argument := range arguments {
		if argument == "-h" || argument == "-help" || argument == "--help" {
			flags.SetOutput(os.Stdout)
		}
	}
	if err := flags.Parse(arguments); err != nil {
		return settings, nil, err
	}
	switch {
	case settings.directory == "":
		return settings, nil, errors.New("no --directory; say where the images go (see --help)")
	case settings.jobs < 1:
		return settings, nil, errors.New("--jobs is less than 1; nothing would ever run")
	case flags.NArg() == 0:
		return settings, nil, errors.New("no guests; name some, such as $(virsh list --name) (see --help)")
	}
	directory, err := filepath.Abs(settings.directory)
	if err != nil {
		return settings, nil, err
	}
	var guests []guest
	for _, argument := range flags.Args() {
		domain, targets, _ := strings.Cut(argument, ":")
		if targets == "" {
			targets = "vda"
		}
		one := guest{domain: domain}
		for _, target := range strings.Split(targets, ",") {
			one.disks = append(one.disks, livedisk.SnapshotDisk{
				Target:      target,
				Destination: filepath.Join(directory, domain+"-"+target+".qcow2"),
				Format:      "qcow2",
			})
		}
		guests = append(guests, one)
	}
	return settings, guests, nil
}
