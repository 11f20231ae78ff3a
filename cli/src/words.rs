// SPDX-License-Identifier: LGPL-2.1-or-later
//! The library speaks of its constants; here they become the command's options.

/// A constant as the library's messages name it, and the option.
const OPTIONS: [(&str, &str); 16] = [
    ("BACKUP", "--method backup"),
    ("MIRROR", "--method mirror"),
    ("REBASE", "--method rebase"),
    ("CLONE", "--method clone"),
    ("REFLINK", "--clone reflink"),
    ("COPY", "--clone copy"),
    ("VOLUME", "--clone volume"),
    ("SHALLOW", "--shallow"),
    ("VERIFY", "--verify"),
    ("COMPRESS", "--compress"),
    ("WRITE_BLOCKING", "--write-blocking"),
    ("REUSE_EXISTING", "--reuse-existing"),
    ("ALLOW_PLAINTEXT", "--allow-plaintext"),
    ("DELETE_SOURCE", "--delete-source"),
    ("DRY_RUN", "--dry-run"),
    ("FULL_IF_NEEDED", "--full-if-needed"),
];

/// The ways of cloning; AUTO beside one of them is of `--clone`.
const CLONES: [&str; 3] = ["REFLINK", "COPY", "VOLUME"];

/// A message of the library in the command's words. What stands in quotes is somebody's name and stays.
pub fn ours(message: &str) -> String {
    let core = |word: &str| word.trim_matches(|c: char| ",;:.()".contains(c)).to_owned();
    let of_clone = message.split(' ').any(|word| CLONES.contains(&core(word).as_str()));
    let mut quoted = false;
    let mut words: Vec<String> = Vec::new();
    for word in message.split(' ') {
        let constant = core(word);
        quoted |= constant.starts_with('\'');
        let option = match constant.as_str() {
            _ if quoted => None,
            "AUTO" if of_clone => Some("--clone auto"),
            "AUTO" => Some("--method auto"),
            constant => OPTIONS
                .iter()
                .find(|(name, _)| *name == constant)
                .map(|(_, option)| *option),
        };
        if quoted && constant.ends_with('\'') {
            quoted = false;
        }
        let Some(option) = option else {
            words.push(word.to_owned());
            continue;
        };
        if option.starts_with("--method") && words.last().is_some_and(|before| before == "method") {
            words.pop();
        }
        words.push(word.replace(&constant, option));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_become_options() {
        for (message, expected) in [
            (
                "method REBASE is not supported; use MIRROR or BACKUP",
                "--method rebase is not supported; use --method mirror or --method backup",
            ),
            (
                "leave SHALLOW out; set ALLOW_PLAINTEXT",
                "leave --shallow out; set --allow-plaintext",
            ),
            ("use AUTO or COPY", "use --clone auto or --clone copy"),
            (
                "made by CLONE or MIRROR; ask for one of them or AUTO",
                "made by --method clone or --method mirror; ask for one of them or --method auto",
            ),
            (
                "disk 'a MIRROR b' of domain 'VERIFY': the guest's COPY",
                "disk 'a MIRROR b' of domain 'VERIFY': the guest's --clone copy",
            ),
            ("'/MIRROR/COPY': plain  text", "'/MIRROR/COPY': plain  text"),
        ] {
            assert_eq!(ours(message), expected);
        }
    }

    #[test]
    fn the_options_are_the_commands() {
        use clap::CommandFactory;
        let command = crate::args::Arguments::command();
        let known = |option: &str| {
            let mut words = option.trim_start_matches("--").split(' ');
            let (long, value) = (words.next().unwrap(), words.next());
            let has = |argument: &clap::Arg| {
                let values = argument.get_possible_values();
                argument.get_long() == Some(long)
                    && value.is_none_or(|value| values.iter().any(|known| known.matches(value, false)))
            };
            command
                .get_subcommands()
                .any(|command| command.get_arguments().any(has))
        };
        for (name, option) in OPTIONS {
            assert!(known(option), "{name}: {option}");
        }
    }
}
