// SPDX-License-Identifier: LGPL-2.1-or-later
//! The operation's record: what was asked, the files it makes, who owns it, its progress. It is stored with the domain,
//! as metadata in a namespace of its own for each operation, and so survives the agent, libvirtd and the agent's host.
//! With it and what can be observed another process resumes the operation.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use xmltree::{Element, XMLNode};

use crate::driver::Guest;
use crate::error::{Error, ErrorCode, Result};
use crate::image::{Destination, Made};
use crate::libvirt::xml::{DomainXml, attribute, to_text};
use crate::operation::ownership::owner::Owner;
use crate::operation::state::Mark;
use crate::operation::types::Method;

/// Every operation's namespace begins so and ends in the operation's id.
const NAMESPACE: &str = "urn:livedisk:operation:";
/// How long after the limit of a freeze a guest may still be thawed: what freezes it meanwhile would be thawed too.
const LETTING_GO: Duration = Duration::from_secs(4);
/// Of what is written below.
const VERSION: &str = "1";

/// One disk of the operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedDisk {
    pub(crate) target: String,
    pub(crate) destination: String,
    pub(crate) format: String,
    /// The image, if the operation made it.
    pub(crate) made: Option<Made>,
    /// An active commit of its overlay was about to pivot.
    pub(crate) pivoting: bool,
    /// Its element in the definition before the operation, which gets overlays.
    pub(crate) home: Option<String>,
}

impl RecordedDisk {
    /// Nothing is made yet.
    pub(crate) fn new(target: &str, destination: &Destination, format: &str) -> Self {
        Self {
            target: target.to_owned(),
            destination: destination.as_written().to_owned(),
            format: format.to_owned(),
            made: None,
            pivoting: false,
            home: None,
        }
    }

    /// It will be on an overlay, and its active layer now is this.
    pub(crate) fn with_home(mut self, guest: &Guest, active: &str) -> Result<Self> {
        self.home = guest.get_disk_definition(&self.target, Some(active))?;
        Ok(self)
    }
}

/// What the operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Snapshot,
    Migration,
    /// Around somebody else's snapshots.
    Freeze,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Migration => "migration",
            Self::Freeze => "freeze",
        }
    }
}

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    pub(crate) mark: Mark,
    /// It is being rolled back, and why.
    pub(crate) back: Option<String>,
    pub(crate) started: SystemTime,
    pub(crate) owner: Owner,
    /// For livedisk 0.1, which writes the definition anew where it is false.
    pub(crate) had_metadata: bool,
    pub(crate) disks: Vec<RecordedDisk>,
    /// What the procedure alone understands: the request, and what cannot be observed again.
    pub(crate) details: serde_json::Value,
    /// The instance of the domain that it was begun on still runs. Only a record in the live definition says so: one that
    /// a domain was started with does not.
    pub(crate) live: bool,
    /// A freeze ends by then.
    #[serde(default)]
    pub(crate) until: Option<SystemTime>,
    /// How many steps the operation had when it began, so that progress goes on after attach; 0: it was not recorded.
    #[serde(default)]
    pub(crate) step_count: u32,
}

fn broken(id: &str, reason: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorCode::Internal,
        format!("the record of operation {id} cannot be read: {reason}"),
    )
}

impl Record {
    /// The record of an operation that this process begins.
    pub(crate) fn new(kind: Kind, method: Method, disks: Vec<RecordedDisk>, details: &impl Serialize) -> Result<Self> {
        let mut record = Self {
            id: new_id()?,
            kind,
            method,
            mark: Mark::Begun,
            back: None,
            started: SystemTime::now(),
            owner: Owner::this(),
            had_metadata: true,
            disks,
            details: serde_json::Value::Null,
            live: false,
            until: None,
            step_count: 0,
        };
        record.set_details(details)?;
        Ok(record)
    }

    /// Of a freeze: its limit has passed, and the guest has been thawed because of it.
    pub(crate) fn has_lapsed(&self) -> bool {
        let until = self.until.and_then(|until| until.checked_add(LETTING_GO));
        until.is_some_and(|until| SystemTime::now() > until)
    }

    /// One that was edited may have fewer disks than its request.
    pub(crate) fn disk(&self, index: usize) -> Result<&RecordedDisk> {
        self.disks
            .get(index)
            .ok_or_else(|| broken(&self.id, format!("it has no disk {index}")))
    }

    pub(crate) fn set_details(&mut self, details: &impl Serialize) -> Result<()> {
        self.details = serde_json::to_value(details)
            .map_err(|error| Error::new(ErrorCode::Internal, format!("cannot write the record: {error}")))?;
        Ok(())
    }

    pub(crate) fn details<T: for<'a> Deserialize<'a>>(&self) -> Result<T> {
        T::deserialize(&self.details).map_err(|error| broken(&self.id, error))
    }

    /// Every record on a domain: the live ones, and those that only the inactive definition has.
    pub(crate) fn all(guest: &Guest) -> Result<Vec<Result<Self>>> {
        Self::all_beside(guest, &guest.get_config(false)?)
    }

