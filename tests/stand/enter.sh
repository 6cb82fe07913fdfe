#!/bin/sh
# Become a container's process: enter.sh ROOT UID FROM TO ro|rw … -- COMMAND …
# The root is empty and read-only but for what is mounted; nobody in it has any capability. In user and mount
# namespaces of its own already (unshare --user --map-root-user --mount).
set -e
root=$1 user=$2
shift 2
mount -t tmpfs -o mode=755 pod "$root"
while [ "$1" != -- ]; do
  to=$root$2
  if [ -d "$1" ]; then mkdir -p "$to"; else [ -e "$to" ] || { mkdir -p "${to%/*}"; : > "$to"; }; fi
  mount --rbind "$1" "$to"
  [ "$3" = rw ] || mount -o remount,bind,ro "$to"
  shift 3
done
shift
mkdir "$root/.host"
mount -o remount,ro "$root"
cd "$root"
pivot_root . .host
umount -l /.host
exec unshare --user --map-user="$user" --map-group="$user" -- "$@"
