# SPDX-License-Identifier: LGPL-2.1-or-later
# The one door: make demo, make test.
.PHONY: help setup build bench demo test clean
target = $(or $(CARGO_TARGET_DIR),target)
.DEFAULT_GOAL := help
include packaging/install.mk

help:
	@echo "make demo    set up, build, and take a live snapshot of a small real guest (five minutes at most)"
	@echo "make test    set up and run every test"
	@echo "make build   $(target)/release/liblivedisk.so and $(target)/release/livedisk"
	@echo "make install what was built, into PREFIX (/usr/local) below DESTDIR; make uninstall takes it away"
	@echo "make deb     Debian packages, into $(target)/deb"
	@echo "make bench   measure the freeze window against a bare freeze and thaw"
	@echo "make setup   install the packages that are missing (root or sudo) and build the test guest"
	@echo "make clean   remove what was built here"

setup:
	@tests/setup

# The freeze window of a guest of the test bed, against a bare freeze and thaw of the same guest.
bench: setup
	@tests/bench

build: setup
	@$(MAKE) --no-print-directory release

demo: build
	@tests/demo

test: setup
	@tests/run

clean:
	rm -rf target build