    /// The same, where the live definition was just read.
    pub(crate) fn all_beside(guest: &Guest, live: &DomainXml) -> Result<Vec<Result<Self>>> {
        let mut found = Self::of(live);
        // One that has ended meanwhile has but one definition, and then there is nothing new in it.
        if (guest.id().is_some() || guest.is_active()?) && guest.has_persistent_configuration()? {
            for record in Self::of(&guest.get_config(true)?) {
                let known = |other: &Result<Self>| match (other, &record) {
                    (Ok(other), Ok(record)) => other.id == record.id,
                    (other, record) => other == record,
                };
                if !found.iter().any(known) {
                    found.push(record);
                }
            }
        }
        Ok(found)
    }

    fn of(config: &DomainXml) -> Vec<Result<Self>> {
        let elements = config.metadata.iter().flatten();
        elements.filter_map(Self::from_xml).collect()
    }

    /// The metadata namespace of this operation.
    pub(crate) fn namespace(&self) -> String {
        format!("{NAMESPACE}{}", self.id)
    }

    /// The metadata element for the live or the inactive definition; libvirt itself puts it into the namespace.
    pub(crate) fn to_xml(&self, live: bool) -> Result<String> {
        let failed = |reason: String| Error::new(ErrorCode::Internal, format!("cannot write the record: {reason}"));
        let written = Self { live, ..self.clone() };
        let text = serde_json::to_string(&written).map_err(|error| failed(error.to_string()))?;
        let mut root = Element::new("operation");
        root.attributes.insert("version".into(), VERSION.into());
        root.children.push(XMLNode::Text(text));
        to_text(&root).map_err(failed)
    }

    /// The record in a metadata element, if it is one; an element of ours that cannot be read is an error.
    pub(crate) fn from_xml(element: &Element) -> Option<Result<Self>> {
        let id = element.namespace.as_deref()?.strip_prefix(NAMESPACE)?;
        if attribute(element, "version") != Some(VERSION) {
            return Some(Err(broken(id, "another version of livedisk wrote it")));
        }
        let text = element.get_text().unwrap_or_default();
        Some(serde_json::from_str(&text).map_err(|error| broken(id, error)))
    }
}

/// A fresh id from the kernel.
pub(in crate::operation) fn new_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    std::fs::read_to_string(path)
        .map(|id| id.trim().to_owned())
        .map_err(|error| Error::new(ErrorCode::Io, format!("cannot read {path}: {error}")))
}

/// Records that release 0.2 wrote, one for each mark, as one procedure's details: all that they say is read, and is written
/// again under the same names.
#[cfg(test)]
pub(in crate::operation) fn must_be_read<T: Serialize + for<'a> Deserialize<'a>>(records: &str) {
    use serde_json::Value;

    fn must_keep(old: &Value, new: &Value) {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => {
                old.iter().for_each(|(name, value)| must_keep(value, &new[name]));
            }
            (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
                old.iter().zip(new).for_each(|(old, new)| must_keep(old, new));
            }
            _ => assert_eq!(old, new),
        }
    }
    let old: Vec<Value> = serde_json::from_str(records).unwrap();
    assert!(old.len() >= 3);
    for old in old {
        let mut record = Record::deserialize(&old).unwrap();
        let details: T = record.details().unwrap();
        record.set_details(&details).unwrap();
        must_keep(&old, &serde_json::to_value(&record).unwrap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_way_through_the_domain() {
        let path = "/odd \"<&>'\nname".to_owned();
        let disk = RecordedDisk {
            target: "vda".into(),
            destination: path.clone(),
            format: "qcow2".into(),
            made: Some(Made {
                path,
                staging: None,
                device: 7,
                inode: u64::MAX,
                born: Some((-1, 2)),
            }),
            pivoting: true,
            home: Some("<disk>'\"&amp;</disk>".into()),
        };
        let mut record = Record::new(Kind::Snapshot, Method::Mirror, vec![disk], &["]]>", "details"]).unwrap();
        record.back = Some("why <not>".into());
        // As virXMLInjectNamespace does.
        let text = record.to_xml(true).unwrap();
        let text = text
            .replace("<operation", "<livedisk:operation")
            .replace("</", "</livedisk:");
        let text = text.replacen(" ", &format!(" xmlns:livedisk='{}' ", record.namespace()), 1);
        let wrapped = format!("<domain><metadata><other xmlns='urn:x'/>{text}</metadata><devices/></domain>");
        let found = Record::of(&DomainXml::parse(&wrapped).unwrap());
        record.live = true;
        assert_eq!(found, [Ok(record)]);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_not_overlooked() {
        for version in ["1", "9"] {
            let text = format!("<x:operation xmlns:x='{NAMESPACE}1' version='{version}'/>");
            let element = crate::libvirt::xml::parse(&text).unwrap();
            assert!(Record::from_xml(&element).unwrap().is_err());
        }
    }
}
