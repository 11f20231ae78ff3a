// SPDX-License-Identifier: LGPL-2.1-or-later
//! A domain on an encrypted disk.

use std::fs;
use std::path::{Path, PathBuf};

use super::bed::{Bare, BareDomain, Bed, create_luks, fill, run};

/// qemu-img then has it as `s`.
const OPEN: [&str; 2] = ["--object", "secret,id=s,data=open sesame"];
const SIZE: u64 = 4 << 20;

/// Gone at the end with its secret and its files.
pub struct Sealed<'a> {
    bed: &'a Bed,
    /// What its disk vda, in LUKS, holds.
    pub plain: PathBuf,
    _domain: BareDomain<'a>,
}

impl<'a> Sealed<'a> {
    pub const NAME: &'static str = "sealed";
    pub const SECRET: &'static str = "0b1c7a5e-6d0f-4c53-9d53-5d1c1f0e7a11";

    pub fn start(bed: &'a Bed) -> Self {
        let xml = bed.path("secret.xml");
        let text = format!(
            "<secret ephemeral='no' private='yes'><uuid>{}</uuid></secret>",
            Self::SECRET
        );
        fs::write(&xml, text).unwrap();
        bed.virsh(&["secret-define", xml.to_str().unwrap()]);
        fs::remove_file(xml).unwrap();
        bed.virsh(&["secret-set-value", Self::SECRET, "--base64", "b3BlbiBzZXNhbWU="]);
        let disk = Bare {
            in_source: "<encryption format='luks'><secret type='passphrase' uuid='0b1c7a5e-6d0f-4c53-9d53-5d1c1f0e7a11'/></encryption>",
            make: |path| seal(path, &path.with_extension("plain")),
            ..Bare::RAW
        };
        let domain = bed.bare(Self::NAME, &[disk]);
        Self {
            bed,
            plain: domain.files[0].with_extension("plain"),
            _domain: domain,
        }
    }

    /// In LUKS of the same secret: of raw as a whole, of qcow2 what it holds.
    pub fn must_hold(&self, image: &Path, format: &str) {
        let (kind, options) = match format {
            "raw" => ("luks", "driver=luks,key-secret=s"),
            _ => (format, "driver=qcow2,encrypt.key-secret=s"),
        };
        // -U: the domain, which writes nothing, holds the lock.
        let info = run(
            "qemu-img",
            &["info", "-U", "-f", kind, "--output=json", image.to_str().unwrap()],
        );
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let encrypted = info["encrypted"].as_bool().unwrap_or(kind == "luks");
        assert!(encrypted && info["virtual-size"] == SIZE, "{info}");
        let image = format!("{options},file.filename={}", image.display());
        let plain = format!("driver=raw,file.filename={}", self.plain.display());
        let compare = ["compare", "-q", "-U", "--image-opts", &image, &plain];
        run("qemu-img", &[&compare[..], &OPEN].concat());
    }
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.plain);
        let _ = self.bed.try_virsh(&["secret-undefine", Self::SECRET]);
    }
}

fn seal(path: &Path, plain: &Path) {
    fill(plain, SIZE);
    let target = format!("driver=luks,file.filename={},key-secret=s", path.display());
    create_luks(path, &SIZE.to_string());
    let convert = [
        "convert",
        "-n",
        "-f",
        "raw",
        plain.to_str().unwrap(),
        "--target-image-opts",
        &target,
    ];
    run("qemu-img", &[convert.as_slice(), &OPEN].concat());
}
