# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the scripts of this folder share: the cache, publishing into it, and packages of other suites.
# Sourced; the sourcing script has `set -euo pipefail` and is run from anywhere.

shopt -s inherit_errexit # $(...) too ends at the first error
rootfs_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MOULT_CACHE:-${HOME:-/root}/.cache/moult}
mkdir -p "$cache" || exit 1
cache=$(cd "$cache" && pwd)
me=$(basename "$0")

say() { echo "$me: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# recipe_key FILE-OR-STRING...: a short hash of the files' contents and the strings themselves.
recipe_key() {
  local part
  for part in "$rootfs_dir/lib.sh" "$@"; do
    if [[ -f $part ]]; then cat "$part"; else printf '%s\n' "$part"; fi
  done | sha256sum | cut -c1-12
}

# make_once NAME FUNCTION: prints $cache/NAME, after FUNCTION DIR has filled it, if it was not there. It appears
# whole or not at all; of several that start at once, one works and the others wait for it.
make_once() {
  local name=$1 maker=$2 temp
  if [[ ! -d $cache/$name ]]; then
    exec 9>"$cache/.lock-$name"
    flock -w 900 9 || fail "another process has been making $cache/$name for 15 minutes; remove $cache/.lock-$name"
    if [[ ! -d $cache/$name ]]; then
      temp=$(mktemp -d "$cache/.new-$name-XXXXXX")
      chmod 755 "$temp"
      # In the background, since bash ignores errors inside a function that stands in a condition.
      (
        set -e
        "$maker" "$temp"
      ) 9>&- >&2 &
      if ! wait $!; then
        rm -rf "$temp"
        fail "making $cache/$name failed, see above"
      fi
      mv -T "$temp" "$cache/$name"
    fi
    rm -f "$cache/.lock-$name"
    exec 9>&-
  fi
  echo "$cache/$name"
}

# The machine's own mirror of Debian: the repository that its sources name for this release's main component.
debian_mirror() {
  local uri
  uri=$(apt-get indextargets --format '$(CREATED_BY)|$(CODENAME)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)' |
    awk -F'|' '$1 == "Packages" && ($2 == "bookworm" || $3 == "bookworm") && $4 == "main" {print $5; exit}')
  [[ -n $uri ]] || fail "apt's sources name no bookworm main; this needs Debian 12"
  echo "$uri"
}

debian_security_mirror() {
  apt-get indextargets --format '$(CREATED_BY)|$(CODENAME)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)' |
    awk -F'|' '$1 == "Packages" && ($2 ~ /^bookworm-security/ || $3 ~ /^bookworm-security/) && $4 == "main" {print $5; exit}'
}

# use_suites SUITE...: a private apt configuration for these suites, in the array `apt_options`. /etc/apt and
# /var/lib/apt stay as they are. The package lists are kept in the cache and fetched when they are a day old.
use_suites() {
  local suite mirror security place
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  mirror=$(debian_mirror)
  security=$(debian_security_mirror)
  place=$cache/apt-$(recipe_key "$*" "$mirror")
  mkdir -p "$place/lists/partial" "$place/archives/partial" "$place/none"
  for suite; do
    case $suite in
      *-security) [[ -z $security ]] || echo "deb [signed-by=$keyring] $security $suite main" ;;
      *) echo "deb [signed-by=$keyring] $mirror $suite main" ;;
    esac
  done >"$place/sources.list"
  apt_options=(-o Dir::Etc::sourcelist="$place/sources.list" -o Dir::Etc::sourceparts=- -o Dir::Etc::preferencesparts="$place/none"
    -o Dir::Etc::preferences=/dev/null -o Dir::State::Lists="$place/lists" -o Dir::Cache="$place"
    -o Dir::Cache::archives="$place/archives" -o Acquire::Languages=none -o Acquire::Retries=3
    -o Acquire::http::Timeout=60 -o APT::Sandbox::User=root -o APT::Default-Release=)
  (
    flock -w 600 8 || fail "$place is in use for 10 minutes"
    if [[ -z $(find "$place/fetched" -mtime -1 2>/dev/null) ]]; then
      apt-get "${apt_options[@]}" -qq update >&2 || fail "apt-get update failed for: $*"
      touch "$place/fetched"
    fi
  ) 8>"$place/lock"
}

# depends_on PACKAGE PATTERN: the first dependency of PACKAGE that matches the extended regular expression.
depends_on() {
  local found
  found=$(apt-cache "${apt_options[@]}" depends "$1" | awk -v p="^($2)\$" '$1 == "Depends:" && $2 ~ p {print $2; exit}')
  [[ -n $found ]] || fail "package $1 depends on nothing like $2"
  echo "$found"
}

# unpack_packages DIR PACKAGE[=VERSION]...: downloads and unpacks, without installing or running anything of them.
unpack_packages() {
  local target=$1 downloads deb
  shift
  downloads=$(mktemp -d "$cache/.debs-XXXXXX")
  (cd "$downloads" && apt-get "${apt_options[@]}" -qq download "$@") >&2 ||
    { rm -rf "$downloads"; fail "cannot download: $*"; }
  mkdir -p "$target"
  for deb in "$downloads"/*.deb; do
    dpkg-deb -x "$deb" "$target" || fail "cannot unpack $deb"
  done
  rm -rf "$downloads"
}
