// SPDX-License-Identifier: LGPL-2.1-or-later
//! The progress in a real terminal, tmux's, of several widths. With LIVEDISK_SCREENS=FILE what was on the screens goes into
//! that page, docs/operations.md.

mod bed;

use std::path::Path;
use std::process::Command;

use bed::{Bed, until};

/// Ends with the test.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn tmux(&self, arguments: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.args(["-S", &self.socket, "-f", "/dev/null"]).args(arguments);
        let output = tmux.env_remove("TMUX").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", bed::text(&output.stderr));
        bed::text(&output.stdout)
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut tmux = Command::new("tmux");
        let _ = tmux.args(["-S", &self.socket, "kill-server"]).status();
    }
}

#[test]
fn the_progress_fits_and_is_cleared_by_an_interrupt() {
    let bed = Bed::up("ldterm", &["name=a,disks=qcow2:64M,agent=no"]);
    let screens = [40, 80, 120].map(|width| at_width(&bed, width));
    let screens = screens.concat();
    println!("{screens}");
    if let Some(page) = std::env::var_os("LIVEDISK_SCREENS") {
        let (from, to) = ("<!-- screens -->\n", "<!-- end of screens -->");
        let text = std::fs::read_to_string(&page).unwrap();
        let (before, rest) = text.split_once(from).unwrap();
        let (_, after) = rest.split_once(to).unwrap();
        std::fs::write(&page, format!("{before}{from}{screens}{to}{after}")).unwrap();
    }
}

/// The screens of a copy and of its cancelling, as a block of a page.
fn at_width(bed: &Bed, width: usize) -> String {
    let image = bed.path(&format!("{width}.qcow2"));
    let terminal = Terminal {
        socket: bed.path(&format!("tmux.{width}")),
    };
    let command = format!(
        "{} -c '{}' snapshot a --disk vda={image} --method mirror --bandwidth 1M; echo \"exit $?\"; sleep 60",
        env!("CARGO_BIN_EXE_livedisk"),
        bed.get("URI")
    );
    terminal.tmux(&["new-session", "-d", "-x", &width.to_string(), "-y", "24", &command]);

    let mut screen = String::new();
    until("the time left is shown", || {
        screen = terminal.screen();
        screen.contains(" left\n")
    });
    // A warning above, and one line of progress.
    let progress: Vec<&str> = screen.lines().filter(|line| line.contains(" left")).collect();
    assert_eq!(progress.len(), 1, "{screen}");
    assert_eq!(screen.lines().filter(|line| line.contains('%')).count(), 1, "{screen}");
    assert!(progress[0].chars().count() <= width - 3, "{screen}");
    assert_eq!(progress[0].contains("MiB/s"), width >= 80, "{screen}");
    // At 80 columns it depends on the numbers.
    if width != 80 {
        assert_eq!(progress[0].starts_with('['), width > 80, "{screen}");
    }

    let copying = shown(&screen, &bed.path(""));
    terminal.tmux(&["send-keys", "C-c"]);
    until("it says so", || {
        screen = terminal.screen();
        screen.contains("cancelling")
    });
    assert!(!screen.contains(" left\n") && !screen.contains("^C"), "{screen}");
    let cancelling = shown(&screen, &bed.path(""));
    until("it ends", || {
        screen = terminal.screen();
        screen.contains("exit 130")
    });
    assert!(!screen.contains('%') && !screen.contains("^C"), "{screen}");
    assert!(!Path::new(&image).exists());
    format!("{width} columns, copying and after Ctrl-C:\n\n```text\n{copying}```\n\n```text\n{cancelling}```\n\n")
}

/// What is on the screen, without the lines below.
fn shown(screen: &str, directory: &str) -> String {
    assert!(!screen.contains(directory), "{screen}");
    format!("{}\n", screen.trim_end())
}
