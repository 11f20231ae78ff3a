// SPDX-License-Identifier: LGPL-2.1-or-later
//! Pages in man(7).

use std::fmt::Write as _;

use crate::header::{Header, Item, Kind};

/// Every page with its file's name.
pub fn pages(header: &Header) -> Vec<(String, String)> {
    let mut pages = vec![("livedisk.3".to_owned(), overview(header))];
    for item in header.of(Kind::Function) {
        pages.push((format!("{}.3", item.name), function(header, item)));
    }
    // A struct is found on the page of the first function that takes it.
    for item in header.items.iter().filter(|item| is_described(item.kind)) {
        let takes = |function: &&Item| types_of(header, function).any(|found| found.name == item.name);
        if let Some(function) = header.of(Kind::Function).find(takes) {
            pages.push((format!("{}.3", item.name), format!(".so man3/{}.3\n", function.name)));
        }
    }
    pages
}

fn is_described(kind: Kind) -> bool {
    matches!(kind, Kind::Struct | Kind::Callback)
}

/// Structs and callbacks of a function, and those within them.
fn types_of<'a>(header: &'a Header, function: &Item) -> impl Iterator<Item = &'a Item> {
    let mut text = function.text.clone();
    let mut found: Vec<&Item> = Vec::new();
    while let Some(item) = header.items.iter().find(|item| {
        is_described(item.kind) && has_word(&text, &item.name) && !found.iter().any(|other| other.name == item.name)
    }) {
        text += &item.text;
        found.push(item);
    }
    found.into_iter()
}

fn is_of_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|letter| !is_of_word(letter)).any(|found| found == word)
}

/// Text that roff leaves alone; livedisk's own names in bold.
fn plain(line: &str) -> String {
    let mut text = String::new();
    for word in line.split_inclusive(|letter| !is_of_word(letter)) {
        let name = word.trim_end_matches(|letter| !is_of_word(letter));
        let rest = word[name.len()..].replace('\\', "\\e").replace('-', "\\-");
        if name.starts_with("livedisk_") || name.starts_with("LIVEDISK_") {
            let _ = write!(text, "\\fB{name}\\fR{rest}");
        } else {
            text += name;
            text += &rest.replace('`', "");
        }
    }
    // A control character of roff at the beginning of a line.
    if text.starts_with(['.', '\'']) {
        text.insert_str(0, "\\&");
    }
    text
}

/// Lines that are kept as they are.
fn code(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    format!(".nf\n{}\n.fi\n", text.trim_end())
}

/// Paragraphs. A result stands on a line of its own.
fn paragraphs<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    let mut is_pause = true;
    for line in lines.map(str::trim) {
        if line.is_empty() {
            is_pause = true;
            continue;
        }
        if is_pause && !text.is_empty() {
            text += ".PP\n";
        } else if !is_pause && line.starts_with("LIVEDISK_ERR_") {
            text += ".br\n";
        }
        is_pause = false;
        text += &plain(line);
        text += "\n";
    }
    text
}

fn joined(comment: &[String]) -> String {
    paragraphs(comment.iter().map(String::as_str))
}

fn head(name: &str, summary: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let summary = plain(summary).replace("\\fB", "").replace("\\fR", "");
    format!(
        ".\\\" Made from include/livedisk.h by tools/man3.\n.TH {} 3 \"\" \"livedisk {version}\" \"livedisk\"\n\
         .SH NAME\n{name} \\- {summary}\n.SH LIBRARY\nlivedisk (\\fI\\-llivedisk\\fR)\n",
        name.to_uppercase()
    )
}

/// The first sentence, in one line and without its full stop.
fn summary(comment: &[String]) -> String {
    let text = comment
        .iter()
        .take_while(|line| !line.is_empty())
        .cloned()
        .collect::<Vec<_>>()
        .join(" ");
    let end = [". ", "; "]
        .iter()
        .filter_map(|stop| text.find(stop))
        .min()
        .unwrap_or(text.len());
    text[..end].trim_end_matches('.').to_owned()
}

