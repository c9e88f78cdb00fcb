#!/usr/bin/env bash
# Builds the Debian package podd of what `make install` installs.
# Usage: dist/deb.sh DIRECTORY VERSION
# VERSION is what git describe says; without a tag it becomes one that is older
# than any release. Needs dpkg-deb; lintian has its say when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "$1" && cd "$1" && pwd)
epoch=$(git log -1 --format=%ct)
case $2 in
v[0-9]*) version=${2#v} version=${version//-/+} ;;
*) version="0~$(date -u -d "@$epoch" +%Y%m%d).${2//-/.}" ;;
esac
arch=$(go env GOARCH)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
umask 022

make --no-print-directory install DESTDIR="$tree" PREFIX=/usr ZSHDIR=vendor-completions >/dev/null
doc=$tree/usr/share/doc/podd
mkdir -p "$doc" "$tree/usr/share/lintian/overrides" "$tree/DEBIAN"
install -m 0644 dist/debian/lintian-overrides "$tree/usr/share/lintian/overrides/podd"
{
  printf 'podd (%s) unstable; urgency=medium\n\n' "$version"
  sed -n 's/^\* /  * /p; s/^  \([^ ]\)/    \1/p' CHANGELOG.md | fold -s -w 76 | sed 's/^\([^ ]\)/    \1/'
  printf '\n -- The podd authors <podd@localhost.localdomain>  %s\n' "$(date -u -R -d "@$epoch")"
} | gzip -9n >"$doc/changelog.gz"
install -m 0644 dist/debian/copyright "$doc/copyright"
gzip -9n "$tree"/usr/share/man/man1/*.1
find "$tree" -exec touch -h -d "@$epoch" {} +

sed -e "s/@version@/$version/" -e "s/@arch@/$arch/" -e "s/@size@/$(du -sk --exclude=DEBIAN "$tree" | cut -f1)/" dist/debian/control >"$tree/DEBIAN/control"
install -m 0755 -t "$tree/DEBIAN" dist/debian/{postinst,prerm,postrm}
(cd "$tree" && find usr -type f -printf '%P\0' | sort -z | sed -z 's|^|usr/|' | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
chmod 0644 "$tree/DEBIAN/md5sums" "$tree/DEBIAN/control"
deb=$out/podd_${version}_$arch.deb
rm -f "$out"/podd_*_"$arch".deb
SOURCE_DATE_EPOCH=$epoch dpkg-deb --root-owner-group -Zxz --build "$tree" "$deb" >/dev/null
echo "built ${deb#"$PWD/"}, $(du -h "$deb" | cut -f1)"
if command -v lintian >/dev/null; then
  lintian --allow-root --fail-on error,warning --display-info "$deb"
fi
