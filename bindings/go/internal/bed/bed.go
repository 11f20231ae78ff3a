// SPDX-License-Identifier: LGPL-2.1-or-later

// Package bed is what tests know of the test bed they run on: bindings/go/test starts it.
package bed

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Guest is a guest of the bed, by its number.
type Guest int

// The guests that bindings/go/test boots.
const (
	// WithAgent has vda (qcow2 with a backing file) and vdb (raw).
	WithAgent Guest = 1 + iota
	// WithoutAgent has vda (qcow2).
	WithoutAgent
	// Third has vda (qcow2) and an agent.
	Third
)

// Value is LIVEDISK_TEST_name.
func Value(t testing.TB, name string) string {
	t.Helper()
	value, found := os.LookupEnv("LIVEDISK_TEST_" + name)
	if !found {
		t.Fatalf("LIVEDISK_TEST_%s is not set: run bindings/go/test, which starts the test bed", name)
	}
	return value
}

func (g Guest) value(t testing.TB, name string) string {
	t.Helper()
	return Value(t, fmt.Sprintf("%s_%d", name, g))
}

// Domain is the guest's name.
func (g Guest) Domain(t testing.TB) string {
	t.Helper()
	return g.value(t, "DOMAIN")
}

// URI connects to the bed's libvirtd.
func URI(t testing.TB) string {
	t.Helper()
	return Value(t, "URI")
}

var paths atomic.Int32

// Path is a name in the bed's directory that is not in use yet; what is there at the end of the test is removed.
func Path(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Value(t, "DIR"), fmt.Sprintf("go-%d-%d-%s", os.Getpid(), paths.Add(1), name))
	t.Cleanup(func() { os.Remove(path) })
	return path
}

// Exists is whether there is anything of that name.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// LastRecord is the number of the last record that was acknowledged to the guest's writer.
func (g Guest) LastRecord(t testing.TB, disk string) int {
	t.Helper()
	log, err := os.Open(g.value(t, "WRITER"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	last := 0
	for lines := bufio.NewScanner(log); lines.Scan(); {
		// sequence disk realtime_ns latency_us; the last line may not be whole yet.
		words := strings.Fields(lines.Text())
		if len(words) == 4 && words[1] == disk {
			sequence, err := strconv.Atoi(words[0])
			if err != nil {
				t.Fatalf("the writer's log: %v", err)
			}
			last = max(last, sequence)
		}
	}
	if last == 0 {
		t.Fatalf("the writer of %s has acknowledged no record on %s", g.Domain(t), disk)
	}
	return last
}

// CheckImage verifies the records in an image: none torn, missing or out of order, and at least those acknowledged.
func CheckImage(t testing.TB, image, format string, clean bool, atLeast int) {
	t.Helper()
	output, err := exec.Command(Value(t, "RECORDS"), image, "--format", format, "--json").Output()
	if err != nil {
		t.Fatalf("records in %s: %v: %s", image, err, output)
	}
	var found struct {
		Last  int  `json:"last"`
		Clean bool `json:"fs_clean"`
	}
	if err := json.Unmarshal(output, &found); err != nil {
		t.Fatalf("records in %s: %v: %s", image, err, output)
	}
	if found.Last < atLeast {
		t.Errorf("%s ends with record %d; %d was acknowledged before the point in time", image, found.Last, atLeast)
	}
	if clean && !found.Clean {
		t.Errorf("the file system in %s is not clean, though the guest was frozen", image)
	}
}

// Virsh runs virsh on the bed's libvirtd.
func Virsh(t testing.TB, arguments ...string) string {
	t.Helper()
	command := exec.Command("virsh", append([]string{"-q", "-c", URI(t)}, arguments...)...)
	command.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(Value(t, "DIR"), "c"))
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %v: %v: %s", arguments, err, output)
	}
	return string(output)
}

// CheckClean verifies that nothing of an operation is left on the guest, and that it writes.
func (g Guest) CheckClean(t testing.TB) {
	t.Helper()
	for _, state := range [][]string{nil, {"--inactive"}} {
		xml := Virsh(t, append([]string{"dumpxml", g.Domain(t)}, state...)...)
		for _, rest := range []string{"urn:livedisk:operation:", "<mirror"} {
			if strings.Contains(xml, rest) {
				t.Errorf("%s of an operation is left in the definition of %s", rest, g.Domain(t))
			}
		}
	}
	before := g.LastRecord(t, "vda")
	for deadline := time.Now().Add(10 * time.Second); g.LastRecord(t, "vda") == before; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s has not written for 10 s", g.Domain(t))
		}
	}
}
