// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// What a Go name is in the header, where that is not the same in the other spelling.
var (
	structs = map[string]string{
		"SnapshotDisk": "livedisk_snapshot_disk", "SnapshotOptions": "livedisk_snapshot_options",
		"MigrateOptions": "livedisk_migrate_options", "Progress": "livedisk_progress", "Report": "livedisk_report",
		"Recovery": "livedisk_recovery", "Checkpoint": "livedisk_checkpoint", "OperationInfo": "livedisk_operation_info",
	}
	flags = map[string]string{
		"SnapshotDisk": "LIVEDISK_DISK_", "SnapshotOptions": "LIVEDISK_SNAPSHOT_", "MigrateOptions": "LIVEDISK_MIGRATE_",
	}
	fields = map[string]string{
		"FreezeLimit": "freeze_limit_ms", "CloneFunc": "clone_callback", "PointInTime": "point_in_time_ns",
		"Freeze": "freeze_ns", "Pause": "pause_ns", "Elapsed": "elapsed_ns", "Started": "started_ns", "Created": "created_ns", "ID": "id",
	}
	functions = map[string]string{
		"StartLiveSnapshot": "livedisk_start_live_snapshot", "MigrateDisk": "livedisk_migrate_disk",
		"Attach": "livedisk_attach", "Recover": "livedisk_recover", "Operations": "livedisk_list_operations",
		"Freeze": "livedisk_freeze", "Thaw": "livedisk_thaw", "Cancel": "livedisk_cancel",
		"RequestCancel": "livedisk_request_cancel", "Checkpoints": "livedisk_list_checkpoints",
		"DeleteCheckpoint": "livedisk_delete_checkpoint", "CloneFunc": "livedisk_clone_callback",
	}
)

// In this order: the header's words, and Go's.
var words = []struct{ from, to string }{
	{`livedisk_start_live_snapshot\(\)`, "[Connection.StartLiveSnapshot]"},
	{`livedisk_migrate_disk\(\)`, "[Connection.MigrateDisk]"},
	{`livedisk_attach\(\)`, "[Connection.Attach]"},
	{`livedisk_recover\(\)`, "[Connection.Recover]"},
	{`livedisk_freeze\(\)`, "[Connection.Freeze]"},
	{`livedisk_thaw\(\)`, "[Connection.Thaw]"},
	{`livedisk_poll\(\) and the descriptor`, "[Operation.Wait] and the channel of [Operation.Progress]"},
	{`livedisk_poll\(\)`, "[Operation.Poll]"},
	{`livedisk_finish\(\)`, "[Operation.Finish]"},
	{`livedisk_cancel\(\)`, "[Operation.Cancel]"},
	{`livedisk_operation_free\(\)`, "[Operation.Close]"},
	{`livedisk_error_libvirt_code\(\)`, "LibvirtCode of the [Error]"},
	{`As LIVEDISK_SNAPSHOT_(\w+)`, "As SNAPSHOT_$1 of [SnapshotOptions]"},
	{`, (one of )?LIVEDISK_(METHOD|CLONE|CONSISTENCY|WARNING)_\*`, ""},
	{`(One of )?LIVEDISK_(METHOD|QUIESCE|PHASE)_\*`, "The [$2]"},
	{`LIVEDISK_CLONE_\*`, "The [CloneMethod]"},
	{`\bLIVEDISK_(METHOD|CLONE|PHASE|ERR)_(\w+)`, "[${1}_$2]"},
	{`\b(MIRROR|BACKUP|CLONE|REBASE|AUTO)\b`, "[METHOD_$1]"},
	{`\b(READY|DONE)\b`, "[PHASE_$1]"},
	{`\b(FREEZE|BUSY|UNSUPPORTED|NO_OPERATION|NO_SPACE|CANCELLED)\b`, "[ERR_$1]"},
	{`\bREQUIRE\b`, "[QUIESCE_$0]"},
	{`\bSNAPSHOT_(AUTO_FINISH|DRY_RUN|WRITE_BLOCKING)\b`, "$1"},
	{`\ba null pointer\b`, "nil"},
	{`Returns 0 on success, anything else on failure\.`, "An error makes the operation fail with [ERR_JOB_FAILED]."},
	{`\bINFO\b`, "Info"},
	{`the log callback`, "the logger"},
	{` Not supported yet: NULL\.`, " Not supported yet."},
	{`[.;] NULL: `, ". Empty: "},
	{`^Nanoseconds for which`, "How long"},
	{`^Nanoseconds`, "Time"},
	{`^Milliseconds the guest may`, "How long the guest may"},
	{`, in nanoseconds of CLOCK_REALTIME`, ""},
	{` 0 for a dry run\.`, " Zero for a dry run."},
	{`^1: a migration; 0: a snapshot`, "A migration; else a snapshot"},
	{`^1: the process(.*); 0: it runs\.$`, "The process$1."},
	{`, in digits`, ""},
	{`\bUINT64_MAX\b`, "[ChangedUnknown]"},
	{`^1: what(.*); 0: it is not, and .*$`, "What$1."},
}

