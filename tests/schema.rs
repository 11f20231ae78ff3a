// SPDX-License-Identifier: LGPL-2.1-or-later
//! docs/compatibility.md has a row for every feature of a disk that the installed libvirt knows.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use xmltree::Element;

const TABLE: &str = include_str!("../docs/compatibility.md");

/// The elements whose attributes and children have rows of their own. Of any other child the row names all that stands in it.
const CONTAINERS: [&str; 7] = [
    "disk",
    "driver",
    "source",
    "backingStore",
    "mirror",
    "format",
    "dataStore",
];

/// What is defined for more than disks or is not about images: the element has its row, and what stands in it is not looked
/// at.
const LEFT_OUT: [(&str, &str); 10] = [
    ("acpi", "the guest's device, as any other device has it"),
    ("address", "the guest's device, as any other device has it"),
    ("alias", "the guest's device, as any other device has it"),
    ("deviceBoot", "the guest's boot order, as any other device has it"),
    ("devSeclabel", "security labels, which are libvirt's alone"),
    ("diskIoTune", "limits of the guest's own requests"),
    (
        "encryption",
        "given on to libvirt whole, or refused whole; shared with storage volumes",
    ),
    ("geometry", "what the guest's firmware sees"),
    ("pciaddress", "the address of a host device, as <hostdev> has it"),
    ("reconnect", "the client's end of a socket, as other devices have it"),
];

/// Container, feature (`type`, `<slices>`), and the names that stand in it.
type Features = BTreeMap<(String, String), BTreeSet<String>>;

fn elements(parent: &Element) -> impl Iterator<Item = &Element> {
    parent.children.iter().filter_map(|node| node.as_element())
}

/// Where the walk through the schema is.
#[derive(Clone, Default)]
struct Place {
    container: String,
    /// In the container, once below one of its children.
    feature: Option<String>,
    left_out: bool,
}

#[derive(Default)]
struct Schema {
    defines: BTreeMap<String, Vec<Element>>,
    read: HashSet<PathBuf>,
}

impl Schema {
    /// With all that it includes. A name that is defined again adds to what it was.
    fn load(&mut self, directory: &Path, file: &str) {
        let path = directory.join(file);
        if !self.read.insert(path.clone()) {
            return;
        }
        let text = fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!(
                "{}: {error}; install libvirt's XML schemas (Debian, Ubuntu: libvirt0 or libvirt-common, whichever has the \
                 file; Fedora: libvirt-libs), or set LIVEDISK_SCHEMAS to their directory",
                path.display()
            )
        });
        let grammar = Element::parse(text.as_bytes()).unwrap();
        for element in elements(&grammar) {
            self.load_one(directory, element);
        }
    }

    fn load_one(&mut self, directory: &Path, element: &Element) {
        match element.name.as_str() {
            "include" => {
                self.load(directory, &element.attributes["href"]);
                elements(element).for_each(|inner| self.load_one(directory, inner));
            }
            "define" => {
                let name = element.attributes["name"].clone();
                self.defines.entry(name).or_default().push(element.clone());
            }
            _ => {}
        }
    }

    fn features(&self) -> Features {
        let mut walk = Walk {
            schema: self,
            seen: HashSet::new(),
            found: Features::new(),
        };
        walk.follow("disk", &Place::default());
        walk.found
    }
}

struct Walk<'a> {
    schema: &'a Schema,
    /// Containers stand in each other.
    seen: HashSet<*const Element>,
    found: Features,
}

impl<'a> Walk<'a> {
    fn follow(&mut self, define: &str, place: &Place) {
        let schema = self.schema;
        let bodies = schema.defines.get(define);
        let bodies = bodies.unwrap_or_else(|| panic!("the schema defines no '{define}'"));
        let mut place = place.clone();
        place.left_out |= LEFT_OUT.iter().any(|(name, _)| *name == define);
        for inner in bodies.iter().flat_map(elements) {
            self.visit(inner, &place);
        }
    }

    fn visit(&mut self, pattern: &'a Element, place: &Place) {
        let name = || {
            let name = pattern.attributes.get("name");
            name.unwrap_or_else(|| panic!("<{}> in <{}> names nothing", pattern.name, place.container))
        };
        match pattern.name.as_str() {
            "ref" => self.follow(name(), place),
            "attribute" if place.left_out => {}
            "attribute" => self.note(place, name(), name().clone()),
            "element" if is_nowhere(pattern) => {}
            "element" => self.enter(pattern, name(), place),
            _ => elements(pattern).for_each(|inner| self.visit(inner, place)),
        }
    }

