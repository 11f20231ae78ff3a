# SPDX-License-Identifier: LGPL-2.1-or-later
# The one door: make demo, make test.
.PHONY: help setup build bench demo test faults openstack clean
target = $(or $(CARGO_TARGET_DIR),target)
.DEFAULT_GOAL := help
include packaging/install.mk

help:
	@echo "make demo    set up, build, take a live snapshot of a small real guest and move its disk (five minutes at most)"
	@echo "make test    set up and run every test"
	@echo "make faults  kill everything at every step, and write docs/faults.md (hours; LIVEDISK_FAULTS=100: so many cells)"
	@echo "make openstack  a small real OpenStack in a chroot (root; 2 GiB), image creates by livedisk and by Nova: docs/nova.md"
	@echo "make build   $(target)/release/liblivedisk.so and $(target)/release/livedisk"
	@echo "make install what was built, into PREFIX (/usr/local) below DESTDIR; make uninstall takes it away"
	@echo "make deb     Debian packages, into $(target)/deb"
	@echo "make bench   measure livedisk beside Nova, virtnbdbackup, virsh and qemu-img (an hour; MINUTES=30; QUICK=1: five minutes)"
	@echo "make setup   install the packages that are missing (root or sudo) and build the test guest"
	@echo "make clean   remove what was built here"

setup:
	@tests/setup

# docs/benchmark.md says what is measured.
bench: setup
	@QUICK=$(QUICK) tests/bench

# Needs no root and installs nothing.
build:
	@tests/setup --check-build
	@$(MAKE) --no-print-directory release

demo: setup
	@$(MAKE) --no-print-directory build
	@tests/demo

test: setup
	@tests/run

# The whole fault matrix, with destinations that hang for a minute.
faults: setup
	cargo build --package livedisk --bin livedisk-guard
	LIVEDISK_FAULTS_HANG=$${LIVEDISK_FAULTS_HANG:-60} LIVEDISK_FAULTS_PAGE=$(CURDIR)/docs/faults.md \
	exec tests/stoppable cargo test --package livedisk-cli --test faults -- --ignored --nocapture

# Needs root; half an hour at most, and 2 GiB in the test bed's cache. tests/openstack/run --down removes what a SIGKILL left.
openstack: setup
	@$(MAKE) --no-print-directory build
	@tests/openstack/run

clean:
	rm -rf target build
