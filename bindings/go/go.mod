// A name that no machine has (RFC 2606), until the project has a public address.
module livedisk.invalid/livedisk

go 1.22
