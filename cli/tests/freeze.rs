// SPDX-License-Identifier: LGPL-2.1-or-later
//! livedisk freeze and livedisk thaw on a real bed.

mod bed;

use std::process::Output;

use bed::{Bed, kill, until};
use signal_hook::consts::SIGKILL;

impl Bed {
    fn ends(&self, status: i32, arguments: &[&str]) -> String {
        let output: Output = self.livedisk(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        said
    }

    fn fsfreeze_status(&self) -> String {
        let question = r#"{"execute":"guest-fsfreeze-status"}"#;
        self.virsh(&["qemu-agent-command", "--timeout", "10", "a", question])
    }

    /// The process that holds the freeze.
    fn holder(&self) -> String {
        let status: serde_json::Value = serde_json::from_str(&self.ends(0, &["status", "a", "--json"])).unwrap();
        let operation = &status["operations"][0];
        assert_eq!(operation["kind"], "freeze", "{status}");
        assert_eq!(operation["orphaned"], false, "{status}");
        operation["owner_process"].to_string()
    }
}

fn runs(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

#[test]
fn a_freeze_outlives_its_command() {
    let bed = Bed::up("ldfrz", &["name=a,disks=raw:16M,data=2M", "name=b,agent=no,data=1M"]);
    let said = bed.ends(0, &["freeze", "a", "--limit", "120s"]);
    assert!(said.contains("'a'") && said.contains("frozen"), "{said}");
    assert!(bed.fsfreeze_status().contains("frozen"));
    let holder = bed.holder();
    let table = bed.ends(0, &["status"]);
    assert!(table.contains("freeze") && table.contains(&holder), "{table}");
    let busy = bed.ends(5, &["freeze", "a"]);
    assert!(busy.contains(&holder) && busy.contains("livedisk thaw"), "{busy}");
    let said = bed.ends(0, &["thaw", "a", "--json"]);
    assert!(said.contains("\"filesystems_thawed\":"), "{said}");
    assert!(bed.fsfreeze_status().contains("thawed"));
    until("the holder has ended", || !runs(&holder));
    bed.ends(9, &["thaw", "a"]);

    // The limit, and the holder's death.
    for killed in [false, true] {
        let said = bed.ends(
            0,
            &["freeze", "a", "--json", "--limit", if killed { "120s" } else { "2s" }],
        );
        assert!(said.contains("\"filesystems_frozen\":"), "{said}");
        let holder = bed.holder();
        if killed {
            kill(holder.parse().unwrap(), SIGKILL);
        }
        until("it is thawed", || bed.fsfreeze_status().contains("thawed"));
        until("the holder has ended", || !runs(&holder));
        let late = bed.ends(7, &["thaw", "a"]);
        assert!(late.contains("not consistent"), "{late}");
    }
    // To cancel is to thaw: what is held, what its guard has let go, and what is unguarded.
    for (killed, guard) in [(false, ""), (true, ""), (true, "/no/such/guard")] {
        let mut freeze = bed.livedisk(&["freeze", "a", "--limit", "120s"]);
        assert!(freeze.env("LIVEDISK_GUARD", guard).status().unwrap().success());
        let holder = bed.holder();
        bed.ends(9, &["cancel", "a", "vda"]);
        if killed {
            kill(holder.parse().unwrap(), SIGKILL);
            until("the holder has ended", || !runs(&holder));
        }
        let said = bed.ends(0, &["cancel", "a"]);
        assert!(said.contains("the freeze of domain 'a' was cancelled"), "{said}");
        assert!(bed.fsfreeze_status().contains("thawed"));
        until("the holder has ended", || !runs(&holder));
        bed.ends(9, &["cancel", "a"]);
    }
    bed.ends(7, &["freeze", "b"]);
    bed.ends(4, &["freeze", "nobody"]);
    let answer: serde_json::Value = serde_json::from_str(&bed.ends(4, &["freeze", "nobody", "--json"])).unwrap();
    assert_eq!(answer["error"]["code"], "NO_DOMAIN");
    assert_eq!(bed.ends(0, &["status"]).trim(), "no operations");
}
