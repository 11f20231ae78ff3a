// SPDX-License-Identifier: LGPL-2.1-or-later

package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"livedisk.invalid/livedisk"
	"livedisk.invalid/livedisk/internal/bed"
)

var guests = []bed.Guest{bed.WithAgent, bed.WithoutAgent, bed.Third}

// program is what a user builds.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		directory, err := os.MkdirTemp("", "orchestrator")
		if err != nil {
			log.Print(err)
			return 1
		}
		defer os.RemoveAll(directory)
		program = filepath.Join(directory, "orchestrator")
		if output, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
			log.Printf("go build: %v: %s", err, output)
			return 1
		}
		return m.Run()
	}())
}

// directory is one that QEMU reaches.
func directory(t *testing.T) string {
	t.Helper()
	directory := bed.Path(t, "images")
	if err := os.Mkdir(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	return directory
}

func status(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return exit.ExitCode()
}

// All guests of the bed, two at a time, and one that is not there.
func TestOrchestrator(t *testing.T) {
	directory := directory(t)
	arguments := []string{"--connect", bed.URI(t), "--directory", directory, "--jobs", "2"}
	var records []int
	for _, guest := range guests {
		argument := guest.Domain(t)
		if guest == bed.WithAgent {
			argument += ":vda,vdb"
		}
		arguments = append(arguments, argument)
		records = append(records, guest.LastRecord(t, "vda"))
	}
	output, err := exec.Command(program, arguments...).Output()
	if status(t, err) != 0 {
		t.Fatalf("%v: %s", err, output)
	}
	for i, guest := range guests {
		clean := guest != bed.WithoutAgent
		bed.CheckImage(t, filepath.Join(directory, guest.Domain(t)+"-vda.qcow2"), "qcow2", clean, records[i])
		guest.CheckClean(t)
		if !strings.Contains(string(output), "\n"+guest.Domain(t)) || strings.Contains(string(output), "\x1b") {
			t.Errorf("unexpected lines in a pipe: %q", output)
		}
	}
	bed.CheckImage(t, filepath.Join(directory, bed.WithAgent.Domain(t)+"-vdb.qcow2"), "qcow2", true, 1)
	if !bytes.Contains(output, []byte("3 of 3 guests done\n")) {
		t.Errorf("no sum in %q", output)
	}

	// The images are there now, so nothing is overwritten; the fourth guest is not.
	output, err = exec.Command(program, append(arguments, "nobody")...).Output()
	if status(t, err) != 1 || !bytes.Contains(output, []byte("0 of 4 guests done\n")) || !bytes.Contains(output, []byte("nobody")) {
		t.Errorf("%v: %s", err, output)
	}
}

// Ctrl-C in the middle: nothing is left of any guest's operation.
func TestInterrupt(t *testing.T) {
	directory := directory(t)
	arguments := []string{"--connect", bed.URI(t), "--directory", directory, "--jobs", "2", "--bandwidth", "1048576"}
	for _, guest := range guests {
		arguments = append(arguments, guest.Domain(t))
	}
	command := exec.Command(program, arguments...)
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(time.Minute, func() { command.Process.Kill() }).Stop()
	lines := bufio.NewReader(output)
	var seen strings.Builder
	// Two run, and the third waits for its turn.
	for strings.Count(seen.String(), "copying") < 2 {
		line, err := lines.ReadString('\n')
		seen.WriteString(line)
		if err != nil {
			t.Fatalf("%v after: %s", err, seen.String())
		}
	}
	if err := command.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	if status(t, command.Wait()) != 130 || !bytes.Contains(rest, []byte("0 of 3 guests done\n")) {
		t.Errorf("%v: %s", command.ProcessState, rest)
	}
	left, err := os.ReadDir(directory)
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
	for _, guest := range guests {
		guest.CheckClean(t)
	}
}

func TestUsage(t *testing.T) {
	output, err := exec.Command(program, "--help").Output()
	if status(t, err) != 0 || !bytes.Contains(output, []byte("Usage: orchestrator")) || !bytes.Contains(output, []byte("-jobs N")) {
		t.Errorf("%v: %s", err, output)
	}
	for says, arguments := range map[string][]string{
		"no --directory": {"guest"},
		"no guests":      {"--directory", "/backup"},
		"--jobs":         {"--directory", "/backup", "--jobs", "0", "guest"},
		"-nonsense":      {"--nonsense"},
	} {
		output, err := exec.Command(program, arguments...).CombinedOutput()
		if status(t, err) != 2 || !strings.Contains(string(output), says) {
			t.Errorf("%v: %v: %s", arguments, err, output)
		}
	}
}

// On a terminal, what changes is erased before it is drawn again.
func TestTable(t *testing.T) {
	var out bytes.Buffer
	table := &table{out: &out, terminal: true}
	one, two, three := table.add("one"), table.add("two"), table.add("three")
	one.show(livedisk.Progress{Phase: livedisk.PhaseCopying, BytesDone: 512, BytesTotal: 1024})
	two.show(livedisk.Progress{Phase: livedisk.PhasePreparing})
	// Too soon to be worth drawing.
	drawn := out.Len()
	two.show(livedisk.Progress{Phase: livedisk.PhasePreparing, Step: 1})
	if out.Len() != drawn {
		t.Errorf("drawn too often: %q", out.String()[drawn:])
	}
	one.end(livedisk.Report{Elapsed: time.Second}, nil)
	two.end(livedisk.Report{}, errors.New("the reason"))
	three.end(livedisk.Report{}, nil)
	if failed := table.close(); failed != 1 {
		t.Errorf("%d failed", failed)
	}
	if screen := play(out.String()); len(screen) != 4 || !strings.HasPrefix(screen[0], "one") || !strings.Contains(screen[1], "the reason") ||
		!strings.HasPrefix(screen[2], "three") || screen[3] != "2 of 3 guests done" {
		t.Errorf("the screen shows %q", screen)
	}
	if !strings.Contains(out.String(), "######......") || !strings.Contains(out.String(), "2 more") {
		t.Errorf("no bar or no number of waiting guests in %q", out.String())
	}
	for _, line := range strings.Split(out.String(), "\n") {
		if len(strings.TrimLeft(line, "\x1b[0123456789AJ")) > 79 {
			t.Errorf("too wide for a terminal: %q", line)
		}
	}
}

// play is what a terminal makes of lines and of "up n lines, erase from there".
func play(text string) (screen []string) {
	for len(text) > 0 {
		if rest, found := strings.CutPrefix(text, "\x1b["); found {
			number, rest, _ := strings.Cut(rest, "A\x1b[J")
			up := 0
			for _, digit := range number {
				up = up*10 + int(digit-'0')
			}
			screen, text = screen[:len(screen)-up], rest
			continue
		}
		line, rest, _ := strings.Cut(text, "\n")
		screen, text = append(screen, line), rest
	}
	return screen
}
