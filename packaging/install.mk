# SPDX-License-Identifier: LGPL-2.1-or-later
# make release, install, uninstall, deb. Included by the Makefile; the names are those of the GNU coding standards.
.PHONY: release install uninstall deb

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
# The library looks for its guard here, as seen from where it is itself (src/guard/find.rs).
LIBEXECDIR ?= $(PREFIX)/libexec
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
BASHDIR ?= $(DATADIR)/bash-completion/completions
ZSHDIR ?= $(DATADIR)/zsh/site-functions
FISHDIR ?= $(DATADIR)/fish/vendor_completions.d
UNITDIR ?= $(PREFIX)/lib/systemd/system
DOCDIR ?= $(DATADIR)/doc/livedisk

VERSION := $(shell sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)
# The soname has the major version (build.rs).
SOVERSION := $(firstword $(subst ., ,$(VERSION)))
release := $(target)/release
made := $(target)/install
# rustc gives its shared library a version script of its own, and linkers take no second one with names of versions. So
# the static library is linked once more.
shared := $(release)/lib/liblivedisk.so.$(SOVERSION)
exports := packaging/livedisk.map
comma := ,
cmakedir = $(LIBDIR)/cmake/livedisk

# What a program needs that links the static library, besides libvirt: rustc --print native-static-libs.
static_libs := -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc
below = $(patsubst $(PREFIX)/%,$${prefix}/%,$(1))
fill = sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(call below,$(LIBDIR))|' -e 's|@INCLUDEDIR@|$(call below,$(INCLUDEDIR))|' \
	-e 's|@BINDIR@|$(BINDIR)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@SOVERSION@|$(SOVERSION)|' -e 's|@STATIC_LIBS@|$(static_libs)|' \
	-e "s|@INCLUDEDIR_FROM_CMAKE@|$$(realpath -m --relative-to '$(cmakedir)' '$(INCLUDEDIR)')|"
into = "$(DESTDIR)$(1)"

# Everything that is installed. To install it takes no cargo, so that root needs none. The library is there all the time: tests
# may run with it.
release:
	cargo build --release --locked --package livedisk --package livedisk-cli --package livedisk-man3
	rm -rf $(made)
	mkdir -p $(made)/completions $(release)/lib
	$(CC) -shared -s -o $(shared).new -Wl,-soname,$(notdir $(shared)) -Wl,--version-script=$(exports) \
		-Wl,--as-needed,--gc-sections,-z,relro,-z,now,-z,defs $(LDFLAGS) \
		$(patsubst %;,-Wl$(comma)-u$(comma)%,$(filter livedisk_%;,$(file <$(exports)))) \
		$(release)/liblivedisk.a $$(pkg-config --libs libvirt libvirt-qemu) $(static_libs)
	mv $(shared).new $(shared)
	$(release)/livedisk man --dir $(made)/man
	$(release)/man3 include/livedisk.h $(made)/man3
	set -e; for shell in bash zsh fish; do $(release)/livedisk completion $$shell >$(made)/completions/$$shell; done

install:
	@test -e $(made)/completions/fish || { echo "make install: nothing is built yet; run: make build" >&2; exit 1; }
	install -d $(call into,$(BINDIR)) $(call into,$(LIBDIR)/pkgconfig) $(call into,$(cmakedir)) $(call into,$(INCLUDEDIR)) \
		$(foreach n,1 3 5 8,$(call into,$(MANDIR)/man$(n)))
	install -m 755 $(release)/livedisk $(call into,$(BINDIR))
	install -D -m 755 $(release)/livedisk-guard $(call into,$(LIBEXECDIR)/livedisk-guard)
	install -m 644 $(shared) $(call into,$(LIBDIR)/liblivedisk.so.$(VERSION))
	ln -sf liblivedisk.so.$(VERSION) $(call into,$(LIBDIR)/liblivedisk.so.$(SOVERSION))
	ln -sf liblivedisk.so.$(SOVERSION) $(call into,$(LIBDIR)/liblivedisk.so)
	install -m 644 $(release)/liblivedisk.a $(call into,$(LIBDIR))
	strip --strip-debug $(call into,$(LIBDIR)/liblivedisk.a)
	install -m 644 include/livedisk.h $(call into,$(INCLUDEDIR))
	$(fill) packaging/livedisk.pc.in >$(call into,$(LIBDIR)/pkgconfig/livedisk.pc)
	$(fill) packaging/livedisk-config.cmake.in >$(call into,$(cmakedir)/livedisk-config.cmake)
	$(fill) packaging/livedisk-config-version.cmake.in >$(call into,$(cmakedir)/livedisk-config-version.cmake)
	set -e; for n in 1 5 8; do install -m 644 $(made)/man/*.$$n $(call into,$(MANDIR))/man$$n; done
	install -m 644 $(made)/man3/* $(call into,$(MANDIR)/man3)
	install -D -m 644 $(made)/completions/bash $(call into,$(BASHDIR)/livedisk)
	install -D -m 644 $(made)/completions/zsh $(call into,$(ZSHDIR)/_livedisk)
	install -D -m 644 $(made)/completions/fish $(call into,$(FISHDIR)/livedisk.fish)
	install -d $(call into,$(UNITDIR)) $(call into,$(DOCDIR)/examples)
	$(fill) packaging/livedisk-recover.service.in >$(call into,$(UNITDIR)/livedisk-recover.service)
	install -m 644 docs/operations.md docs/threads.md $(call into,$(DOCDIR))
	install -m 644 examples/*.rs $(call into,$(DOCDIR)/examples)

# What an install with the same variables would put there, and no directory but livedisk's own.
uninstall:
	@set -e; staged=$$(mktemp -d); trap 'rm -rf "$$staged"' EXIT; \
	$(MAKE) --no-print-directory install DESTDIR="$$staged" >/dev/null; \
	find "$$staged" ! -type d -printf '%P\n' | while read -r file; do rm -f "$(DESTDIR)/$$file"; done; \
	find "$$staged" -depth -type d \( -name livedisk -o -path '*/livedisk/*' \) -printf '%P\n' | while read -r directory; do \
		[ ! -d "$(DESTDIR)/$$directory" ] || rmdir --ignore-fail-on-non-empty "$(DESTDIR)/$$directory"; done

# Debian packages, of this machine's architecture, into $(target)/deb. It takes debhelper, and no root.
deb:
	@test "$$(dpkg-parsechangelog -S Version)" = $(VERSION) || \
		{ echo "make deb: debian/changelog has another version than Cargo.toml, $(VERSION)" >&2; exit 1; }
	rm -rf $(target)/deb
	mkdir -p $(target)/deb
	debian/rules clean >/dev/null
	DEB_DESTINATION=$(abspath $(target)/deb) debian/rules binary
	debian/rules clean >/dev/null
