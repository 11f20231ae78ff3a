// SPDX-License-Identifier: LGPL-2.1-or-later

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"livedisk.invalid/livedisk"
)

// table shows the guests that run below those that are over; into a pipe it writes a line for each change of phase.
type table struct {
	out      io.Writer
	terminal bool
	mutex    sync.Mutex
	rows     []*row
	// Lines of the part that changes, on the terminal now.
	live int
	// Since when.
	drawn time.Time
}

type row struct {
	table    *table
	domain   string
	progress livedisk.Progress
	started  bool
	over     bool
	failed   bool
}

// On a terminal, so often at most.
const redraw = 100 * time.Millisecond

func newTable(out *os.File) *table {
	status, err := out.Stat()
	terminal := err == nil && status.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &table{out: out, terminal: terminal}
}

func (t *table) add(domain string) *row {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	row := &row{table: t, domain: domain}
	t.rows = append(t.rows, row)
	return row
}

// show takes the guest's latest progress.
func (r *row) show(progress livedisk.Progress) {
	r.table.mutex.Lock()
	defer r.table.mutex.Unlock()
	changed := !r.started || progress.Phase != r.progress.Phase
	r.progress, r.started = progress, true
	if r.table.terminal {
		r.table.draw(changed)
	} else if changed && !progress.Phase.Final() {
		// The final phase has a line of its own.
		fmt.Fprintln(r.table.out, r.line())
	}
}

// end writes the guest's last line.
func (r *row) end(report livedisk.Report, err error) {
	t := r.table
	t.mutex.Lock()
	defer t.mutex.Unlock()
	r.over, r.failed = true, err != nil
	t.erase()
	if err != nil {
		fmt.Fprintf(t.out, "%-16s failed    %v\n", r.domain, err)
	} else {
		fmt.Fprintf(t.out, "%-16s done      %s copied in %v, %v consistent, frozen for %v\n", r.domain,
			size(report.BytesCopied), report.Elapsed.Round(time.Millisecond), report.Consistency,
			report.Freeze.Round(100*time.Microsecond))
	}
	t.draw(true)
}

// close writes the sum, and says how many guests failed.
func (t *table) close() (failed int) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.erase()
	for _, row := range t.rows {
		if row.failed {
			failed++
		}
	}
	fmt.Fprintf(t.out, "%d of %d guests done\n", len(t.rows)-failed, len(t.rows))
	return failed
}

func (t *table) erase() {
	if t.live > 0 {
		fmt.Fprintf(t.out, "\x1b[%dA\x1b[J", t.live)
		t.live = 0
	}
}

// draw shows the guests that run, which are as many as may run at a time, and how many wait.
func (t *table) draw(now bool) {
	if !t.terminal || !now && time.Since(t.drawn) < redraw {
		return
	}
	t.erase()
	waiting := 0
	for _, row := range t.rows {
		switch {
		case row.over:
		case row.started:
			fmt.Fprintln(t.out, row.line())
			t.live++
		default:
			waiting++
		}
	}
	if waiting > 0 {
		fmt.Fprintf(t.out, "%d more\n", waiting)
		t.live++
	}
	t.drawn = time.Now()
}

func (r *row) line() string {
	// A line that a terminal of 80 columns breaks could not be erased.
	const width = 12
	p, filled := r.progress, 0
	if p.BytesTotal > 0 {
		filled = int(min(p.BytesDone, p.BytesTotal) * width / p.BytesTotal)
	}
	bar := strings.Repeat("#", filled) + strings.Repeat(".", width-filled)
	return fmt.Sprintf("%-16.16s %-9v [%s] %10s/%10s %10s/s", r.domain, p.Phase, bar,
		size(p.BytesDone), size(p.BytesTotal), size(p.BytesPerSecond))
}

func size(bytes uint64) string {
	value, unit := float64(bytes), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, next
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}