    fn enter(&mut self, pattern: &'a Element, name: &str, place: &Place) {
        let mut inside = place.clone();
        if !place.container.is_empty() {
            self.note(place, name, format!("<{name}>"));
        }
        if place.left_out {
            return;
        }
        if place.feature.is_none() && CONTAINERS.contains(&name) {
            if !self.seen.insert(pattern) {
                return;
            }
            inside.container = name.to_owned();
        } else {
            inside.feature.get_or_insert_with(|| format!("<{name}>"));
        }
        elements(pattern).for_each(|inner| self.visit(inner, &inside));
    }

    fn note(&mut self, place: &Place, name: &str, shown: String) {
        let feature = place.feature.clone();
        let is_inside = feature.is_some();
        let key = (place.container.clone(), feature.unwrap_or(shown));
        let inside = self.found.entry(key).or_default();
        if is_inside {
            inside.insert(name.to_owned());
        }
    }
}

/// libvirt's own, which no definition has.
fn is_nowhere(element: &Element) -> bool {
    elements(element).any(|inner| inner.name == "notAllowed")
}

struct Row {
    container: String,
    feature: String,
    inside: BTreeSet<String>,
    verdicts: Vec<String>,
}

/// The rows of the table, in order.
fn rows(text: &str) -> Vec<Row> {
    let (_, section) = text.split_once("\n## Disk features\n").expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 8, "{line}");
            let container = cells[0].trim_matches(['`', '<', '>']);
            let mut names = cells[1].split('`').skip(1).step_by(2).map(str::to_owned);
            let feature = names.next().unwrap_or_else(|| panic!("no feature: {line}"));
            Row {
                container: container.to_owned(),
                feature,
                inside: names.collect(),
                verdicts: cells[2..7].iter().map(|&cell| cell.to_owned()).collect(),
            }
        })
        .collect()
}

/// What of the schema the table has no row for, or does not name in its row.
fn unknown(schema: &Features, table: &Features) -> Vec<String> {
    let mut all = Vec::new();
    for (key, names) in schema {
        let (container, feature) = key;
        match table.get(key) {
            None => all.push(format!("<{container}>: {feature}")),
            Some(known) => all.extend(
                names
                    .difference(known)
                    .map(|name| format!("<{container}>: {name} in {feature}")),
            ),
        }
    }
    all
}

fn table() -> Features {
    let rows = rows(TABLE).into_iter();
    rows.map(|row| ((row.container, row.feature), row.inside)).collect()
}

#[test]
fn the_table_knows_every_feature_of_the_installed_libvirt() {
    let directory = std::env::var("LIVEDISK_SCHEMAS").unwrap_or_else(|_| "/usr/share/libvirt/schemas".into());
    let mut schema = Schema::default();
    schema.load(Path::new(&directory), "domain.rng");
    let schema = schema.features();
    // What every libvirt has: else the walk, not the schema, is at fault.
    for (container, feature) in [
        ("disk", "<driver>"),
        ("disk", "type"),
        ("driver", "copy_on_read"),
        ("source", "file"),
        ("source", "<slices>"),
        ("source", "startupPolicy"),
        ("backingStore", "<backingStore>"),
        ("mirror", "ready"),
        ("format", "<metadata_cache>"),
    ] {
        let key = (container.to_owned(), feature.to_owned());
        assert!(schema.contains_key(&key), "<{container}>: {feature} was not found");
    }
    let unknown = unknown(&schema, &table());
    assert!(
        unknown.is_empty(),
        "docs/compatibility.md has no row for:\n  {}\nsee what livedisk does with it, and add it",
        unknown.join("\n  ")
    );
}

#[test]
fn the_table_names_none_twice_and_says_one_thing_of_each() {
    let mut seen = BTreeSet::new();
    for row in rows(TABLE) {
        let key = (row.container, row.feature);
        assert!(CONTAINERS.contains(&key.0.as_str()), "{key:?}");
        for verdict in row.verdicts {
            let known = ["works", "refused", "irrelevant", "untested"];
            assert!(known.contains(&verdict.as_str()), "{key:?}: '{verdict}'");
        }
        assert!(seen.insert(key.clone()), "twice: {key:?}");
    }
}

#[test]
fn what_the_table_lacks_is_named() {
    let mut schema = table();
    schema.insert(("source".into(), "<novelty>".into()), BTreeSet::new());
    let slices = schema.get_mut(&("source".into(), "<slices>".into())).unwrap();
    slices.insert("stride".into());
    assert_eq!(
        unknown(&schema, &table()),
        ["<source>: <novelty>", "<source>: stride in <slices>"]
    );
}
