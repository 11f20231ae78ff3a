// SPDX-License-Identifier: LGPL-2.1-or-later
//! The header as cbindgen writes it: each item after its comment.

/// Something that the header declares.
pub struct Item {
    pub kind: Kind,
    pub name: String,
    /// As it stands in the header, without comments.
    pub text: String,
    pub comment: Vec<String>,
    pub fields: Vec<Field>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Constant,
    Handle,
    Struct,
    Callback,
    Function,
}

pub struct Field {
    pub text: String,
    pub comment: Vec<String>,
}

pub struct Header {
    /// The rules for every call.
    pub rules: Vec<String>,
    pub items: Vec<Item>,
}

/// The word of a declaration that an opening parenthesis, a bracket or its end follows.
fn last_word(text: &str) -> &str {
    let text = text.trim_end_matches([';', ' ', '{']);
    let start = text.rfind([' ', '*']).map_or(0, |at| at + 1);
    &text[start..]
}

fn name(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Constant => text.split_whitespace().nth(1).unwrap_or_default().to_owned(),
        Kind::Callback => text
            .split_once("(*")
            .and_then(|(_, rest)| rest.split_once(')'))
            .map_or("", |(name, _)| name)
            .to_owned(),
        Kind::Function => last_word(text.split('(').next().unwrap_or_default()).to_owned(),
        Kind::Handle | Kind::Struct => last_word(text).to_owned(),
    }
}

/// What a line begins, and what ends it; nothing where it is a part of no item.
fn begins(line: &str) -> Option<(Kind, &'static str)> {
    if line == "#define LIVEDISK_H" || line.starts_with("extern \"C\"") {
        None
    } else if line.starts_with("#define ") {
        Some((Kind::Constant, ""))
    } else if line.starts_with("struct ") && line.ends_with('{') {
        Some((Kind::Struct, "};"))
    } else if line.starts_with("struct ") && line.ends_with(';') && !line.contains('(') {
        Some((Kind::Handle, ""))
    } else if line.starts_with("typedef ") {
        Some((Kind::Callback, ";"))
    } else if line.starts_with(|first: char| first.is_ascii_alphabetic()) {
        Some((Kind::Function, ";"))
    } else {
        None
    }
}

/// The lines of a comment that has been opened, without its marks.
fn comment<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut found = Vec::new();
    for line in lines {
        let line = line.trim();
        let (line, is_end) = match line.strip_suffix("*/") {
            Some(rest) => (rest, true),
            None => (line, false),
        };
        let line = line.strip_prefix("* ").or(line.strip_prefix('*')).unwrap_or(line);
        if !(is_end && line.trim().is_empty()) {
            found.push(line.trim_end().to_owned());
        }
        if is_end {
            break;
        }
    }
    found
}

impl Header {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if !lines.next().is_some_and(|first| first.starts_with("/* SPDX")) {
            return Err("the header does not begin with its licence and its rules".into());
        }
        let rules = comment(&mut lines);
        let mut items = Vec::new();
        let mut about = Vec::new();
        while let Some(line) = lines.next() {
            if line.trim() == "/**" {
                about = comment(&mut lines);
                continue;
            }
            let Some((kind, end)) = begins(line) else { continue };
            let mut item = Item {
                kind,
                name: name(kind, line),
                text: line.to_owned(),
                comment: std::mem::take(&mut about),
                fields: Vec::new(),
            };
            let mut last = line;
            while !last.ends_with(end) {
                last = lines.next().ok_or_else(|| format!("{} does not end", item.name))?;
                if last.trim() == "/**" {
                    about = comment(&mut lines);
                    continue;
                }
                item.text += "\n";
                item.text += last;
                if kind == Kind::Struct && last != end {
                    let text = last.trim().to_owned();
                    let comment = std::mem::take(&mut about);
                    documented(&comment, &format!("{}: {text}", item.name))?;
                    item.fields.push(Field { text, comment });
                }
            }
            documented(&item.comment, &item.name)?;
            items.push(item);
        }
        Ok(Self { rules, items })
    }

    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |item| item.kind == kind)
    }
}

fn documented(comment: &[String], what: &str) -> Result<(), String> {
    if comment.iter().all(|line| line.trim().is_empty()) {
        return Err(format!("{what} has no comment; write one in src/abi"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = include_str!("../../../include/livedisk.h");

    #[test]
    fn every_kind_is_found() {
        let header = Header::parse(HEADER).unwrap();
        let named = |kind, name: &str| header.of(kind).any(|item| item.name == name);
        assert!(named(Kind::Constant, "LIVEDISK_ERR_INTERNAL"));
        assert!(named(Kind::Handle, "livedisk_operation"));
        assert!(named(Kind::Struct, "livedisk_report"));
        assert!(named(Kind::Callback, "livedisk_log_callback"));
        assert!(named(Kind::Function, "livedisk_version") && named(Kind::Function, "livedisk_finish"));
        let map = include_str!("../../../packaging/livedisk.map");
        let mut exports: Vec<_> = map.lines().filter_map(|line| line.trim().strip_suffix(';')).collect();
        exports.retain(|name| name.starts_with("livedisk_"));
        exports.sort_unstable();
        let mut functions: Vec<_> = header.of(Kind::Function).map(|item| item.name.as_str()).collect();
        functions.sort_unstable();
        assert_eq!(functions, exports);
    }

    /// Each comment in turn is taken away; the last line of each is then missing too.
    #[test]
    fn what_has_no_comment_is_refused() {
        let mut from = 0;
        let mut count = 0;
        while let Some(start) = HEADER[from..].find("/**\n").map(|at| from + at) {
            let end = start + HEADER[start..].find("*/").unwrap() + 2;
            let without = format!("{}{}", &HEADER[..start], &HEADER[end..]);
            assert!(Header::parse(&without).is_err(), "{}", &HEADER[start..end]);
            from = end;
            count += 1;
        }
        assert!(count > 100);
    }
}