var (
	constant = regexp.MustCompile(`\[(METHOD|CLONE|PHASE|ERR|QUIESCE)(_[A-Z_]+)?\]`)
	option   = regexp.MustCompile("\\b(SHALLOW|VERIFY|COMPRESS|FULL_IF_NEEDED)\\b|\\b(AUTO|DRY|WRITE)_[A-Z]+\\b|`[a-z]+`")
)

// inGo is a text of the header in Go's words.
func inGo(text string) string {
	for _, word := range words {
		text = regexp.MustCompile(word.from).ReplaceAllString(text, word.to)
	}
	text = constant.ReplaceAllStringFunc(text, func(found string) string { return "[" + camel(strings.Trim(found, "[]")) + "]" })
	return option.ReplaceAllStringFunc(text, func(found string) string {
		if name := strings.Trim(found, "`"); name == "source" || name == "destination" {
			return name
		} else {
			return camel(name)
		}
	})
}

// camel makes WRITE_BLOCKING WriteBlocking.
func camel(name string) string {
	var made strings.Builder
	for _, word := range strings.Split(strings.ToLower(name), "_") {
		if word != "" {
			made.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return strings.NewReplacer("Io", "IO").Replace(made.String())
}

// snake makes WriteBlocking write_blocking.
func snake(name string) string {
	return strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(name, "${1}_$2"))
}

// headerComments has the header's comments by name: a constant, "struct.field", a function; paragraphs before the first @.
func headerComments(header string) map[string][]string {
	found := map[string][]string{}
	within := ""
	opening := regexp.MustCompile(`^struct (livedisk_\w+) \{$`)
	item := regexp.MustCompile(`^(?:#define (LIVEDISK_\w+)|typedef .*\(\*(\w+)\)|\S.*?\b(livedisk_\w+)\(| +.*?(\w+)(?:\[\d+\])?;$)`)
	for header != "" {
		line, rest, _ := strings.Cut(header, "\n")
		if match := opening.FindStringSubmatch(line); match != nil {
			within = match[1] + "."
		} else if line == "};" {
			within = ""
		}
		header = rest
		if strings.TrimSpace(line) != "/**" {
			continue
		}
		comment, after, _ := strings.Cut(rest, "*/\n")
		header = after
		match := item.FindStringSubmatch(strings.SplitN(after, "\n", 2)[0])
		if match == nil {
			continue
		}
		name := match[1] + match[2] + match[3]
		if match[4] != "" {
			name = within + match[4]
		}
		text := regexp.MustCompile(`(?m)^ *\* ?`).ReplaceAllString(strings.TrimRight(comment, " "), "")
		text, _, _ = strings.Cut(text, "@")
		for _, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
			found[name] = append(found[name], strings.Join(strings.Fields(paragraph), " "))
		}
	}
	return found
}

// wrapped is paragraphs as a comment of lines of at most 120 columns, a tab being four.
func wrapped(paragraphs []string, indent string) []string {
	var lines []string
	for i, paragraph := range paragraphs {
		if i > 0 {
			lines = append(lines, indent+"//")
		}
		line := indent + "//"
		for _, word := range strings.Fields(paragraph) {
			if len(line)+3*len(indent)+1+len(word) > 120 {
				lines = append(lines, line)
				line = indent + "//"
			}
			line += " " + word
		}
		lines = append(lines, line)
	}
	return lines
}

