module livedisk

go 1.22