/// The parts of a function's comment.
#[derive(Default)]
struct Parts<'a> {
    description: Vec<&'a str>,
    parameters: Vec<(&'a str, Vec<&'a str>)>,
    result: Vec<&'a str>,
    notes: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(comment: &'a [String]) -> Self {
        enum In {
            Description,
            Parameter,
            Result,
            Notes,
        }
        let mut parts = Parts::default();
        let mut within = In::Description;
        for line in comment.iter().map(String::as_str) {
            if let Some((name, text)) = line.strip_prefix("@param ").and_then(|rest| rest.split_once(' ')) {
                parts.parameters.push((name, vec![text]));
                within = In::Parameter;
            } else if let Some(text) = line.strip_prefix("@return ") {
                parts.result.push(text);
                within = In::Result;
            } else if line.starts_with("# ") || (line.is_empty() && matches!(within, In::Parameter | In::Result)) {
                parts.notes.push("");
                within = In::Notes;
            } else {
                match within {
                    In::Description => parts.description.push(line),
                    In::Parameter => parts
                        .parameters
                        .last_mut()
                        .into_iter()
                        .for_each(|(_, text)| text.push(line)),
                    In::Result => parts.result.push(line),
                    In::Notes => parts.notes.push(line),
                }
            }
        }
        parts
    }
}

fn function(header: &Header, item: &Item) -> String {
    let parts = Parts::of(&item.comment);
    let mut page = head(&item.name, &summary(&item.comment));
    page += ".SH SYNOPSIS\n";
    page += &code(&format!("#include <livedisk.h>\n\n{}", item.text));
    page += ".SH DESCRIPTION\n";
    page += &paragraphs(parts.description.into_iter());
    for (name, text) in parts.parameters {
        let _ = write!(page, ".TP\n.I {name}\n{}", paragraphs(text.into_iter()));
    }
    for found in types_of(header, item) {
        page += &format!(".SS {}\n", found.name);
        page += &joined(&found.comment);
        if found.kind == Kind::Callback {
            page += ".PP\n";
            page += &code(&found.text);
        }
        for field in &found.fields {
            let _ = write!(
                page,
                ".TP\n.B \"{}\"\n{}",
                field.text.replace('-', "\\-"),
                joined(&field.comment)
            );
        }
    }
    if !parts.result.is_empty() {
        page += ".SH RETURN VALUE\n";
        page += &paragraphs(parts.result.into_iter());
    }
    page += ".SH NOTES\n";
    page += &paragraphs(parts.notes.into_iter());
    page += ".SH SEE ALSO\n.BR livedisk (3)\n";
    page
}

fn overview(header: &Header) -> String {
    // "livedisk: what it is." is the first paragraph; how the header is made is the last.
    let mut rules: Vec<&str> = header.rules.iter().map(String::as_str).collect();
    while rules.first().is_some_and(|line| line.is_empty()) {
        rules.remove(0);
    }
    let about = if rules.is_empty() { "" } else { rules.remove(0) };
    let about = about
        .split_once(": ")
        .map_or(about, |(_, about)| about)
        .trim_end_matches('.');
    rules.retain(|line| !line.starts_with("Generated by "));
    let mut page = head("livedisk", about);
    page += ".SH SYNOPSIS\n";
    page += &code("#include <livedisk.h>\n\ncc program.c $(pkg-config --cflags --libs livedisk)");
    page += ".SH DESCRIPTION\n";
    page += &paragraphs(rules.into_iter());
    page += ".SS Functions\n";
    for item in header.of(Kind::Function) {
        let _ = write!(page, ".TP\n.BR {} (3)\n{}\n", item.name, plain(&summary(&item.comment)));
    }
    page += ".SS Handles\n";
    for item in header.of(Kind::Handle) {
        let _ = write!(page, ".TP\n.B struct {}\n{}", item.name, joined(&item.comment));
    }
    page += ".SS Constants\n";
    for item in header.of(Kind::Constant) {
        let text = item.text.trim_start_matches("#define ").replace('-', "\\-");
        let _ = write!(page, ".TP\n.B {text}\n{}", joined(&item.comment));
    }
    page += ".SH SEE ALSO\n.BR livedisk (1)\n";
    page
}
