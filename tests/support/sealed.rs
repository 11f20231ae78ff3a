// SPDX-License-Identifier: LGPL-2.1-or-later
//! A domain on an encrypted disk.

use std::fs;
use std::path::{Path, PathBuf};

use super::bed::{Bare, BareDomain, Bed, create_luks, fill, run};

const SECRET: &str = "0b1c7a5e-6d0f-4c53-9d53-5d1c1f0e7a11";
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

    pub fn start(bed: &'a Bed) -> Self {
        let xml = bed.path("secret.xml");
        let text = format!("<secret ephemeral='no' private='yes'><uuid>{SECRET}</uuid></secret>");
        fs::write(&xml, text).unwrap();
        bed.virsh(&["secret-define", xml.to_str().unwrap()]);
        fs::remove_file(xml).unwrap();
        bed.virsh(&["secret-set-value", SECRET, "--base64", "b3BlbiBzZXNhbWU="]);
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
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.plain);
        let _ = self.bed.try_virsh(&["secret-undefine", SECRET]);
    }
}

fn seal(path: &Path, plain: &Path) {
    fill(plain, SIZE);
    let target = format!("driver=luks,file.filename={},key-secret=s", path.display());
    let secret = ["--object", "secret,id=s,data=open sesame"];
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
    run("qemu-img", &[convert.as_slice(), &secret].concat());
}