// What begins a paragraph that only Go has.
var onlyGo = regexp.MustCompile(`^(The context|If the context|Any phase|It fails|In Go)`)

// rewritten is a Go file with the header's comments, and how many it has taken.
func rewritten(source string, comments map[string][]string) (string, int) {
	constants := regexp.MustCompile(`^\t\w+ +\w+ += C\.(LIVEDISK_\w+)$`)
	field := regexp.MustCompile(`^\t([A-Z]\w*) +(\S+)$`)
	opening := regexp.MustCompile(`^type (\w+) (?:struct \{$|func\()`)
	function := regexp.MustCompile(`^func \(\w \*\w+\) (\w+)\(`)
	var lines, comment []string
	within, count := "", 0
	for _, line := range strings.Split(source, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "// ") || strings.TrimSpace(line) == "//" {
			comment = append(comment, line)
			continue
		}
		name, label := "", ""
		if match := opening.FindStringSubmatch(line); match != nil {
			within = match[1]
			name, label = functions[within], within
		} else if match := constants.FindStringSubmatch(line); match != nil {
			name = match[1]
		} else if match := function.FindStringSubmatch(line); match != nil {
			name, label = functions[match[1]], match[1]
		} else if match := field.FindStringSubmatch(line); match != nil && structs[within] != "" {
			if name = structs[within] + "." + snake(match[1]); fields[match[1]] != "" {
				name = structs[within] + "." + fields[match[1]]
			}
			if flags[within] != "" && match[2] == "bool" {
				name = flags[within] + strings.ToUpper(snake(match[1]))
			}
		}
		if paragraphs := comments[name]; len(paragraphs) > 0 && len(comment) > 0 {
			count++
			var own []string
			for _, paragraph := range paragraphs {
				own = append(own, inGo(paragraph))
			}
			indent := line[:len(line)-len(strings.TrimLeft(line, "\t"))]
			if label != "" {
				own[0] = label + " " + strings.ToLower(own[0][:1]) + own[0][1:]
				for i, paragraph := range strings.Split(strings.Join(comment, "\n"), "\n//\n") {
					if i > 0 && onlyGo.MatchString(strings.TrimPrefix(paragraph, "// ")) || len(own) > len(paragraphs) {
						own = append(own, strings.ReplaceAll(paragraph, "\n//", ""))
						own[len(own)-1] = strings.TrimPrefix(own[len(own)-1], "// ")
					}
				}
			}
			comment = wrapped(own, indent)
		}
		lines = append(append(lines, comment...), line)
		comment = nil
	}
	return strings.Join(append(lines, comment...), "\n"), count
}

// TestComments holds what Go says of a constant, a field and an operation to what the header says. With UPDATE_COMMENTS=1
// in the environment it writes that.
func TestComments(t *testing.T) {
	header, err := os.ReadFile("livedisk.h")
	if err != nil {
		t.Fatal(err)
	}
	comments := headerComments(string(header))
	taken := 0
	for _, name := range []string{
		"checkpoints.go", "connection.go", "errors.go", "freeze.go", "list.go", "operation.go", "options.go", "start.go", "values.go",
		"watch.go",
	} {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		wanted, count := rewritten(string(source), comments)
		taken += count
		switch {
		case wanted == string(source):
		case os.Getenv("UPDATE_COMMENTS") != "":
			if err := os.WriteFile(name, []byte(wanted), 0o644); err != nil {
				t.Fatal(err)
			}
		default:
			t.Errorf("%s has other comments than livedisk.h; run: UPDATE_COMMENTS=1 bindings/go/test -run TestComments", name)
		}
	}
	if taken < 90 {
		t.Errorf("only %d comments of the header were found in Go", taken)
	}
}

// TestHeader: the package has the header that it was written for, and so builds beside an older library.
func TestHeader(t *testing.T) {
	own, err := os.ReadFile("livedisk.h")
	if err != nil {
		t.Fatal(err)
	}
	current, err := os.ReadFile("../../include/livedisk.h")
	if err != nil {
		t.Fatal(err)
	}
	if string(own) != string(current) {
		t.Error("run: cp include/livedisk.h bindings/go/livedisk.h")
	}
}
